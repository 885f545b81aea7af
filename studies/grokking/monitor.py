"""Measurements at every interval of a run: accuracies on all pairs, learning rates, norms, features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nap
from studies.grokking.constraints import global_norm
from studies.grokking.data import Task
from studies.grokking.learner import Learner
from studies.grokking.model import Transformer

CHUNK = 1024
PROBE_PAIRS = 256
METRICS = ("erank_roy", "covariance_change", "pattern_change")


class Monitor:
    """Measures a learner without changing it.

    Accuracies and losses are exact, over all training and all test pairs; a loss here is the cross-entropy of softmax,
    whatever --loss is. Features are those of `PROBE_PAIRS` training
    pairs, drawn once, and so are the gradients of their loss; changes are since the previous row. Everything is
    computed in fp32.
    """

    def __init__(self, learner: Learner, task: Task, seed: int) -> None:
        self.learner, self.task = learner, task
        order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed))
        chosen = task.train[order[:PROBE_PAIRS].to(task.train.device)]
        self.pairs, self.answers = task.pairs[chosen], task.answers[chosen]
        layers = ["activation", "output"] if isinstance(learner.model, Transformer) else ["activation1", "activation2"]
        self.probe = nap.Probe(learner.model, self.pairs, METRICS, layers)
        self.activations = [layer for layer in layers if layer != "output"]

    def row(self) -> dict[str, Any]:
        """All metrics by name, as numbers."""
        model, optimizer = self.learner.model, self.learner.optimizer
        measured: dict[str, Any] = {"update": self.learner.updates, "lr": optimizer.param_groups[0]["lr"]}
        measured |= self.learner.schedule.metrics()
        measured |= accuracies(model, self.task)
        measured |= {f"elr/{name}": value for name, value in nap.effective_lr(model, optimizer).items()}
        measured |= {f"norm/{name}": value for name, value in nap.weight_norms(model).items()}
        measured["global_norm"] = global_norm(model.parameters())
        measured |= self.probe.measure()
        measured |= nap.dormant_by_gradient(model, self.pairs, self._loss, self.activations)
        if isinstance(model, Transformer):
            with torch.no_grad():
                measured["attention_entropy"] = model.attention_entropy(self.pairs)
        scales = {name: part for name, part in model.named_modules() if isinstance(part, nn.RMSNorm)}
        measured |= {f"scale/{name}": part.weight.detach().square().mean().sqrt() for name, part in scales.items()}
        return {name: float(value) if isinstance(value, Tensor) else value for name, value in measured.items()}

    def _loss(self, logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, self.answers)

    def state_dict(self) -> dict[str, Any]:
        """The values that the next row's changes are measured from."""
        return self.probe.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.probe.load_state_dict(state)


@torch.no_grad()
def accuracies(model: nn.Module, task: Task) -> dict[str, float]:
    """Accuracy and mean cross-entropy on all training and all test pairs."""
    correct, losses = [], []
    for pairs, answers in zip(task.pairs.split(CHUNK), task.answers.split(CHUNK), strict=True):
        logits = model(pairs)
        correct.append(logits.argmax(-1) == answers)
        losses.append(F.cross_entropy(logits, answers, reduction="none"))
    right, loss = torch.cat(correct).double(), torch.cat(losses).double()
    parts = {"train": task.train, "test": task.test}
    found = {f"{part}_accuracy": float(right[chosen].mean()) for part, chosen in parts.items()}
    return found | {f"{part}_loss": float(loss[chosen].mean()) for part, chosen in parts.items()}
