"""Aged against fresh: how well copies of a trained network fit random targets, next to freshly drawn networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nap.generators import seeded
from nap.graph.copies import scratch
from nap.metrics.probe import copy_batch, untouched

FREQUENCY = 1e5
"""Of the sine that turns a network's outputs into targets without structure, as in arXiv 2303.01486."""
POINTS = 20
"""Errors that are taken over the course of a fit."""


@dataclass(frozen=True)
class FitCurves:
    """Errors of both networks on all inputs, [draws, points], relative to the error of not moving at all, which is 1.

    updates: the updates at each point [points]; the last one is the length of the fits.
    """

    updates: Tensor
    aged: Tensor
    fresh: Tensor

    @property
    def ratios(self) -> Tensor:
        """The error of the aged network at the end over that of the fresh one [draws]; above 1 the aged is worse."""
        return self.aged[:, -1] / self.fresh[:, -1]

    @property
    def slowdowns(self) -> Tensor:
        """How many times the fresh network's updates the aged one needs [draws], to the worse of their last errors.

        Below 1 the aged one is quicker. A network that starts with that error counts as having needed one update.
        """
        level = torch.maximum(self.aged[:, -1], self.fresh[:, -1])
        return self._reached(self.aged, level) / self._reached(self.fresh, level)

    def _reached(self, errors: Tensor, level: Tensor) -> Tensor:
        """The update at which each curve [draws, points] first has the level [draws], linear between the points."""
        start = torch.ones(len(errors), 1, dtype=errors.dtype)
        errors, updates = torch.cat([start, errors], 1), torch.cat([torch.zeros(1), self.updates])
        below = errors <= level.unsqueeze(1)
        after = below.int().argmax(1).clamp(min=1)
        high, low = errors.gather(1, (after - 1).unsqueeze(1)), errors.gather(1, after.unsqueeze(1))
        share = ((high - level.unsqueeze(1)) / (high - low)).squeeze(1).nan_to_num(0).clamp(0, 1)
        return (updates[after - 1] + share * (updates[after] - updates[after - 1])).clamp(min=1)


def fit_random_targets(
    model: nn.Module,
    batch: Tensor | tuple[Any, ...],
    fresh: Callable[[], nn.Module],
    *,
    draws: int = 5,
    updates: int = 200,
    lr: float = 1e-3,
    batch_size: int = 32,
    seed: int = 0,
    progress: Callable[[int], object] = lambda done: None,
) -> FitCurves:
    """Fits a copy of the model, and a fresh network, to random targets; how much worse and slower the copy is.

    In each draw the targets are sin(10⁵ g(x)) for another fresh network g, as in Lyle et al. 2023 (arXiv 2303.01486,
    after the capacity of arXiv 2204.09560). What is fitted is the change of the outputs since the start, so that large
    outputs, which the papers offset by their mean, are no handicap: both networks start with the same error. Adam makes
    `updates` steps of rate `lr` on minibatches, the same ones for both. The networks are in eval mode, but batch norms
    use the statistics of the minibatch.

    `batch` is the model's input on its device, tensors whose first dimension counts inputs. `fresh()` makes a network
    of the same architecture from torch's generator, which is seeded for it: equal seeds give equal curves.
    `progress(done)` receives the updates so far, of 2 · draws · updates. The model, its flags and all random number
    generators stay as they are. Raises ValueError for outputs that are not finite tensors, or the same for all inputs.
    """
    if min(draws, updates, batch_size) < 1:
        raise ValueError(f"draws, updates and batch_size have to be at least 1: {draws}, {updates} and {batch_size}")
    model = getattr(model, "_orig_mod", model)
    inputs = copy_batch(batch if isinstance(batch, tuple) else (batch,))
    device = next(model.parameters()).device
    count = len(next(value for value in inputs if isinstance(value, Tensor)))
    points = sorted({-(-updates * point // POINTS) for point in range(1, POINTS + 1)})
    seeds = torch.randint(2**62, (draws,), generator=torch.Generator().manual_seed(seed)).tolist()
    curves: dict[str, list[Tensor]] = {"aged": [], "fresh": []}
    for number, drawn in enumerate(seeds):
        with untouched(model), scratch(model, "copied") as aged:
            with seeded(drawn):
                teacher, new = fresh().to(device), fresh().to(device)
                order = [torch.randperm(count) for _ in range(-(-updates * batch_size // count) + 1)]
            picks = torch.cat(order)[: updates * batch_size].view(updates, batch_size).to(device)
            targets = _targets(teacher, inputs)
            for which, (name, network) in enumerate((("aged", aged), ("fresh", new))):
                fit = _Fit(network, inputs, targets, lr, f"the {name} network")
                curves[name].append(fit.run(picks, points, progress, (2 * number + which) * updates))
    return FitCurves(torch.tensor(points).float(), torch.stack(curves["aged"]), torch.stack(curves["fresh"]))


def _targets(teacher: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
    with torch.no_grad():
        targets = (FREQUENCY * _outputs(_for_fitting(teacher), inputs, "a fresh network")).sin()
    if bool((targets == targets[:1]).all()):
        raise ValueError("fit_random_targets: a fresh network gives the same output for every input, so no targets")
    return targets


def _outputs(network: nn.Module, inputs: tuple[Any, ...], whose: str) -> Tensor:
    out = network(*inputs)
    if not isinstance(out, Tensor) or not out.is_floating_point():
        raise ValueError(f"fit_random_targets: the output of {whose} is a {type(out).__name__}, not a tensor of floats")
    return out.float()


def _for_fitting(network: nn.Module) -> nn.Module:
    """Eval mode, in which noise and dropout are off; a fresh batch norm has no statistics but the batch's."""
    network.eval()
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.train()
    return network


class _Fit:
    """The fit of one network, which it changes, to one draw of targets."""

    def __init__(self, network: nn.Module, inputs: tuple[Any, ...], targets: Tensor, lr: float, whose: str) -> None:
        self.network, self.inputs, self.targets, self.whose = _for_fitting(network), inputs, targets, whose
        self.scale = targets.square().mean()
        learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(learned, lr=lr)
        with torch.no_grad():
            self.before = _outputs(network, inputs, whose)
        if not bool(self.before.isfinite().all()):
            raise ValueError(f"fit_random_targets: an output of {whose} is NaN or infinite")

    def run(self, picks: Tensor, points: list[int], progress: Callable[[int], object], made: int) -> Tensor:
        """The errors on all inputs after so many updates [points], read from the device at the end.

        made: the updates of the fits before, for `progress`.
        """
        errors = []
        for done, chosen in enumerate(picks, 1):
            self.optimizer.zero_grad()
            with torch.enable_grad():
                self._error(chosen).backward()
            self.optimizer.step()
            if done in points:
                with torch.no_grad():
                    errors.append(self._error())
                progress(made + done)
        return torch.stack(errors).cpu()

    def _error(self, chosen: Tensor | None = None) -> Tensor:
        if chosen is None:
            inputs, wanted = self.inputs, self.targets + self.before
        else:
            inputs = tuple(value[chosen] if isinstance(value, Tensor) else value for value in self.inputs)
            wanted = (self.targets + self.before)[chosen]
        return (_outputs(self.network, inputs, self.whose) - wanted).square().mean() / self.scale
