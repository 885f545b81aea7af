"""Plasticity injection (Nikishin et al. 2023)."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nap.graph import hidden_units
from plasticity.layers import choose_layers, draw_network
from plasticity.method import SEED, Features, Method, check_period, check_whole, make_generator, zero_moments


class InjectedHead(nn.Module):
    """frozen(x) + (learned(x) − fresh(x)): a head with two frozen copies of itself.

    The copies start with output layers of zeros and add exactly zero. Right after the injection `learned` and `fresh`
    have the same weights, so their difference is exactly zero and the output is that of `frozen`, the old head. The
    copies stay in eval mode: their noisy layers use the mean, so only `learned` adds noise.
    """

    def __init__(self, head: nn.Module):
        super().__init__()
        self.learned = head
        self.frozen, self.fresh = _silent_copy(head).eval(), _silent_copy(head).eval()

    def train(self, mode: bool = True) -> InjectedHead:
        self.training = mode
        self.learned.train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + (self.learned(x) - self.fresh(x))

    @torch.no_grad()
    def inject(self, weights: dict[str, Tensor]) -> None:
        """Freeze the learned head and continue from fresh weights, all in place."""
        learned, frozen, fresh = (dict(part.named_parameters()) for part in (self.learned, self.frozen, self.fresh))
        for name, value in weights.items():
            frozen[name].copy_(learned[name])
            learned[name].copy_(value)
            fresh[name].copy_(value)


class PlasticityInjection(Method):
    """Freeze the head once, learn a fresh one next to it.

    Q = h_θ(z) + h_θ'₁(z) − h_θ'₂(z) from update `at` on, z being the encoder's output: θ is frozen as learned so far,
    θ'₁ and θ'₂ are the same fresh weights. Only θ'₁ learns on; the encoder learns through all three branches. The
    outputs do not change at the injection: bit for bit if the passes of θ'₁ and θ'₂ are computed alike. All branches
    exist from `prepare` on (three passes of the head). The parameters that learned θ then learn θ'₁ and keep their
    moments, unless `reset_moments` sets these and their step counts to 0. The target network is injected with the same
    fresh weights and keeps its outputs too. The frozen copies are removed from the optimiser, so that its decay does
    not change them.

    head: the name of the submodule that is the head; none: from the first linear layer on, in an `nn.Sequential` or a
        network head(torso(x)) whose torso is one. These layers then move into the head, and their names change.
    Source: arXiv 2305.15555, eq. 1: Double DQN on Atari, once, at 50 M frames (from memory), or 3,125,000 updates
    at one in 16 frames: the default. A shorter run needs another value. Moments stay because a PyTorch port reports
    that a reset hurt in the paper's ablation; we could not read the paper itself.
    """

    def __init__(self, at: float = 3_125_000, head: str | None = None, reset_moments: bool = False, seed: int = SEED):
        self.at = check_period("injection: at", at)
        self.head, self.reset_moments = head, reset_moments
        self.seed = check_whole("injection: seed", seed)
        self._path = ""
        self._heads: list[InjectedHead] = []

    @property
    def is_off(self) -> bool:
        return self.at == math.inf

    def prepare(self, network: nn.Module) -> None:
        """Put the branches in; ValueError for a network whose head cannot be found or re-initialised."""
        if not self.is_off:
            self._path = _install(network, self.head)
            _draw(self._head_of(network).learned, make_generator(network, 0))

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        """Freeze the copies, also if other methods changed them, and remove them from the optimiser."""
        if self.is_off:
            return
        networks = [part for part in (network, target) if part is not None]
        self._heads = [self._head_of(part) for part in networks]
        own = self._heads[0]
        frozen = {*own.frozen.requires_grad_(False).parameters(), *own.fresh.requires_grad_(False).parameters()}
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if parameter not in frozen]
        self._optimizer = optimizer

    def after_update(self, update: int, features: Features | None = None) -> None:
        if not self._heads or update != self.at:
            return
        learned = self._heads[0].learned
        weights = _draw(learned, make_generator(learned, self.seed))
        for head in self._heads:
            head.inject(weights)
        if self.reset_moments:
            zero_moments(self._optimizer, learned.parameters(), step=True)

    def _head_of(self, network: nn.Module) -> InjectedHead:
        found = network.get_submodule(self._path)
        assert isinstance(found, InjectedHead)
        return found


def _draw(head: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    return draw_network(head, choose_layers(head, ["all"]), generator)


def _silent_copy(head: nn.Module) -> nn.Module:
    copy = deepcopy(head).requires_grad_(False)
    for layer in hidden_units(copy).outputs.values():
        for parameter in layer.parameters():
            parameter.zero_()
    return copy


def _install(network: nn.Module, name: str | None) -> str:
    """Puts an `InjectedHead` in the place of a network's head; returns its name."""
    if name is not None:
        if name not in dict(network.named_modules()) or not name:
            raise ValueError(f"injection: {type(network).__name__} has no submodule {name!r} to be the head")
        network.set_submodule(name, InjectedHead(network.get_submodule(name)))
        return name
    torso = network if isinstance(network, nn.Sequential) else getattr(network, "torso", None)
    last = None if torso is network else getattr(network, "head", None)
    if not isinstance(torso, nn.Sequential) or not (torso is network or isinstance(last, nn.Module)):
        raise ValueError(f"injection: {type(network).__name__} is no Sequential, nor torso and head: name its head=")
    parts = list(torso)
    first = next((i for i, part in enumerate(parts) if isinstance(part, nn.Linear)), len(parts))
    head = InjectedHead(nn.Sequential(*parts[first:], *([] if last is None else [last])))
    del torso[first:]
    if torso is network:
        torso.append(head)
        return str(first)
    network.head = head
    return "head"
