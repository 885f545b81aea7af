"""InFeR, initial feature regularisation (Lyle et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.optim import Optimizer

from nap.graph import Flow, Kind, NormalizedActivation, ParameterSpec, hidden_units, trace
from plasticity.features import Kept
from plasticity.method import SEED, Batch, Features, Method, check_number, check_whole, make_generator

MODULE = "infer_heads"


class Heads(nn.Module):
    """Linear outputs on the features in front of a network's output, [B, width] -> [B, count], by `predict`.

    The network owns the parameters and never calls the module, but a Sequential does: it passes its input on.
    """

    def __init__(self, width: int, count: int, generator: torch.Generator):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width, device=generator.device))
        self.bias = nn.Parameter(torch.empty(count, device=generator.device))
        self.parameter_spec = ParameterSpec(draw=_draw)
        self.load_state_dict(_draw(self, generator))

    def forward(self, x: Tensor) -> Tensor:
        return x

    def predict(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias)


class InFeR(Method):
    """Regress random heads on the features to what they gave at initialisation.

    Adds strength times the mean, over heads and inputs, of (g(x; θ) − scale · g(x; θ₀))². The `heads` linear outputs g
    on the features in front of the network's output layers learn too; θ₀ are all weights and heads at `attach`. With a
    dueling head the features of both streams are one vector; behind a pooling they are means over space. The fp32 copy
    of the network that computes g(x; θ₀) has no noise. The target network is left alone.

    Source: arXiv 2204.09560. The authors' code is not public: the mean over heads, where the paper has their sum, and
    the values (its k = 10, β = 175) are those of the port timoklein/infer, for double DQN on Atari.
    """

    def __init__(self, strength: float = 0.05, scale: float = 175.0, heads: int = 10, seed: int = SEED):
        self.strength = check_number("infer: strength", strength)
        self.scale = check_number("infer: scale", scale)
        self.heads = check_whole("infer: heads", heads, low=1, high=10_000)
        self.seed = check_whole("infer: seed", seed)
        self.wants_features = not self.is_off

    @property
    def is_off(self) -> bool:
        return not self.strength

    def prepare(self, network: nn.Module) -> None:
        """Give the network the heads; ValueError, with the reason, if its output follows no nonlinearities."""
        if not self.is_off:
            width = sum(width for _, width in read_features(network))
            network.add_module(MODULE, Heads(width, self.heads, make_generator(network, self.seed)))

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        if self.is_off:
            return
        self._present = _heads_of(network)
        self._read = read_features(network)
        self._network = deepcopy(network).requires_grad_(False).eval()
        self._first = _heads_of(self._network)
        self._kept = Kept()
        self._kept.hook(self._network, in_loss=False)

    def batch_penalty(self, batch: Batch) -> Tensor | None:
        if self.is_off:
            return None
        self._network(batch.inputs)
        assert self._kept.features is not None
        goal = self.scale * self._first.predict(self._joined(self._kept.features))
        return self.strength * F.mse_loss(self._present.predict(self._joined(batch.features)), goal)

    def _joined(self, features: Features) -> Tensor:
        return torch.cat([_flat([features[name] for name in names], width) for names, width in self._read], 1)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.is_off else {"first": dict(self._network.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not self.is_off:
            self._network.load_state_dict(state["first"])


def read_features(network: nn.Module) -> list[tuple[tuple[str, ...], int]]:
    """The nonlinearities that each output layer reads, by module name, and how many inputs the layer has.

    Output layers that read the same ones count once. Raises ValueError if one reads anything else.
    """
    outputs = hidden_units(network).outputs
    flow = trace(network).flows[0]
    names = {part: name for name, part in network.named_modules()}
    names |= {part.activation: name for part, name in list(names.items()) if isinstance(part, NormalizedActivation)}
    found: dict[tuple[str, ...], int] = {}
    for title, layer in outputs.items():
        for call in flow.calls(layer):
            sources = list(_sources(flow, call.all_input_nodes[0]))
            if wrong := [flow.place(node) for node, known in sources if not known]:
                what = f"output layer {title} of {type(network).__name__} reads {wrong[0]}"
                raise ValueError(f"infer: the {what}, and no nonlinearity that is a module")
            found[tuple(names[flow.modules[node]] for node, _ in sources)] = layer.get_parameter("weight").shape[1]
    if not found:
        raise ValueError(f"infer: {type(network).__name__} has no output layer that follows a nonlinearity")
    return list(found.items())


def _sources(flow: Flow, node: fx.Node) -> Iterator[tuple[fx.Node, bool]]:
    """The nodes that a value comes from, seen through reshapes, pooling and concatenation: is it a nonlinear module?"""
    if flow.kind(node) in (Kind.SAME, Kind.RESHAPE) or flow.name_of(node) == "cat":
        for source in node.all_input_nodes:
            if flow.kind(source) is not Kind.SHAPE:
                yield from _sources(flow, source)
    else:
        yield node, flow.kind(node) is Kind.NONLINEAR and node in flow.modules


def _flat(features: list[Tensor], width: int) -> Tensor:
    """Features [B, units, ...] as [B, width]: flattened, or as means over space if that gives the width."""
    flat = torch.cat([h.flatten(1) for h in features], 1)
    pooled = flat.shape[1] != width
    return (torch.cat([h.flatten(2).mean(2) for h in features], 1) if pooled else flat).float()


def _heads_of(network: nn.Module) -> Heads:
    found = network.get_submodule(MODULE)
    assert isinstance(found, Heads)
    return found


def _draw(layer: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Uniform within ±1/√width, as torch draws a linear layer."""
    bound = 1 / math.sqrt(layer.get_parameter("weight").shape[1])
    own = layer.named_parameters(recurse=False)
    return {name: torch.empty_like(value).uniform_(-bound, bound, generator=generator) for name, value in own}
