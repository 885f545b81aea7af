"""Probe: measures the features of every hidden nonlinearity on a fixed batch, in one pass that changes nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nap.generators import generators_kept
from nap.graph.layers import as_rows, as_units, feature_layers, is_nonlinearity
from nap.graph.norms import NormalizedActivation
from nap.metrics import features as f
from nap.metrics.eager import eagerly
from nap.suggest import suggest

Metric = tuple[str, float | None]

RANKS: dict[str, Callable[..., Tensor]] = {
    "erank_roy": f.erank_of,
    "srank_kumar": f.srank_of,
    "approximate_rank_yang": f.approximate_rank_of,
    "stable_rank": f.stable_rank_of,
    "feature_rank_lyle": f.feature_rank_of,
}
UNITS: dict[str, Callable[..., Tensor]] = {
    "dormant_sokar": f.dormant_sokar_units,
    "dormant_dohare": f.dormant_dohare_units,
    "dead_units": f.dead,
    "linearised_units": f.linearised,
}
CHANGES: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "covariance_change": ("covariance", f.covariance_change),
    "linear_cka": ("covariance", f.cka_of),
    "pattern_change": ("pattern", f.pattern_change),
    "policy_churn": ("action", f.pattern_change),
}
THRESHOLDS = {
    "srank_kumar": 0.01,
    "approximate_rank_yang": 0.01,
    "feature_rank_lyle": 0.01,
    "dormant_sokar": 0.025,
    "dormant_dohare": 0.01,
}
FROM_FIRST = "_from_first"
METRICS = (*RANKS, *UNITS, *CHANGES, *(change + FROM_FIRST for change in CHANGES))
DEFAULT_METRICS = (
    "erank_roy", "srank_kumar", "stable_rank", "dormant_sokar", "dead_units", "linearised_units",
    "covariance_change", "pattern_change",
)  # fmt: skip


class Probe:
    """Measures a model's features on a fixed batch and leaves the model, its flags and the random numbers as they are.

    `batch` is the model's input, a tensor or a tuple of arguments on the model's device; it is copied. `metrics` are
    names from `nap.metrics.METRICS`; a suffix sets another threshold: "dormant_sokar_0.1". `layers` names the modules
    whose outputs are the features, with `*` as a wildcard. By default they are every nonlinearity that is a module,
    except a tanh or sigmoid that only bounds the model's output. `layers` may map names to the axis of the units; by
    default it is axis 1 for outputs with four or more dimensions (convolutions), otherwise the last.

    Ranks, Δ_C, Δ_A and CKA see a convolution as one row [C*H*W] per input, and every position of [batch, positions,
    units] as a row; more than `max_rows` rows are thinned evenly. The shares of units (dormant, dead, linearised) are
    of channels, over all inputs and positions. A module's second call appears as "name[1]".

    Raises ValueError for an unknown metric or layer and where nonlinearities are functions, which cannot be watched.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Tensor | tuple[Any, ...],
        metrics: Iterable[str] = DEFAULT_METRICS,
        layers: Iterable[str] | Mapping[str, int] | None = None,
        *,
        max_rows: int = 1024,
    ) -> None:
        if isinstance(metrics, str) or isinstance(layers, str):
            raise ValueError("nap.Probe: metrics and layers are lists of names, not one string")
        if max_rows < 1:
            raise ValueError(f"nap.Probe: max_rows must be at least 1, not {max_rows!r}")
        self.model: nn.Module = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
        self.batch = copy_batch(batch if isinstance(batch, tuple) else (batch,))
        self.metrics = [_parse(name) for name in metrics]
        self.max_rows = max_rows
        self.layers_chosen = layers is not None
        self.layers = feature_layers(self.model, layers)
        self.shapes: dict[str, torch.Size] = {}
        """Rows and columns of each layer's features, of the last `measure`: the most that their rank can be."""
        self._kept: dict[str, dict[str, Tensor]] = {}

    def measure(self) -> dict[str, Tensor]:
        """The metrics as float32 scalars: "erank_roy/layer"; the shares of units also over all layers, "dead_units".

        Changes since the previous call are absent from the first; "..._from_first" compare with the first. The model
        runs uncompiled, in eval mode, without gradients, on copies of its buffers. Nothing waits for the device except
        the eigenvalues behind ranks.
        Raises ValueError if a chosen layer, or every layer, is not called by the model's forward.
        """
        now = _Pass(self.metrics, self._kept, self.max_rows)
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        with torch.no_grad(), untouched(self.model), ExitStack() as hooks:
            for name, (module, axis) in self.layers.items():
                for handle in now.watch(name, module, axis):
                    hooks.callback(handle.remove)
            output = functional_call(self.model, buffers, copy_batch(self.batch))
            self._check_calls(now.calls)
            now.finish(output)
        self._kept = {"first": self._kept.get("first", now.kept), "previous": now.kept}
        self.shapes = now.shapes
        return now.results

    def _check_calls(self, calls: Counter[str]) -> None:
        missing = [name for name in self.layers if not calls[name]]
        if missing and (self.layers_chosen or len(missing) == len(self.layers)):
            raise ValueError(
                f"nap.Probe: the forward of {type(self.model).__name__} does not call {', '.join(missing)}; "
                "choose layers= among the modules that it calls"
            )

    def state_dict(self) -> dict[str, Any]:
        """The batch, and the features that later calls compare with."""
        kept = {since: {key: value.clone() for key, value in values.items()} for since, values in self._kept.items()}
        return {"batch": copy_batch(self.batch), "kept": kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a saved state, on the device of the present batch."""
        device = next((value.device for value in self.batch if isinstance(value, Tensor)), None)
        self.batch = copy_batch(state_dict["batch"], device)
        self._kept = {
            since: {key: value.to(device, copy=True) for key, value in values.items()}
            for since, values in state_dict["kept"].items()
        }


class _Pass:
    """One forward pass; each layer is measured at once, before another operation can overwrite its output."""

    def __init__(self, metrics: list[Metric], before: dict[str, dict[str, Tensor]], most: int) -> None:
        self.metrics, self.before, self.most = metrics, before, most
        self.ranks = [(name, threshold) for name, threshold in metrics if name in RANKS]
        self.kinds = {CHANGES[base][0] for name, _ in metrics if (base := name.removesuffix(FROM_FIRST)) in CHANGES}
        self.calls: Counter[str] = Counter()
        self.inputs: Counter[str] = Counter()
        self.marks: dict[str, list[Tensor]] = {}
        self.results: dict[str, Tensor] = {}
        self.shapes: dict[str, torch.Size] = {}
        self.kept: dict[str, Tensor] = {}

    def watch(self, name: str, module: nn.Module, axis: int | None) -> Iterator[Any]:
        """Adds the hooks to a module that read its features and the input of its nonlinearity."""
        yield module.register_forward_hook(lambda _, args, output: self.see(name, output, axis))
        if isinstance(module, NormalizedActivation):
            yield module.norm.register_forward_hook(lambda _, args, output: self.see_input(name, output, axis))
        elif is_nonlinearity(module):
            yield module.register_forward_pre_hook(lambda _, args: self.see_input(name, args[0], axis))

    def see_input(self, name: str, x: Tensor, axis: int | None) -> None:
        layer = numbered(name, self.inputs)
        self._mark(layer, as_units(x, axis), ["linearised_units"])

    def see(self, name: str, x: Any, axis: int | None) -> None:
        layer = numbered(name, self.calls)
        if not isinstance(x, Tensor) or x.ndim < 2:
            raise ValueError(f"nap.Probe: {name} puts out no tensor [batch, ..., units]; choose other layers=")
        self._mark(layer, as_units(x, axis), [unit for unit in UNITS if unit != "linearised_units"])
        rows = as_rows(x, axis, self.most)
        self.shapes[layer] = rows.shape
        wide = rows.shape[0] <= rows.shape[1]
        covariance = "covariance" in self.kinds
        gram = f.gram(rows) if covariance or (wide and self.ranks) else None
        if self.ranks:
            self._add_ranks(
                layer, len(rows), f.spectrum(gram) if gram is not None and wide else f.singular_values(rows)
            )
        if gram is not None and covariance:
            self._keep("covariance", layer, f.covariance_of(gram).float())
        if "pattern" in self.kinds:
            self._keep("pattern", layer, f.activation_pattern(rows))

    def finish(self, output: Any) -> None:
        """Adds what belongs to the whole model, given its output."""
        if "action" in self.kinds:
            if not isinstance(output, Tensor) or output.ndim != 2:
                raise ValueError("nap.Probe: policy_churn needs a model whose output is a tensor [batch, actions]")
            self._keep("action", "", f.greedy_action(output))
        self.results |= {metric: f.share_of(marks) for metric, marks in self.marks.items()}

    def _mark(self, layer: str, units: Tensor, names: list[str]) -> None:
        chosen = [(name, threshold) for name, threshold in self.metrics if name in names]
        finite = f.finite_units(units)
        for name, threshold in chosen:
            mark = f.mark(UNITS[name](units, *_given(threshold)), finite)
            self.marks.setdefault(_key(name, threshold), []).append(mark)
            self.results[f"{_key(name, threshold)}/{layer}"] = f.share_of([mark])

    def _add_ranks(self, layer: str, inputs: int, sigma: Tensor) -> None:
        for name, threshold in self.ranks:
            values = sigma / math.sqrt(inputs) if name == "feature_rank_lyle" else sigma
            self.results[f"{_key(name, threshold)}/{layer}"] = RANKS[name](values, *_given(threshold))

    def _keep(self, kind: str, layer: str, value: Tensor) -> None:
        """Keeps a value for later passes and adds its changes since the previous and the first."""
        place = f"{kind}/{layer}" if layer else kind
        self.kept[place] = value
        for name, _ in self.metrics:
            base = name.removesuffix(FROM_FIRST)
            if base not in CHANGES or CHANGES[base][0] != kind:
                continue
            before = self.before.get("previous" if name == base else "first", {} if name == base else self.kept)
            if place in before:
                self.results[f"{name}/{layer}" if layer else name] = CHANGES[base][1](before[place], value)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, and every flag and random number generator as it was afterwards; compiled code runs eagerly."""
    flags = [(module, module.training) for module in model.modules()]
    own = [g for module in model.modules() for g in vars(module).values() if isinstance(g, torch.Generator)]
    states = [generator.get_state() for generator in own]
    tensors = chain(model.parameters(), model.buffers())
    devices = {tensor.device.index for tensor in tensors if tensor.is_cuda}
    try:
        for module, _ in flags:
            module.training = False
        with eagerly(model), generators_kept(devices):
            yield
    finally:
        for module, training in flags:
            module.training = training
        for generator, state in zip(own, states, strict=True):
            generator.set_state(state)


def _parse(name: str) -> Metric:
    """A metric's name and threshold, None for those that have none."""
    if name in METRICS:
        return name, THRESHOLDS.get(name)
    base, _, number = name.rpartition("_")
    try:
        if base in THRESHOLDS and math.isfinite(threshold := float(number)):
            return base, threshold
    except ValueError:
        pass
    raise ValueError(f"nap.Probe: metric {name!r} is unknown; {suggest(name, METRICS)}")


def _key(name: str, threshold: float | None) -> str:
    return name if threshold is None else f"{name}_{threshold:g}"


def _given(threshold: float | None) -> tuple[float, ...]:
    return () if threshold is None else (threshold,)


def numbered(name: str, calls: Counter[str]) -> str:
    calls[name] += 1
    return name if calls[name] == 1 else f"{name}[{calls[name] - 1}]"


def copy_batch(batch: Iterable[Any], device: torch.device | None = None) -> tuple[Any, ...]:
    return tuple(value.to(device, copy=True) if isinstance(value, Tensor) else value for value in batch)
