"""The agents of a fleet as one: a pass, an update and a projection of all members are one call each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from types import FunctionType, MethodType
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils import _pytree as pytree

from agents.dqn import DQN, Metrics
from agents.fleet.optimizer import StackedAdamW
from agents.fleet.stack import Stack
from agents.networks.convolution import PixelConv2d
from experiment.config import ConfigError
from experiment.layout import compiled
from plasticity.features import FeatureTap
from plasticity.method import Batch, EachMember, Method

OWN = ("act", "bootstrap", "backward", "update", "after_update", "sync_target", "state_dict", "load_state_dict")
"""Methods of `DQN` that an agent must not override: `FleetLearner` does their work, and keeps one agent's state."""


class FleetLearner:
    """N agents of the same settings, on stacked networks.

    Each agent goes on owning its network, target, optimiser, schedule, methods and generators: they are views of the
    stacked tensors, or act in place on them. Where a DQN takes [B] or [K, B], this takes [N, B] or [K, N, B].
    batched: whether one kernel computes a layer of all members, as a GPU does best; the default on a CPU is a kernel
        for each member, since its libraries are slow at many small convolutions in one call.
    Raises ConfigError, in one line, for settings, an agent or a method that cannot be stacked.
    """

    def __init__(self, agents: Sequence[DQN], compile: bool = False, batched: bool | None = None) -> None:
        first = agents[0]
        _check(first)
        self.agents = list(agents)
        on_cpu = next(first.network.parameters()).device.type == "cpu"
        self.batched = not on_cpu if batched is None else batched
        self.online = Stack([agent.online for agent in agents])
        self.target = Stack([agent.target for agent in agents])
        self.template = _template(first, self.batched)
        self._networks = _Networks(self.template.online, self.template.target)
        stacks = {"online": self.online, "target": self.target}
        self._tensors = {
            f"{part}.{name}": whole for part, stack in stacks.items() for name, whole in stack.tensors.items()
        }
        self.features: dict[str, Tensor] | None = None
        self.methods = [self._stacked(own) for own in zip(*(a.methods for a in agents), strict=True)]
        self.optimizer = StackedAdamW([agent.optimizer for agent in agents], self.online)
        computed = self.backward, self.target_outputs, self.greedy
        if compile:
            computed = tuple(compiled(own_code(one), first.network, fullgraph=False) for one in computed)  # type: ignore[assignment,arg-type]
        self._backward, self._forward, self._greedy = computed
        self._one_graph = compile and not first.noise.layers

    @torch.no_grad()
    def act(self, obs: Tensor, noise_for: Sequence[bool]) -> Tensor:
        """Greedy actions [N, E] for stacks [N, E, stack, H, W]; the members of `noise_for` draw new noise first."""
        for agent, wanted in zip(self.agents, noise_for, strict=True):
            if wanted:
                agent.noise.resample()
        return self._greedy(obs)

    def greedy(self, obs: Tensor) -> Tensor:
        return self._of_each(self._actions, obs)

    @torch.no_grad()
    def bootstrap(self, block: TensorDictBase) -> list[TensorDictBase]:
        """Minibatches [K, N, B] as a list, as `DQN.bootstrap` gives them: of K, or one less with a `lookahead`."""
        if self.template.augment is not None:
            parts = list(block.unbind(1))
            for agent, part in zip(self.agents, parts, strict=True):
                self.template.augment(part, agent.generator)
            block = torch.stack(parts, 1)  # type: ignore[assignment,arg-type]  # a stack of TensorDicts is one
        block = self.template.with_references(block)
        for agent in self.agents:
            agent.noise.resample()
        if not self._one_graph or len(block) > 1:
            block["target_next"] = self._forward(block["next_obs"])
        return list(block.unbind(0))

    def target_outputs(self, pixels: Tensor) -> Tensor:
        """What the target networks give for observations [K, N, B, ...]: [K, N, B, ...]."""
        return self._of_each(self._target_outputs, pixels, axis=1)

    def backward(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Metrics, dict[str, Tensor]]:
        """The losses of minibatches [N, B], their metrics and features; the gradients go into the stacked tensors.

        The sum of the members' losses has for each member's parameters the gradient of that member's loss.
        """
        loss, metrics, features = self._of_each(self._loss, tensors)
        total = loss.sum()
        batch = Batch(tensors["obs"], tensors.get("reference"), {}, loss.detach())
        for method in self.methods:
            for penalty in (method.penalty(), method.batch_penalty(batch)):
                if penalty is not None:
                    total = total + penalty
        total.backward()
        return loss.detach(), metrics, features

    def update(self, batch: TensorDictBase) -> list[Metrics]:
        """One optimiser step of each member on minibatches [N, B] from `bootstrap`; the metrics of each member."""
        for agent in self.agents:
            agent.noise.resample()
        self.online.zero_grad()
        loss, metrics, self.features = self._backward(dict(batch.items()))  # type: ignore[arg-type]  # no nested ones
        batch["losses"], batch["target_next"] = metrics.pop("losses"), metrics.pop("target_next")
        if (most := self.template.max_grad_norm) is not None:
            self.online.cut_gradients(most)
        columns = zip(*(values.unbind(0) for values in metrics.values()), strict=True)
        rows = [dict(zip(metrics, values, strict=True)) for values in columns]
        self._step(loss)
        self.after_update()
        return rows

    def whole(self, tensor: Tensor) -> Tensor:
        """The stacked tensor of a parameter of the first member's online network."""
        return self.online.whole(tensor)

    def outputs(self, inputs: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """What the online networks give for [N, B, ...]; `weights` are stacked ones in place of theirs, by name."""
        others = {f"online.{name}": whole for name, whole in (weights or {}).items()}
        with self.template.tap.paused():
            return self._of_each(self.template.online, inputs, others=others)

    def _of_each(
        self, compute: Callable[[Any], Any], given: Any, axis: int = 0, others: Mapping[str, Tensor] | None = None
    ) -> Any:
        """What a function of the template's networks gives for each member's tensors and its part of `given`.

        others: stacked tensors in place of the members', by name.
        """
        tensors = self._tensors | dict(others or {})
        member = lambda tensors, part: functional_call(self._networks, tensors, (compute, part))  # noqa: E731
        if self.batched:
            return vmap(member, in_dims=(0, axis), out_dims=axis)(tensors, given)
        pairs = zip(_unbound(tensors, 0), _unbound(given, axis), strict=True)
        return pytree.tree_map(lambda *values: torch.stack(values, axis), *(member(*pair) for pair in pairs))

    def _stacked(self, members: Sequence[Method]) -> Method:
        try:
            both = members[0].stacked(members, self)
            if not isinstance(both, EachMember):
                check_known(type(members[0]))
            return both
        except ValueError as error:
            raise ConfigError(f"--seeds: {error}") from None

    def _step(self, loss: Tensor) -> None:
        """The optimisers' steps, in one call where all have the same rate."""
        rates = {tuple(map(float, agent.schedule.get_last_lr())) for agent in self.agents}
        if self.template.skip is not None:
            self.online.share_gradients()
            for agent, own in zip(self.agents, loss, strict=True):
                agent.skip.look(own)  # type: ignore[union-attr]
        self.optimizer.step(together=len(rates) == 1 and self.template.skip is None)

    def after_update(self) -> None:
        """Run the methods in their order after the optimisers' steps."""
        for agent in self.agents:
            agent.updates += 1
        for method in self.methods:
            method.after_update(self.agents[0].updates, self.features)

    def sync_target(self) -> None:
        """Copy the online networks into the target networks."""
        self.target.copy_from(self.online)

    def _loss(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Metrics, dict[str, Tensor]]:
        """The loss of one member, as `DQN.backward` computes it, its metrics, and features if a method wants some."""
        agent = self.template
        batch = TensorDict(tensors, batch_size=tensors["action"].shape)
        if "target_next" not in tensors:
            with torch.no_grad():
                batch["target_next"] = agent.target(batch["next_obs"])
        loss, metrics = agent.loss(batch)
        return loss, metrics | {"target_next": batch["target_next"]}, dict(agent.tap.features or {})

    def _target_outputs(self, pixels: Tensor) -> Tensor:
        return self.template.target(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])

    def _actions(self, obs: Tensor) -> Tensor:
        return self.template.greedy(self.template.online, obs)


