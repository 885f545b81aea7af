"""One update of the network, and everything that acts on it: schedule, optimiser, gradient filter, projection."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import nap
from experiment.config import ConfigError
from experiment.layout import compiled
from experiment.muon import Muon, with_muon
from experiment.part import as_mistake, build_part
from plasticity.features import FeatureTap
from plasticity.method import Method
from studies.grokking.config import EARLY, GrokkingConfig
from studies.grokking.constraints import GlobalNorm, make_projection, norm_scales
from studies.grokking.data import Task
from studies.grokking.gradients import GradientEMA, orthogonalize
from studies.signal import LossSignal

# under autocast a norm has a bf16 input and an fp32 scale, which is what is wanted
warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")


class Learner:
    """A network that learns a task; `update` is one step of the optimiser and what follows it."""

    def __init__(
        self, config: GrokkingConfig, task: Task, model: nn.Module, seed: int, methods: Sequence[Method] = ()
    ) -> None:
        self.config, self.model, self.methods = config, model, tuple(methods)
        self.pairs, self.answers = task.pairs[task.train], task.answers[task.train]
        self.device = self.pairs.device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.projection = make_projection(config, model)
        projected = self.projection.names if self.projection else []
        inner = {name: parameter for name, parameter in model.named_parameters() if not name.startswith("head")}
        self.moved: list[Tensor] = [parameter for name, parameter in inner.items() if name in projected]
        own_rate = config.elr_of == "weights" or config.scale_lr is not None
        self.kept = norm_scales(model) if own_rate else []
        self.optimizer = make_optimizer(config, model, self.moved, self.kept)
        self.sphere = GlobalNorm(model, config.omnigrok_alpha) if config.optimizer == "omnigrok" else None
        with as_mistake("--plasticity"):
            for method in self.methods:
                method.attach(model, None, self.optimizer)
            self.tap = FeatureTap(model, self.methods)
        if self.tap.wants_reference and not config.batch_size:
            names = ", ".join(type(method).__name__ for method in self.methods if method.wants_reference)
            raise ConfigError(f"--batch-size 0 has all training pairs in each minibatch: {names} needs a second one")
        self._hooks: list[RemovableHandle] = []
        self._fix_updates()
        self.schedule = make_schedule(config, self.optimizer)
        self.signal = LossSignal(self.schedule, self.device)
        self.filter = GradientEMA(model, config) if config.optimizer == "grokfast-ema" else None
        self.updates = 0
        self._loss = compiled(self.loss, self.model) if config.compile else self.loss

    def _fix_updates(self) -> None:
        """Puts what hyperball hooks to the optimiser behind what the methods do."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = self.projection.fix_updates(self.optimizer) if self.projection else []

    def loss(self, pairs: Tensor, answers: Tensor, reference: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The mean loss of the settings plus the methods' penalties; that loss alone.

        reference: other pairs, if a method wants them.
        """
        logits = self._logits(pairs)
        error = F.cross_entropy(log_stablemax(logits) if self.config.loss == "stablemax" else logits, answers)
        return self.tap.penalised(error, pairs, reference), error.detach()

    def _logits(self, pairs: Tensor) -> Tensor:
        if self.config.precision == "fp32":
            return self.model(pairs)
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = self.model(pairs)
        return logits.float()

    def prepare(self) -> None:
        """Compiles the loss, if the settings say so. Does not change the state of the run."""
        if self.config.compile:
            size = self.config.batch_size or len(self.pairs)
            chosen = torch.arange(size, device=self.device) % len(self.pairs)
            pairs = self.pairs[chosen]
            self._loss(pairs, self.answers[chosen], pairs if self.tap.wants_reference else None)[0].backward()
            self.optimizer.zero_grad()

    def update(self) -> None:
        """One update; its learning rate is the schedule's at the number of updates before it."""
        self._set_rates()
        self.optimizer.zero_grad()
        pairs, answers = self._batch()
        loss, error = self._loss(pairs, answers, self._batch()[0] if self.tap.wants_reference else None)
        loss.backward()
        if self.filter:
            self.filter.apply()
        if self.config.orthogonal_gradient:
            orthogonalize(self.model.parameters())
        self.optimizer.step()
        self.updates += 1
        for method in self.methods:
            method.after_update(self.updates, self.tap.features)
        if self.projection:
            self._project(self.projection)
        if self.sphere:
            self.sphere.apply()
        self.signal.note(self.updates, error)

    def _batch(self) -> tuple[Tensor, Tensor]:
        if not self.config.batch_size:
            return self.pairs, self.answers
        shape = (self.config.batch_size,)
        chosen = torch.randint(len(self.pairs), shape, generator=self.generator, device=self.device)
        return self.pairs[chosen], self.answers[chosen]

    def lr(self) -> float:
        """The learning rate of the first group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def _set_rates(self) -> None:
        self.schedule.move_to(self.updates)
        elr, norm = self._factor(self.config.elr_end), self._factor(self.config.norm_end)
        kept = {id(scale) for scale in self.kept} if self.config.elr_of == "weights" else set()
        for group in self.optimizer.param_groups:
            own = 1.0 if id(group["params"][0]) in kept else elr
            if (factor := own * (norm if group["moved"] else 1)) != 1:
                group["lr"].mul_(factor)

    def _project(self, projection: nap.Projection) -> None:
        projection.step()
        if self.config.norm_end != 1 and self.updates % self.config.project_every == 0:
            with torch.no_grad():
                torch._foreach_mul_(self.moved, self._factor(self.config.norm_end))

    def _factor(self, end: float) -> float:
        """From 1 to `end`, geometrically over the budget."""
        return end ** min(self.updates / self.config.budget, 1.0)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "signal": self.signal.state_dict(),
            "methods": [method.state_dict() for method in self.methods],
            "projection": self.projection.state_dict() if self.projection else None,
            "filter": self.filter.averages if self.filter else None,
            "sphere": self.sphere.target if self.sphere else None,
            "generator": self.generator.get_state(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, into the existing tensors."""
        self.model.load_state_dict(state["model"])
        nap.load_optimizer_state(self.optimizer, state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.signal.load_state_dict(state["signal"])
        for method, saved in zip(self.methods, state.get("methods", ()), strict=True):  # there were none at first
            method.load_state_dict(saved)
        self._fix_updates()  # a method that a fork adds is attached by now
        if self.projection:
            self.projection.load_state_dict(state["projection"])
        if self.filter:
            self.filter.load(state["filter"])
        if self.sphere:
            self.sphere.target.copy_(state["sphere"])
        self.generator.set_state(state["generator"])
        self.updates = state["updates"]


def log_stablemax(logits: Tensor) -> Tensor:
    """ln s(x) with s(x) = x + 1 for x >= 0, else 1 / (1 - x): softmax of it is StableMax (arXiv 2501.04697).

    In float64, as its authors compute it.
    """
    x = logits.double()
    return torch.where(x < 0, -torch.log1p(-x.clamp(max=0)), torch.log1p(x.clamp(min=0)))


def make_optimizer(
    config: GrokkingConfig, model: nn.Module, moved: list[Tensor], kept: list[Tensor]
) -> torch.optim.Optimizer:
    """The optimiser with the decays of the settings; a group has `moved` parameters, `kept` ones, or others.

    kept: the norms' scales, if they have a rate of their own.
    """
    peak = torch.tensor(config.lr, device=next(model.parameters()).device)
    groups = nap.param_groups(
        model,
        peak,
        weight_decay=config.weight_decay,
        scale_decay=config.scale_decay if config.norm != "none" else 0.0,
    )
    sets = [{id(parameter) for parameter in chosen} for chosen in (moved, kept)]
    own = peak if config.scale_lr is None else torch.full_like(peak, config.scale_lr)
    split = [
        group | {"params": members, "lr": (own if kind[1] else group["lr"]).clone(), "moved": kind[0]}
        for group in groups
        for kind in ((True, False), (False, False), (False, True))
        if (members := [p for p in group["params"] if tuple(id(p) in chosen for chosen in sets) == kind])
    ]
    if config.optimizer == "muon":
        return Muon(with_muon(split, model), peak)
    return torch.optim.Adam(
        split,
        lr=peak,
        betas=(config.beta1, config.beta2),
        decoupled_weight_decay=not config.coupled_decay,
        fused=True,
    )


class Warmup(nap.Schedule):
    """A straight line from 0 to the peak over `warmup` steps, then the peak."""

    def __init__(self, optimizer: torch.optim.Optimizer, warmup: int) -> None:
        self.warmup = warmup
        super().__init__(optimizer, max(warmup, 1))

    def shape(self, step: int) -> float:
        return step / self.warmup if self.warmup else 1.0


def make_schedule(config: GrokkingConfig, optimizer: torch.optim.Optimizer) -> nap.Schedule:
    """The schedule of the settings; constant is a warm-up to the peak, and the peak from then on."""
    if ":" in config.schedule:
        return build_part("schedule", config.schedule, nap.Schedule, optimizer, config.budget)
    if config.schedule == "constant":
        return Warmup(optimizer, config.warmup)
    anneal = max(config.anneal, 1)
    if config.schedule == "rewarm":
        steps = config.delay + config.warmup + anneal
        times = {"delay": config.delay, "warmup": config.warmup, "anneal_steps": anneal}
        return nap.DelayedCosine(optimizer, steps, floor=config.final_lr, low=config.low_lr, **times)
    early = {"cycles": config.cycles, "cycle_fraction": EARLY, "anneal": "cosine"}
    kinds: dict[str, dict[str, Any]] = {
        "one-cycle": {"warmup_fraction": min(config.warmup / config.budget, 1.0)},
        "cyclic": {"cycles": config.cycles},
        "early-cycle": early,
        "early-cycle-cusum": early,
        "early-cycle-plateau": early | {"mode": "min", "signal": "loss"},
        "cusum": {"cycle_steps": config.warmup + anneal, "warmup": config.warmup},
        "page-hinkley": {"cycle_steps": config.warmup + anneal, "warmup": config.warmup},
    }
    options = kinds.get(config.schedule, {})
    return nap.make_schedule(config.schedule, optimizer, config.budget, floor=config.final_lr, **options)
