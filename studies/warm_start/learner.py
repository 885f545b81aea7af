"""One update of the network with schedule, optimiser and methods, and the change of the data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nap
from experiment.config import ConfigError
from experiment.layout import compiled, memory_format
from experiment.muon import Muon, with_muon
from experiment.part import as_mistake, build_part
from plasticity.features import FeatureTap
from plasticity.method import Method, zero_moments
from studies.signal import LossSignal
from studies.warm_start.config import CLOSED_LOOP, EARLY_CYCLE, WarmStartConfig
from studies.warm_start.data import Dataset, Sampler, augment, channel_statistics, prepare
from studies.warm_start.protocols import Protocol

RATES_INTERVAL = 100
"""Updates between looks at the weights from which the rates of even-ratio follow."""

# under autocast a norm has a bf16 input and an fp32 scale, which is what is wanted
warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")


class Learner:
    """A network that learns images in phases; `update` is one step of the optimiser and what follows it.

    `model` is the network after the methods' `prepare`; `loss_sum`, `correct` and `seen` count all training so far.
    """

    def __init__(
        self,
        config: WarmStartConfig,
        data: Dataset,
        protocol: Protocol,
        model: nn.Module,
        methods: Sequence[Method],
        seed: int,
    ) -> None:
        self.config, self.data, self.protocol, self.methods = config, data, protocol, tuple(methods)
        self.memory_format = memory_format(model)
        self.model = model.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        device = data.train_images.device
        self.statistics = channel_statistics(data.train_images)
        self.optimizer = make_optimizer(config, model, device)
        self.schedule = make_schedule(config, self.optimizer)
        with as_mistake("--plasticity"):
            for method in self.methods:
                method.attach(model, None, self.optimizer)
            self.tap = FeatureTap(model, self.methods)
        self.initial = {name: value.clone() for name, value in model.state_dict().items()}
        self.generator = torch.Generator(device).manual_seed(seed)
        self.updates = self.phase = self.phase_began = self.restarts = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.seen = 0
        self.signal = LossSignal(self.schedule, device)
        self._pass = (0, 0)
        self.phase_over = False
        self.sampler = self._sampler()
        self._loss = compiled(self.loss, model) if config.compile else self.loss
        self._logits = compiled(self.logits, model) if config.compile else self.logits

    def logits(self, images: Tensor) -> Tensor:
        """Images uint8 [B, C, H, W] to logits [B, classes], float32."""
        return self._forward(self._inputs(images))

    def _inputs(self, images: Tensor) -> Tensor:
        return prepare(images, *self.statistics).contiguous(memory_format=self.memory_format)

    def _forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.model(inputs).float()

    def loss(self, images: Tensor, labels: Tensor, reference: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The loss: cross-entropy plus the methods' penalties; the cross-entropy alone; the number of right answers.

        reference: other images, if a method wants them.
        """
        inputs = self._inputs(images)
        logits = self._forward(inputs)
        error = F.cross_entropy(logits, labels)
        total = self.tap.penalised(error, inputs, None if reference is None else self._inputs(reference))
        return total, error.detach(), (logits.argmax(-1) == labels).sum()

    def prepare(self) -> None:
        """Compiles the loss. Does not change the state of the run."""
        size = self.config.batch_size
        chosen = torch.arange(size, device=self.data.train_images.device) % len(self.data.train_images)
        images = self.data.train_images[chosen]
        reference = images if self.tap.wants_reference else None
        self._loss(images, self.protocol.labels[chosen], reference)[0].backward()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self._logits(images)

    def update(self) -> None:
        """One update; its learning rate is the schedule's at the number of updates before it."""
        if self.phase_over:
            self._switch()
        self.schedule.move_to(self.updates)
        self._restart()
        images, labels = self.sampler.batch()
        images = self._augmented(images)
        reference = self._augmented(self.sampler.others()) if self.tap.wants_reference else None
        self.optimizer.zero_grad()
        loss, error, correct = self._loss(images, labels, reference)
        loss.backward()
        self.optimizer.step()
        self.updates += 1
        for method in self.methods:
            method.after_update(self.updates, self.tap.features)
        self._count(error, correct, len(labels))
        self._steer(error)
        self.phase_over = self._phase_is_over()

    def _augmented(self, images: Tensor) -> Tensor:
        if not self.config.augment:
            return images
        return augment(images, self.generator, flip=self.config.dataset == "cifar10")

    def _count(self, error: Tensor, correct: Tensor, images: int) -> None:
        self.loss_sum += error * images
        self.correct += correct
        self.seen += images

    def _steer(self, error: Tensor) -> None:
        """Runs the parts that read the device at intervals: a closed-loop schedule, rates that follow the weights."""
        self.signal.note(self.updates, error)
        if self.updates % RATES_INTERVAL == 0:
            self._refresh_rates()

    def _refresh_rates(self) -> None:
        if self.config.rates == "even-ratio":
            nap.refresh_rates(self.model, self.optimizer, self.schedule)

    @property
    def finished(self) -> bool:
        """Whether the last phase is over."""
        return self.phase_over and self.phase == self.config.phases - 1

    def _phase_is_over(self) -> bool:
        assert self.config.phase_updates is not None
        trained = self.updates - self.phase_began
        return trained >= self.config.phase_updates or self._learned_enough(trained)

    def _learned_enough(self, trained: int) -> bool:
        """Whether a pass through the phase's images ends here with the training accuracy that ends the phase."""
        enough = self.protocol.enough
        updates = -(-len(self.protocol.phases[self.phase]) // self.config.batch_size)
        if enough is None or trained % updates:
            return False
        correct, seen = self._pass
        self._pass = (int(self.correct), self.seen)
        return self._pass[0] - correct >= enough * (self._pass[1] - seen)

    def _switch(self) -> None:
        """The data change: the next phase begins."""
        self.phase, self.phase_began, self.phase_over = self.phase + 1, self.updates, False
        self._pass = (int(self.correct), self.seen)
        self.sampler = self._sampler()
        if self.config.at_switch != "warm":
            zero_moments(self.optimizer, self.model.parameters(), step=True)
        if self.config.at_switch == "cold":
            self.model.load_state_dict(self.initial)
            self._refresh_rates()
        if self.phase == 1 and self.config.later_peak != 1:
            self.schedule.set_peaks([peak * self.config.later_peak for peak in self.schedule.peaks])
        for method in self.methods:
            method.task_changed(self.updates)

    def _restart(self) -> None:
        """Clears Adam's moments if the rate was restarted since the last update and the settings say so."""
        before, self.restarts = self.restarts, self.schedule.restarts()
        if self.restarts > before and self.config.restart_moments:
            zero_moments(self.optimizer, self.model.parameters(), step=True)

    def _sampler(self) -> Sampler:
        indices = self.protocol.phases[self.phase]
        size = self.config.batch_size
        return Sampler(self.data.train_images, self.protocol.labels, indices, size, self.generator)

    @torch.no_grad()
    def test(self) -> tuple[float, float]:
        """Accuracy and mean cross-entropy on all test images."""
        size = self.config.batch_size
        totals = torch.zeros(2, dtype=torch.float64, device=self.data.test_images.device)
        for images, labels in zip(self.data.test_images.split(size), self.data.test_labels.split(size), strict=True):
            logits = (self._logits if len(images) == size else self.logits)(images)
            right = (logits.argmax(-1) == labels).sum()
            totals += torch.stack([right, F.cross_entropy(logits, labels, reduction="sum")])
        accuracy, loss = (totals / len(self.data.test_labels)).tolist()
        return accuracy, loss

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "methods": [method.state_dict() for method in self.methods],
            "sampler": self.sampler.state_dict(),
            "signal": self.signal.state_dict(),
            "restarts": self.restarts,
            "data": self.data.fingerprint,
            "totals": {"loss_sum": self.loss_sum, "correct": self.correct},
            "counts": [self.updates, self.phase, self.phase_began, self.seen, *self._pass, int(self.phase_over)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, into the existing tensors. ConfigError if it learned from other data."""
        if state["data"] != self.data.fingerprint:
            raise ConfigError(f"{self.data.name} is not what the run has learned from: give it the images that it had")
        self.model.load_state_dict(state["model"])
        nap.load_optimizer_state(self.optimizer, state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        for method, saved in zip(self.methods, state["methods"], strict=True):
            method.load_state_dict(saved)
        self.updates, self.phase, self.phase_began, self.seen, correct, seen, over = state["counts"]
        self._pass, self.phase_over = (correct, seen), bool(over)
        self.restarts = state["restarts"]
        self.sampler = self._sampler()
        self.sampler.load_state_dict(state["sampler"])
        self.signal.load_state_dict(state["signal"])
        for own, name in ((self.loss_sum, "loss_sum"), (self.correct, "correct")):
            own.copy_(state["totals"][name])

    def forked_counts(self, counts: list[int], phase_updates: int | None) -> list[int]:
        """The counts of a saved learner, whose phases had so many updates, where a fork takes it over.

        Raises ConfigError if the phase has more updates already than the fork's may have.
        """
        updates, _, began, *_, over = counts
        trained, most = updates - began, self.config.phase_updates
        assert most is not None
        assert phase_updates is not None
        if trained > most:
            raise ConfigError(f"--phase-updates {most}: the phase has {trained} already at the step to fork")
        early = bool(over) and trained < phase_updates
        return [*counts[:-1], int(early or trained == most)]


def make_optimizer(config: WarmStartConfig, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser with the rates of the settings; each group's rate is one tensor for life."""
    lr = torch.tensor(config.lr, device=device)
    groups = nap.param_groups(model, lr, rates=config.rates)
    if config.optimizer == "muon":
        return Muon(with_muon(groups, model), lr)
    return torch.optim.Adam(groups, lr=lr, fused=True)


def make_schedule(config: WarmStartConfig, optimizer: torch.optim.Optimizer) -> nap.Schedule:
    """The learning rate over the budget of updates."""
    if ":" in config.schedule:
        return build_part("schedule", config.schedule, nap.Schedule, optimizer, config.budget)
    options: dict[str, Any] = {} if config.schedule == "constant" else {"floor": config.lr_floor}
    if config.schedule in ("cyclic", *EARLY_CYCLE):
        options["cycles"] = config.cycles
    if config.schedule == "cyclic":
        options |= {"warmup": config.lr_warmup, "first_warmup": config.first_warmup}
    if config.schedule in EARLY_CYCLE:
        options |= {"cycle_fraction": config.cycle_fraction, "anneal": config.anneal}
    if config.schedule == "early-cycle-plateau":
        options |= {"mode": "min", "signal": "loss"}
    if config.schedule == "delayed-cosine":
        options |= {"delay": config.lr_delay, "warmup": config.lr_warmup}
    if config.schedule in CLOSED_LOOP:
        options |= {"cycle_steps": config.restart, "threshold": config.rewarm_threshold}
        options |= {"warmup": config.lr_warmup, "first_warmup": config.first_warmup}
    return nap.make_schedule(config.schedule, optimizer, config.budget, **options)
