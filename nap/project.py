"""Project: rescales each weight matrix to its initial norm after the optimiser's step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from nap.graph.norms import NORMS, norm_layers
from nap.graph.weights import Weight, find_weights, frobenius_norms, joint_norms
from nap.report import analyze
from nap.suggest import suggest

Selection = Iterable[str] | Callable[[str, nn.Parameter], bool] | None
TINY = 1e-30


class Projection:
    """Rescales weight matrices, in place, to the norm that they had when this object was made.

    Eq. 2 of arXiv 2507.20057: W <- W * ||W_0||_F / ||W||_F after the optimiser's step, for every linear, convolution,
    embedding and attention matrix, except those of the output layers and of single units without a norm. The query,
    key and value matrices of `nn.MultiheadAttention` count as three. A matrix that starts at zero is not projected:
    it would stay zero. The μ and σ of a noisy layer form one matrix [μ σ], scaled by one factor that keeps ‖[μ σ]‖.
    Followed by a norm they then compute the same for every draw of the noise, and the share of noise stays learned.
    Separate norms for μ and σ would fix that share and change the network's function.

    every: project after every k-th update (`attach` counts them).
    affine: what happens to the scale and offset of the norms: "free" leaves them; "decay" moves those that learn the
        fraction `decay` of the way back to their initial values at each projection; "joint" keeps sqrt(sum scale^2 +
        sum offset^2) of each norm at its initial value, sqrt(d) for d features with scale 1 and offset 0
        (arXiv 2407.01800).
    include, exclude: names of parameters or modules, or a predicate of (name, parameter). `exclude` removes matrices;
        `include` adds any parameter of two or more dimensions, also the output layer's.
    mode: the unit of projection: "frobenius", the whole matrix; "neuron", the weights of each output neuron, which are
        a row of a linear layer or embedding and a filter of a convolution. A neuron that starts at zero is not
        projected.
    radius: "initial" keeps each norm as it was when this object was made; "unit" sets each norm to 1, at once and at
        each projection. SimbaV2 (arXiv 2502.15280) is "neuron" with "unit".

    example_inputs, outputs: as `nap.analyze` takes them, to find the output layers or to name them. Without both, what
        `nap.normalize` was given holds.

    Nothing waits for the device, and whole matrices are rescaled in foreach calls, so `project` may stand inside
    `torch.compile` or a captured CUDA graph. A graph replays `project`, not the count of `every`.
    Raises ValueError for an unknown option or name, and for a matrix that is not finite.
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
        radius: str = "initial",
        example_inputs: Any = None,
        outputs: Iterable[str] | None = None,
    ) -> None:
        _check_options(every, affine, decay, mode, radius)
        self.every, self.affine, self.decay, self.mode, self.radius = every, affine, decay, mode, radius
        report = analyze(module, example_inputs, outputs)
        self.outputs_unknown = report.outputs_unknown
        chosen = list(_choose(module, {*report.outputs, *report.left_out}, include, exclude).values())
        norms = self._measure(chosen)[1]
        if broken := [weight.name for weight, norm in zip(chosen, norms, strict=True) if not norm.isfinite().all()]:
            raise ValueError(f"nap.Projection: {broken[0]} holds NaN or infinity, so that it has no norm to keep")
        moving = [bool((norm > 0).any()) for norm in norms]
        self.left_at_zero = [weight.name for weight, moves in zip(chosen, moving, strict=True) if not moves]
        self._module = module
        self._weights = [weight for weight, moves in zip(chosen, moving, strict=True) if moves]
        self._targets = [norm for norm, moves in zip(norms, moving, strict=True) if moves]
        if radius == "unit":
            self._targets = [(norm > 0).to(norm.dtype) for norm in self._targets]
            self._rescale_weights()
        self._affine = [] if affine == "free" else _affine_parameters(module, frozen=affine == "joint")
        if affine == "joint":  # a pair that starts at zero would be held there
            sizes = _joint_norms(_detached(self._affine))
            self._affine = [pair for pair, size in zip(self._affine, sizes, strict=True) if size > 0]
        self._affine_initial = self._affine_state()
        self.updates = 0

    @property
    def names(self) -> list[str]:
        """The names of the projected matrices."""
        return [weight.name for weight in self._weights]

    @property
    def initial_norms(self) -> dict[str, Tensor]:
        """The norms that are kept, by name: ||W_0||_F, a scalar; in mode "neuron" one for each neuron."""
        return self._by_name(self._targets)

    def norms(self) -> dict[str, Tensor]:
        """The same norms as the weights are now."""
        return self._by_name(self._measure(self._weights)[1])

    @torch.no_grad()
    def project(self) -> None:
        """Rescales every projected matrix now, and treats the norms' scale and offset as `affine` says."""
        self._rescale_weights()
        if not self._affine:
            return
        pairs = _detached(self._affine)
        now = _joint_norms(pairs) if self.affine == "joint" else [value for pair in pairs for value in pair]
        self._affine_initial = _following(self._affine_initial, now)
        if self.affine == "joint":
            _rescale(pairs, now, self._affine_initial)
        else:
            torch._foreach_lerp_(now, self._affine_initial, self.decay)

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
        now = find_weights(self._module, free=True)
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
        """Copies a saved state into the existing tensors.

        Raises ValueError if the state is of other weights, or not of a projection.
        """
        if missing := [name for name in ("initial_norms", "affine", "updates") if name not in state]:
            raise ValueError(f"nap.Projection: the loaded state is not of a projection: it has no {', '.join(missing)}")
        saved = state["initial_norms"]
        for name in self.names:
            if name not in saved:
                raise ValueError(
                    f"nap.Projection: the loaded state has no initial norm of {name}; {suggest(name, saved)}"
                )
        if len(saved) != len(self._targets) or len(state["affine"]) != len(self._affine_initial):
            raise ValueError("nap.Projection: the loaded state is of other weights or of another `affine`")
        for name, target in self.initial_norms.items():
            if saved[name].shape != target.shape:
                raise ValueError(f"nap.Projection: the loaded initial norm of {name} is of another `mode`")
            target.copy_(saved[name])
        for initial, value in zip(self._affine_initial, state["affine"], strict=True):
            initial.copy_(value)
        self.updates = state["updates"]

    def _rescale_weights(self) -> None:
        if not self._weights:
            return
        groups, norms = self._measure(self._weights)
        targets = self._targets = _following(self._targets, norms)
        if self.mode == "neuron":
            pairs = zip(targets, norms, strict=True)
            targets = [torch.where(target > 0, target, norm.clamp_min(TINY)) for target, norm in pairs]
        _rescale(groups, norms, targets)

    def _measure(self, weights: list[Weight]) -> tuple[list[list[Tensor]], list[Tensor]]:
        """The values of weights, each with its coscaled_params, and their norms in a shape that multiplies them."""
        if self.mode == "frobenius":
            groups = [weight.values() for weight in weights]
            return groups, joint_norms(groups)
        views = [[_by_neuron(weight, value) for value in weight.values()] for weight in weights]
        norms = [reduce(torch.hypot, [_neuron_norms(*view) for view in group]) for group in views]
        return [[view for view, _ in group] for group in views], norms

    def _by_name(self, norms: list[Tensor]) -> dict[str, Tensor]:
        shaped = norms if self.mode == "frobenius" else [norm.flatten() for norm in norms]
        return dict(zip(self.names, shaped, strict=True))

    def _affine_state(self) -> list[Tensor]:
        pairs = _detached(self._affine)
        return _joint_norms(pairs) if self.affine == "joint" else [value.clone() for pair in pairs for value in pair]


