"""The penalties of methods in a loss, and the features that they get: outputs of nonlinearities in the loss's pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nap.graph import feature_layers
from plasticity.method import Batch, Method

NOTHING = torch.empty(0)


class FeatureTap:
    """Keeps what the nonlinearities of a network gave in its last pass with gradients, detached, by module name.

    Forward hooks collect the features, and torch.compile traces them: features become outputs of the loss's graph.
    Passes without gradients (acting, bootstrapping, probes) and those that penalties make do not change `features`.
    Create this object after copies of the network, since a copy would have the hooks too. If no method wants features,
    nothing is hooked and `features` is None.

    wants_reference: whether a method wants a second minibatch, so that `penalised` needs one.
    """

    def __init__(self, network: nn.Module, methods: Sequence[Method]):
        self.methods = tuple(methods)
        self.wants_reference = any(method.wants_reference for method in methods)
        self._kept = Kept()
        if any(method.wants_features for method in methods):
            in_loss = any(method.wants_features and _reads_batch(method) for method in methods)
            self._kept.hook(network, in_loss)

    @property
    def features(self) -> dict[str, Tensor] | None:
        return self._kept.features

    def penalised(self, loss: Tensor, inputs: Tensor, reference: Tensor | None = None) -> Tensor:
        """A loss, which the network's pass on `inputs` made, plus the penalties of the methods in their order.

        reference: the inputs of a second minibatch, which recent updates did not learn from.
        Raises ValueError if a method wants a reference and there is none.
        """
        if self.wants_reference and reference is None:
            names = ", ".join(type(method).__name__ for method in self.methods if method.wants_reference)
            raise ValueError(f"{names}: the loss needs the inputs of a second minibatch: give penalised() a reference=")
        batch = Batch(inputs, reference, self._kept.take(), loss.detach())
        with self.paused():
            for method in self.methods:
                for penalty in (method.penalty(), method.batch_penalty(batch)):
                    if penalty is not None:
                        loss = loss + penalty
        return loss

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Passes with gradients inside change nothing here."""
        self._kept.is_on = False
        try:
            yield
        finally:
            self._kept.is_on = True


class Kept:
    """What the hooks keep; `attached` are features with their gradients, between the pass and the penalties.

    The methods are not in here: torch.compile would find them through the network's hooks, and take their numbers as
    constants.
    """

    def __init__(self) -> None:
        self.features: dict[str, Tensor] | None = None
        self.attached: dict[str, Tensor] = {}
        self.is_on = True

    def hook(self, network: nn.Module, in_loss: bool) -> None:
        """Keep the features of a network; in_loss: also with their gradients."""
        layers = feature_layers(network)
        self.features = dict.fromkeys(layers, NOTHING)  # the keys are there: new ones would compile it again
        self.attached = dict.fromkeys(layers, NOTHING) if in_loss else {}
        for name, (module, _) in layers.items():
            module.register_forward_hook(partial(self._keep, name))

    def take(self) -> dict[str, Tensor]:
        """The features with their gradients, which are then kept no longer."""
        taken = dict(self.attached)
        for name in taken:
            self.attached[name] = NOTHING
        return taken

    def _keep(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        if self.is_on and torch.is_grad_enabled() and isinstance(output, Tensor):  # a tracer's stand-in is no tensor
            assert self.features is not None
            self.features[name] = output.detach()
            if self.attached:
                self.attached[name] = output


def _reads_batch(method: Method) -> bool:
    return type(method).batch_penalty is not Method.batch_penalty
