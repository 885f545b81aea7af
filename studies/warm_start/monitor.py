"""Measurements at every interval of a run: accuracies, learning rates, norms, features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import nap
from experiment.results import Row
from studies.warm_start.data import prepare
from studies.warm_start.learner import Learner

PROBE_IMAGES = 256
METRICS = ("erank_roy", "srank_kumar", "dormant_sokar", "dead_units", "covariance_change", "pattern_change")


class Monitor:
    """Measures a learner without changing it.

    Test accuracy and loss are over all test images, those of training over the batches since the previous row, without
    penalties. Features are those of `PROBE_IMAGES` test images, drawn once, in fp32, and so are the gradients of their
    loss; changes are since the previous row.
    """

    def __init__(self, learner: Learner, seed: int) -> None:
        self.learner = learner
        images = learner.data.test_images
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).to(images.device)
        batch = prepare(images[order[:PROBE_IMAGES]], *learner.statistics)
        self.labels = learner.data.test_labels[order[:PROBE_IMAGES]]
        self.probe = nap.Probe(learner.model, batch, METRICS)
        self.before = (0.0, 0, 0)

    def row(self) -> Row:
        """All metrics by name, as numbers."""
        learner = self.learner
        accuracy, loss = learner.test()
        measured: dict[str, Any] = {
            "update": learner.updates,
            "phase": learner.phase,
            "lr": learner.optimizer.param_groups[0]["lr"],
            "test_accuracy": accuracy,
            "test_loss": loss,
        }
        measured |= self._training()
        found = learner.schedule.metrics()
        measured |= {"alarms" if name == "rewarms" else name: value for name, value in found.items()}
        measured |= {f"elr/{name}": value for name, value in nap.effective_lr(learner.model, learner.optimizer).items()}
        norms = nap.weight_norms(learner.model)
        measured |= {f"norm/{name}": value for name, value in norms.items()}
        measured["global_norm"] = torch.stack(list(norms.values())).norm()
        measured |= self.probe.measure()
        with learner.tap.paused():
            measured |= nap.dormant_by_gradient(learner.model, self.probe.batch, self._loss)
        return {name: float(value) if isinstance(value, Tensor) else value for name, value in measured.items()}

    def _loss(self, logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, self.labels)

    def _training(self) -> Row:
        """Accuracy and loss of the batches since the previous row; None without any."""
        now = (float(self.learner.loss_sum), int(self.learner.correct), self.learner.seen)
        loss, correct, images = (new - old for new, old in zip(now, self.before, strict=True))
        self.before = now
        return {
            "train_accuracy": correct / images if images else None,
            "train_loss": loss / images if images else None,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"probe": self.probe.state_dict(), "before": list(self.before)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.probe.load_state_dict(state["probe"])
        self.before = tuple(state["before"])