def _rescale(groups: list[list[Tensor]], norms: list[Tensor], targets: list[Tensor]) -> None:
    """Scales each group of tensors from its norm to its target; all groups in one foreach pass."""
    torch._foreach_clamp_min_(norms, TINY)
    scales = torch._foreach_div(targets, norms)
    flat = [value for group in groups for value in group]
    torch._foreach_mul_(flat, [scale for scale, group in zip(scales, groups, strict=True) for _ in group])


def _by_neuron(weight: Weight, value: Tensor) -> tuple[Tensor, int]:
    """A view of a weight's value with its neurons along the leading dimensions, and how many those are."""
    if weight.out_axis == 0:
        return value, 1
    groups = getattr(weight.owner, "groups", 1)  # [in, out of a group, ...]: the groups lie side by side in the inputs
    return value.unflatten(0, (groups, -1)).transpose(1, 2), 2


def _neuron_norms(view: Tensor, leading: int) -> Tensor:
    dtype = torch.float64 if view.dtype is torch.float64 else torch.float32
    return torch.linalg.vector_norm(view, dim=tuple(range(leading, view.ndim)), keepdim=True, dtype=dtype)


def _joint_norms(pairs: list[list[Tensor]]) -> list[Tensor]:
    """sqrt(sum scale^2 + sum offset^2) of each pair, or of a scale alone; a foreach call for each step."""
    if not pairs:
        return []
    squares = torch._foreach_pow(frobenius_norms([value for pair in pairs for value in pair]), 2)
    remaining = iter(squares)
    parts = [[next(remaining) for _ in pair] for pair in pairs]
    if both := [part for part in parts if len(part) == 2]:
        torch._foreach_add_([part[0] for part in both], [part[1] for part in both])
    return list(torch._foreach_sqrt([part[0] for part in parts]))