def _unbound(tensors: Any, axis: int) -> list[Any]:
    """The parts of stacked tensors, or of a dict of such, for one member after another."""
    leaves, structure = pytree.tree_flatten(tensors)
    parts = zip(*(leaf.unbind(axis) for leaf in leaves), strict=True)
    return [pytree.tree_unflatten(part, structure) for part in parts]


def check_known(kind: type[Method]) -> None:
    """Raises ValueError for a subclass whose base is stacked, and that adds what this knows nothing of."""
    known = next(base for base in kind.__mro__ if "stacked" in vars(base))
    for hook in ("penalty", "batch_penalty", "after_update"):
        if getattr(kind, hook) is not getattr(known, hook):
            raise ValueError(f"{kind.__name__} cannot be stacked: it overrides {hook} of {known.__name__}, not stacked")


def own_code(method: MethodType) -> MethodType:
    """The method with a code object of its own: torch keeps what it compiles by code, and little for each."""
    function = method.__func__
    own = FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, closure=function.__closure__
    )
    return MethodType(own, method.__self__)


class _Networks(nn.Module):
    """The networks of one agent, which compute with other tensors while `functional_call` runs."""

    def __init__(self, online: nn.Module, target: nn.Module) -> None:
        super().__init__()
        self.online, self.target = online, target

    def forward(self, compute: Callable[[Any], Any], given: Any) -> Any:
        return compute(given)


def _template(agent: DQN, batched: bool) -> DQN:
    """An agent that computes as this one does, on networks without values of their own, and without methods."""
    template = copy(agent)
    template.online, template.target = _bare(agent.online, batched), _bare(agent.target, batched)
    template.network = template.online
    template.tap = FeatureTap(template.online, agent.methods)
    template.methods = template.tap.methods = ()  # their penalties are added for all members at once
    return template


def _bare(network: nn.Module, batched: bool) -> nn.Module:
    """A copy without values and hooks, for passes of stacked networks."""
    bare = deepcopy(network).to("meta")
    for module in bare.modules():
        module._forward_hooks.clear()
        if isinstance(module, PixelConv2d):
            module.stacked = batched
    return bare


def _check(agent: DQN) -> None:
    kind = type(agent)
    if own := [name for name in OWN if getattr(kind, name) is not getattr(DQN, name)]:
        raise ConfigError(
            f"--seeds: {kind.__name__} overrides {own[0]}: in a fleet an agent overrides targets and loss alone"
        )
    if not agent.low_precision.is_original:
        raise ConfigError("--seeds: a fleet computes in fp32: leave out --precision bf16")
