"""The outputs of a network's nonlinearities, caught in the pass that the loss makes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nap.graph import feature_layers
from plasticity.method import Method


class FeatureTap:
    """Keeps what the nonlinearities of a network gave in its last pass with gradients, detached, by module name.

    Forward hooks collect the features, and torch.compile traces them: features become outputs of the loss's graph.
    Passes without gradients (acting, bootstrapping, probes) do not change `features`. Create this object after copies
    of the network, since a copy would have the hooks too. If no method wants features, nothing is hooked and `features`
    is None.
    """

    def __init__(self, network: nn.Module, methods: Sequence[Method]):
        self.features: dict[str, Tensor] | None = None
        if any(method.wants_features for method in methods):
            layers = feature_layers(network)
            self.features = dict.fromkeys(layers, torch.empty(0))  # the keys are there: new ones would compile it again
            for name, (module, _) in layers.items():
                module.register_forward_hook(partial(self._keep, name))

    def _keep(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        if torch.is_grad_enabled() and isinstance(output, Tensor):  # a tracer's stand-in is no tensor
            assert self.features is not None
            self.features[name] = output.detach()