def _detached(pairs: list[list[nn.Parameter]]) -> list[list[Tensor]]:
    return [[parameter.detach() for parameter in pair] for pair in pairs]


def _following(kept: list[Tensor], now: list[Tensor]) -> list[Tensor]:
    """The stored values; copies on the present device and dtype if the module was moved or converted."""
    pairs = list(zip(kept, now, strict=True))
    if all(old.device == new.device and old.dtype == new.dtype for old, new in pairs):
        return kept
    return [old.to(new.device, new.dtype) for old, new in pairs]


def _affine_parameters(module: nn.Module, frozen: bool) -> list[list[nn.Parameter]]:
    """Scale and offset of each norm. Decay skips frozen ones, since no gradient would work against it."""
    pairs = [
        [
            parameter
            for name, parameter in part.named_parameters(recurse=False)
            if (not isinstance(part, NORMS) or name in ("weight", "bias")) and (frozen or parameter.requires_grad)
        ]
        for part in norm_layers(module)
    ]
    return [pair for pair in pairs if pair]


def _choose(module: nn.Module, left_out: set[str], include: Selection, exclude: Selection) -> dict[str, Weight]:
    found = find_weights(module, free=True)
    whole = {
        id(p) for weight in found.values() if weight.rows is None for p in (weight.parameter, *weight.coscaled_params)
    }
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
        if ((name in found and name not in left_out) or added(weight)) and not removed(weight)
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
            raise ValueError(f"nap.Projection: {option} has {name!r}, which is no weight; {suggest(name, known)}")
    return lambda weight: any(matches(weight.name, name) for name in names)


def _check_options(every: int, affine: str, decay: float, mode: str, radius: str) -> None:
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"nap.Projection: every={every!r} must be a whole number of updates, at least 1")
    if not 0 <= decay <= 1:
        raise ValueError(f"nap.Projection: decay={decay!r} must be a fraction from 0 to 1")
    for option, value, known in (
        ("affine", affine, ("free", "decay", "joint")),
        ("mode", mode, ("frobenius", "neuron")),
        ("radius", radius, ("initial", "unit")),
    ):
        if value not in known:
            raise ValueError(f"nap.Projection: {option}={value!r} is unknown; {suggest(value, known)}")
