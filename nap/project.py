"""Project: rescales each weight matrix to its initial norm after the optimiser's step."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nap.attach import Attached, Part, Updates
from nap.graph.sharded import copy_whole, is_sharded, local_parts, prepare, whole
from nap.graph.weights import Weight, find_weights, joint_norms
from nap.hyperball import FixedUpdate, embeddings, settled
from nap.identity import bare, counterpart, warn_of_almost_zero
from nap.report import analyze
from nap.rescale import (
    ALMOST_ZERO,
    TINY,
    affine_parameters,
    by_neuron,
    detached,
    following,
    length,
    neuron_norms,
    pair_norms,
    refuse_spread_neurons,
    rescale,
    where_due,
)
from nap.selection import Selection, choose, split_weights
from nap.suggest import suggest


class Projection(Attached):
    """Rescales weight matrices, in place, to the norm that they had when this object was made.

    Eq. 2 of arXiv 2507.20057: W <- W * ||W_0||_F / ||W||_F after the optimiser's step, for every linear, convolution,
    embedding and attention matrix, except those of the output layers and of single units without a norm. The query,
    key and value matrices of `nn.MultiheadAttention` count as three. A matrix that starts at zero is not projected:
    it would stay zero. Nor is one that starts almost there, with weight vectors shorter than 1e-3; it gives a warning.
    The μ and σ of a noisy layer form one matrix [μ σ], scaled by one factor that keeps ‖[μ σ]‖. Followed by a norm they
    then compute the same for every draw of the noise, and the share of noise stays learned. Separate norms for μ and σ
    would fix that share and change the network's function.

    every: project after every k-th update (`attach` counts them).
    affine: what happens to the scale and offset of the norms: "free" leaves them; "decay" moves those that learn the
        fraction `decay` of the way back to their initial values at each projection; "joint" keeps sqrt(sum scale^2 +
        sum offset^2) of each norm at its initial value, sqrt(d) for d features with scale 1 and offset 0
        (arXiv 2407.01800).
    include, exclude: names of parameters or modules, or a predicate of (name, parameter). `exclude` removes matrices;
        `include` adds any parameter of two or more dimensions, also the output layer's.
    mode: the unit of projection: "frobenius", the whole matrix; "neuron", the weights of each output neuron, which are
        a row of a linear layer or embedding and a filter of a convolution. A neuron that starts at zero is not
        projected, nor a parameter that is used without a layer's call: which of its axes counts neurons is unknown.
    radius: "initial" keeps each norm as it was when this object was made; a number above 0 sets each norm to it, at
        once and at each projection, and "unit" is 1. SimbaV2 (arXiv 2502.15280) is "neuron" with "unit". The norms of
        `affine` keep their initial values.
    bound: a norm above its target is cut to it, and one below stays: a max-norm constraint, in mode "neuron" with a
        number that of Srebro et al. 2004 and of Clip to Grok (github.com/NiftyliuS/cliptogrok). It holds for
        affine="joint" too. With a number or "unit" it also holds what starts at zero.
    update: "free" leaves the steps to the optimiser; "fixed" also gives each step that follows `attach` the length
        `update_scale` * lr * ||W_0||, so that a weight turns by that multiple of lr, in radians (Hyperball, arXiv
        2606.16899; see `FixedUpdate`). Embeddings are then not projected unless included, as in the paper.
    split: `{name: parts}`: matrices that are many, such as `{"q_proj": heads}` or a parameter of stacked experts; each
        of so many equal blocks of rows keeps a norm of its own.
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
        radius: str | float = "initial",
        bound: bool = False,
        update: str = "free",
        update_scale: float = 1.0,
        split: Mapping[str, int] | None = None,
        example_inputs: Any = None,
        outputs: Iterable[str] | None = None,
    ) -> None:
        _check_options(every, affine, decay, mode, radius, bound, update, update_scale)
        self.every, self.affine, self.decay, self.mode, self.radius = every, affine, decay, mode, radius
        self.bound = bound
        prepare("nap.Projection", module)
        self.update, self.update_scale = update, update_scale
        report = analyze(module, example_inputs, outputs)
        self.outputs_unknown = report.outputs_unknown
        left_out = {*report.outputs, *report.left_out}
        if update == "fixed":
            left_out |= embeddings(find_weights(module).values())
        if mode == "neuron":
            left_out |= {name for name, weight in find_weights(module, free=True).items() if weight.free}
        chosen = split_weights(list(choose(module, left_out, include, exclude).values()), split or {})
        if update == "fixed" and any(is_sharded(weight.parameter) for weight in chosen):
            raise ValueError("nap.Projection: update='fixed' needs whole matrices, and these are sharded")
        if on_meta := [weight.name for weight in chosen if weight.parameter.is_meta]:
            raise ValueError(f"nap.Projection: {on_meta[0]} is on meta and has no norm yet: load its values first")
        norms = self._measure(chosen)[1]
        known = [whole(norm) for norm in norms]
        if broken := [weight.name for weight, norm in zip(chosen, known, strict=True) if not norm.isfinite().all()]:
            raise ValueError(f"nap.Projection: {broken[0]} holds NaN or infinity, so that it has no norm to keep")
        self._module, self._weights = module, chosen
        if radius == "initial":
            limits = [ALMOST_ZERO * length(weight, mode) for weight in chosen]
            self._targets = [norm * (norm > limit) for norm, limit in zip(norms, limits, strict=True)]
            kept = [whole(target) for target in self._targets]
            warn_of_almost_zero([chosen[i].name for i, norm in enumerate(known) if (norm != kept[i]).any()])
        else:
            held = 1.0 if radius == "unit" else float(radius)
            self._targets = [held * (norm >= 0 if bound else norm > 0).to(norm.dtype) for norm in norms]
        self._moving = [i for i, target in enumerate(self._targets) if bool((whole(target) > 0).any())]
        if radius != "initial":
            rescale(*self._weight_targets(self._moving), bound=bound)
        self._affine = self._find_affine()
        names = {id(parameter): name for name, parameter in bare(module).named_parameters()}
        self._affine_names = [[names[id(parameter)] for parameter in unit] for unit in self._affine]
        self._affine_initial = [value.clone() for value in self._affine_now(detached(self._affine))]
        super().__init__(module)

    @property
    def names(self) -> list[str]:
        """The names of the projected matrices."""
        return [self._weights[i].name for i in self._moving]

    @property
    def left_at_zero(self) -> list[str]:
        """The names of the matrices that are not projected, since they start at zero or almost there."""
        moving = set(self._moving)
        return [weight.name for i, weight in enumerate(self._weights) if i not in moving]

    @property
    def initial_norms(self) -> dict[str, Tensor]:
        """The norms that are kept, by name: ||W_0||_F, a scalar; in mode "neuron" one for each neuron."""
        return self._by_name([self._targets[i] for i in self._moving])

    def norms(self) -> dict[str, Tensor]:
        """The same norms as the weights are now."""
        return self._by_name(self._measure([self._weights[i] for i in self._moving])[1])

    def project(self) -> None:
        """Rescales every projected matrix now, and treats the norms' scale and offset as `affine` says."""
        if not torch.compiler.is_compiling():
            self.check()
        self._project(self._whole())

    __call__ = project

    def attach_at(self, optimizer: Any, place: int) -> None:
        self._handles += self.fix_updates(optimizer)
        super().attach_at(optimizer, place)

    def fix_updates(self, optimizer: Any) -> list[RemovableHandle]:
        """With update "fixed", gives an optimiser's steps their length from now on; a part of `attach`."""
        if self.update == "free":
            return []
        fixed = FixedUpdate(self._weights, self._measure, lambda: (self._moving, self._targets), self.update_scale)
        return fixed.attach(optimizer)

    def for_module(self, module: nn.Module) -> Projection:
        """A projection of another module with the same parameters, which keeps this one's norms and is not attached.

        For an average of the trained weights or a copy for evaluation: an average of matrices of one norm is smaller.
        The module may be inside `torch.optim.swa_utils.AveragedModel`, `nn.DataParallel`, its distributed form or
        `torch.compile`. affine="decay" is left out, since the average is of values that were moved back already.
        Raises ValueError if the module has no parameter of one of the names, or one of another shape.
        """
        other = copy.copy(self)
        other._module, other._weights = module, [counterpart(weight, self._module, module) for weight in self._weights]
        other._targets = [target.clone() for target in self._targets]
        if other.affine == "decay":
            other.affine, other._affine = "free", []
        parameters = dict(bare(module).named_parameters())
        names = self._affine_names[: len(other._affine)]
        other._affine = [[parameters[name] for name in unit] for unit in names]
        other._affine_initial = [value.clone() for value in self._affine_initial[: len(other._affine)]]
        other._counts = [Updates()]
        return other

    def state_dict(self) -> dict[str, Any]:
        """The initial norms, the initial scale and offset (or their joint norms), and the counts of updates."""
        return {
            "initial_norms": self.initial_norms,
            "left_at_zero": self.left_at_zero,
            "affine": [whole(value) for value in self._affine_initial],
            "updates": self.updates,
            "further_updates": [int(count) for count in self._counts[1:]],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copies a saved state into the existing tensors. What starts at zero is what did in the run that saved it.

        Raises ValueError if the state is of other weights, or not of a projection.
        """
        if missing := [name for name in ("initial_norms", "affine", "updates") if name not in state]:
            raise ValueError(f"nap.Projection: the loaded state is not of a projection: it has no {', '.join(missing)}")
        saved, known = state["initial_norms"], {weight.name: i for i, weight in enumerate(self._weights)}
        for name in known.keys() - saved.keys() - set(state.get("left_at_zero", self.left_at_zero)):
            raise ValueError(
                f"nap.Projection: the loaded state has no initial norm of {name}: it was at zero, excluded or missing "
                "in the run that saved it; build the model and the projection as there, then load the states of both"
            )
        if not saved.keys() <= known.keys() or len(state["affine"]) != len(self._affine_initial):
            raise ValueError("nap.Projection: the loaded state is of other weights or of another `affine`")
        for name, value in saved.items():
            if value.numel() != self._targets[known[name]].numel():
                raise ValueError(f"nap.Projection: the loaded initial norm of {name} is of another `mode`")
        for name, value in saved.items():
            copy_whole(self._targets[known[name]], value.view(self._targets[known[name]].shape))
        for initial, value in zip(self._affine_initial, state["affine"], strict=True):
            copy_whole(initial, value)
        self._moving, self._parts, self._identity = sorted(known[name] for name in saved), {}, None
        self._counts = [Updates(done) for done in (state["updates"], *state.get("further_updates", ()))]
        self._counts += [Updates() for _ in range(len(self._held) - len(self._counts))]

    @torch.no_grad()
    def _project(self, part: Part, due: Tensor | None = None) -> None:
        groups, norms, targets = self._weight_targets(part.matrices)
        units = detached([self._affine[i] for i in part.affine])
        now = self._affine_now(units)
        initial = following(self._affine_initial, part.affine, now)
        if self.affine == "joint":  # in one pass with the weights
            groups, norms, targets = groups + units, norms + now, targets + initial
        elif units:
            torch._foreach_lerp_(local_parts(now), local_parts(where_due(due, initial, now)), self.decay)
        rescale(groups, norms, where_due(due, targets, norms), bound=self.bound)

    def _weight_targets(self, chosen: Sequence[int]) -> tuple[list[list[Tensor]], list[Tensor], list[Tensor]]:
        """What to rescale: values, their norms, and the norms that they are to have."""
        groups, norms = self._measure([self._weights[i] for i in chosen])
        targets = following(self._targets, chosen, norms)
        if self.mode == "neuron":
            pairs = zip(targets, norms, strict=True)
            targets = [torch.where(target > 0, target, norm.clamp_min(TINY)) for target, norm in pairs]
        if self.update == "fixed":
            norms = settled(norms, targets)
        return groups, norms, targets

    def _measure(self, weights: list[Weight]) -> tuple[list[list[Tensor]], list[Tensor]]:
        """The values of weights, each with its coscaled_params, and their norms in a shape that multiplies them."""
        if self.mode == "frobenius":
            groups = [weight.values() for weight in weights]
            return groups, joint_norms(groups)
        refuse_spread_neurons(weights)
        views = [[by_neuron(weight, value) for value in weight.values()] for weight in weights]
        norms = [reduce(torch.hypot, [neuron_norms(*view) for view in group]) for group in views]
        return [[view for view, _ in group] for group in views], norms

    def _by_name(self, norms: list[Tensor]) -> dict[str, Tensor]:
        shaped = norms if self.mode == "frobenius" else [whole(norm).flatten() for norm in norms]
        return dict(zip(self.names, shaped, strict=True))

    def _whole(self) -> Part:
        return Part(self._moving, range(len(self._affine)))

    def _parameters_by_index(self) -> tuple[dict[int, list[nn.Parameter]], dict[int, list[nn.Parameter]]]:
        weights = {i: self._weights[i] for i in self._moving}
        return {i: [w.parameter, *w.coscaled_params] for i, w in weights.items()}, dict(enumerate(self._affine))

    def _find_affine(self) -> list[list[nn.Parameter]]:
        """The parameters that are treated together: a scale with its offset; in "decay" each by itself."""
        if self.affine == "free":
            return []
        pairs = affine_parameters(self._module, frozen=self.affine == "joint")
        if self.affine == "decay":
            return [[parameter] for pair in pairs for parameter in pair]
        return [pair for pair, size in zip(pairs, pair_norms(detached(pairs)), strict=True) if size > 0]  # 0 would stay

    def _affine_now(self, units: list[list[Tensor]]) -> list[Tensor]:
        return pair_norms(units) if self.affine == "joint" else [value for (value,) in units]


def _check_options(
    every: int, affine: str, decay: float, mode: str, radius: str | float, bound: bool, update: str, update_scale: float
) -> None:
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"nap.Projection: every={every!r} must be a whole number of updates, at least 1")
    if not 0 <= decay <= 1:
        raise ValueError(f"nap.Projection: decay={decay!r} must be a fraction from 0 to 1")
    if not 0 < update_scale < math.inf:
        raise ValueError(f"nap.Projection: update_scale={update_scale!r} must be a positive number, a multiple of lr")
    if bound and update == "fixed":
        raise ValueError(
            'nap.Projection: bound=True has no effect with update="fixed", whose steps are those of a norm that is held'
        )
    number = not isinstance(radius, str)
    if number and (isinstance(radius, bool) or not isinstance(radius, int | float) or not 0 < radius < math.inf):
        raise ValueError(f"nap.Projection: radius={radius!r} must be a number above 0, 'initial' or 'unit'")
    for option, value, known in (
        ("affine", affine, ("free", "decay", "joint")),
        ("mode", mode, ("frobenius", "neuron")),
        ("radius", "unit" if number else str(radius), ("initial", "unit")),
        ("update", update, ("free", "fixed")),
    ):
        if value not in known:
            raise ValueError(f"nap.Projection: {option}={value!r} is unknown; {suggest(value, known)}")
