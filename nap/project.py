"""Project: each weight matrix back to its initial norm after the optimiser's step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .flow import NORMS
from .normalize import analyze
from .weights import Weight, find_weights, frobenius_norms, near

Selection = Iterable[str] | Callable[[str, nn.Parameter], bool] | None
TINY = 1e-30


class Projection:
    """Rescales weight matrices, in place, to the Frobenius norm that they had when this object was made.

    Eq. 2 of arXiv 2507.20057: W <- W * ||W_0||_F / ||W||_F after the optimiser's step, for every linear, convolution,
    embedding and attention matrix but those of the output layers (`nn.MultiheadAttention`'s query, key and value
    matrices each by themselves). A matrix that starts at zero is left alone, or it would stay there.

    every: project after every k-th update (`attach` counts them).
    affine: what happens to the scale and offset of the norms: "free" leaves them; "decay" moves both the fraction
        `decay` of the way back to their initial values at each projection; "joint" keeps sqrt(sum scale^2 +
        sum offset^2) of each norm at its initial value, sqrt(d) for d features with scale 1 and offset 0
        (arXiv 2407.01800).
    include, exclude: names of parameters or modules, or a predicate of (name, parameter). `exclude` takes matrices
        out; `include` adds any parameter of two or more dimensions, the output layer's too.
    mode: "frobenius".

    Every tensor operation is a foreach call with no host sync, so `project` may stand inside `torch.compile` or a
    captured CUDA graph. A graph replays `project`, not the count of `every`.
    Raises ValueError for an unknown option or name.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        every: int = 1,
        affine: str = "free",
        decay: float = 1e-3,
        include: Selection = None,
        exclude: Selection = None,
        mode: str = "frobenius",
    ) -> None:
        _check_options(every, affine, decay, mode)
        self.every, self.affine, self.decay = every, affine, decay
        report = analyze(module)
        self.outputs_guessed = report.outputs_guessed
        chosen = _choose(module, set(report.outputs), include, exclude)
        norms = dict(zip(chosen, frobenius_norms([weight.value() for weight in chosen.values()]), strict=True))
        self.left_at_zero = [name for name, norm in norms.items() if norm == 0]
        self._module = module
        self._weights = [weight for name, weight in chosen.items() if norms[name] > 0]
        self._targets = [norms[weight.name] for weight in self._weights]
        self._affine = [] if affine == "free" else _affine_parameters(module)
        self._affine_initial = self._affine_state()
        self.updates = 0

    @property
    def names(self) -> list[str]:
        """The names of the projected matrices."""
        return [weight.name for weight in self._weights]

    @property
    def initial_norms(self) -> dict[str, Tensor]:
        """||W_0||_F by name, scalars."""
        return dict(zip(self.names, self._targets, strict=True))

    def norms(self) -> dict[str, Tensor]:
        """||W||_F by name as the weights are now, scalars."""
        return dict(zip(self.names, frobenius_norms([weight.value() for weight in self._weights]), strict=True))

    @torch.no_grad()
    def project(self) -> None:
        """Rescales every projected matrix now, and treats the norms' scale and offset as `affine` says."""
        if self._weights:
            _rescale([[weight.value()] for weight in self._weights], self._targets)
        if self.affine == "decay" and self._affine:
            parameters = [parameter.detach() for pair in self._affine for parameter in pair]
            torch._foreach_lerp_(parameters, self._affine_initial, self.decay)
        elif self.affine == "joint" and self._affine:
            _rescale([[parameter.detach() for parameter in pair] for pair in self._affine], self._affine_initial)

    __call__ = project

    def step(self) -> None:
        """Counts one update, and projects if it is an `every`-th one."""
        self.updates += 1
        if self.updates % self.every == 0:
            self.project()

    def attach(self, optimizer: torch.optim.Optimizer) -> Projection:
        """Runs `step` after each of the optimiser's steps from now on; returns this object."""
        optimizer.register_step_post_hook(lambda *_: self.step())
        return self

    def check(self) -> None:
        """Raises ValueError, naming it, if a projected parameter is no longer the one that the module uses."""
        now = find_weights(self._module)
        parameters = dict(self._module.named_parameters(remove_duplicate=False))
        for weight in self._weights:
            current = now[weight.name].parameter if weight.name in now else parameters.get(weight.name)
            if current is not weight.parameter:
                raise ValueError(
                    f"nap.Projection: {weight.name} was replaced by another parameter; change parameters in place"
                )

    def state_dict(self) -> dict[str, Any]:
        """The initial norms, the initial scale and offset (or their joint norms), and the count of updates."""
        return {"initial_norms": self.initial_norms, "affine": self._affine_initial, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved state, copied into the tensors that exist.

        Raises ValueError if it is of other weights.
        """
        saved = state["initial_norms"]
        for name in self.names:
            if name not in saved:
                raise ValueError(f"nap.Projection: the loaded state has no initial norm of {name}; {near(name, saved)}")
        if len(saved) != len(self._targets) or len(state["affine"]) != len(self._affine_initial):
            raise ValueError("nap.Projection: the loaded state is of other weights or of another `affine`")
        for name, target in self.initial_norms.items():
            target.copy_(saved[name])
        for initial, value in zip(self._affine_initial, state["affine"], strict=True):
            initial.copy_(value)
        self.updates = state["updates"]

    def _affine_state(self) -> list[Tensor]:
        pairs = [[parameter.detach() for parameter in pair] for pair in self._affine]
        if self.affine == "joint":
            return [_joint_norm(pair) for pair in pairs]
        return [parameter.clone() for pair in pairs for parameter in pair]


def _rescale(groups: list[list[Tensor]], targets: list[Tensor]) -> None:
    """Scales each group of tensors so that their joint norm is its target; all groups in one foreach pass."""
    flat = [value for group in groups for value in group]
    norms = frobenius_norms(flat)
    if len(flat) > len(groups):
        sizes = [len(group) for group in groups]
        norms = [torch.linalg.vector_norm(torch.stack(part)) for part in _split(norms, sizes)]
    torch._foreach_clamp_min_(norms, TINY)
    scales = torch._foreach_div(_on(targets, norms), norms)
    torch._foreach_mul_(flat, [scale for scale, group in zip(scales, groups, strict=True) for _ in group])


def _split(values: Iterable[Tensor], sizes: list[int]) -> list[list[Tensor]]:
    remaining = iter(values)
    return [[next(remaining) for _ in range(size)] for size in sizes]


def _on(targets: list[Tensor], norms: Iterable[Tensor]) -> list[Tensor]:
    """The targets on the devices of the norms, for a module that was moved after its projection was made."""
    return [target.to(norm.device, non_blocking=True) for target, norm in zip(targets, norms, strict=True)]


def _joint_norm(parameters: list[Tensor]) -> Tensor:
    return torch.stack(frobenius_norms(parameters)).norm()


def _affine_parameters(module: nn.Module) -> list[list[nn.Parameter]]:
    pairs = [
        [parameter for name in ("weight", "bias") if (parameter := part._parameters.get(name)) is not None]
        for part in module.modules()
        if isinstance(part, NORMS)
    ]
    return [pair for pair in pairs if pair]


def _choose(module: nn.Module, outputs: set[str], include: Selection, exclude: Selection) -> dict[str, Weight]:
    found = find_weights(module)
    whole = {id(weight.parameter) for weight in found.values() if weight.rows is None}
    parts = {id(weight.parameter) for weight in found.values()} - whole
    owners = {id(p): m for m in module.modules() for p in m.parameters(recurse=False)}
    others = {
        name: Weight(name, owners[id(parameter)], parameter)
        for name, parameter in module.named_parameters()
        if parameter.ndim >= 2 and id(parameter) not in whole | parts
    }
    known = found | others
    added, removed = _matcher(include, known, "include"), _matcher(exclude, known, "exclude")
    return {
        name: weight
        for name, weight in known.items()
        if ((name in found and name not in outputs) or added(weight)) and not removed(weight)
    }


def _matcher(selection: Selection, known: dict[str, Weight], option: str) -> Callable[[Weight], bool]:
    if selection is None:
        return lambda weight: False
    if callable(selection):
        return lambda weight: bool(selection(weight.name, weight.parameter))
    names = [selection] if isinstance(selection, str) else list(selection)

    def matches(weight_name: str, name: str) -> bool:
        return weight_name == name or weight_name.startswith((name + ".", name + "["))

    for name in names:
        if not any(matches(weight_name, name) for weight_name in known):
            raise ValueError(f"nap.Projection: {option} has {name!r}, which is no weight; {near(name, known)}")
    return lambda weight: any(matches(weight.name, name) for name in names)


def _check_options(every: int, affine: str, decay: float, mode: str) -> None:
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"nap.Projection: every={every!r} must be a whole number of updates, at least 1")
    if affine not in (kinds := ("free", "decay", "joint")):
        raise ValueError(f"nap.Projection: affine={affine!r} is unknown; {near(affine, kinds)}")
    if not 0 <= decay <= 1:
        raise ValueError(f"nap.Projection: decay={decay!r} must be a fraction from 0 to 1")
    if mode != "frobenius":
        raise ValueError(f"nap.Projection: mode={mode!r} is unknown; {near(mode, ['frobenius'])}")
