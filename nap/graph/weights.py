"""The weight matrices of a module, by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce

import torch
from torch import Tensor, nn

from nap.graph.foreign import LINEAR_ROLES, Role, role
from nap.graph.parameters import coscaled_params
from nap.graph.sharded import global_norms, is_sharded, local_parts, own_class, rows_of

_Transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_Transposed)
MATRIX_LAYERS = (nn.Linear, *Conv, nn.Embedding)


@dataclass(frozen=True)
class Weight:
    """One weight matrix: a whole parameter, the rows of it that form the matrix, or one matrix of a stack."""

    name: str
    owner: nn.Module
    parameter: nn.Parameter
    rows: slice | int | None = None
    owners: list[nn.Module] = field(default_factory=list)
    """Every module that holds the parameter, `owner` first."""
    tied: list[str] = field(default_factory=list)
    """The parameter's other names."""
    free: bool = False
    """Whether the owner is no layer, so that only the data flow can say whether the parameter is a weight."""
    coscaled_params: list[nn.Parameter] = field(default_factory=list)
    """Parameters that the layer's output is linear in together with this one, such as the σ of a noisy layer."""

    @property
    def out_axis(self) -> int:
        """The axis that counts the output features (of an embedding: the tokens)."""
        transposed = isinstance(self.owner, _Transposed) or role(self.owner) is Role.TRANSPOSED_LINEAR
        return 1 if transposed else 0

    def value(self) -> Tensor:
        """The matrix, detached, sharing storage with the parameter as it is stored now."""
        return self._own(self.parameter)

    def values(self) -> list[Tensor]:
        """The matrix, and the parameters that have one scale with it."""
        return [self.value(), *map(self._own, self.coscaled_params)]

    def _own(self, parameter: nn.Parameter) -> Tensor:
        value = parameter.detach()
        return value if self.rows is None else rows_of(value, self.rows)

    def split(self, parts: int) -> list[Weight]:
        """The matrix as so many matrices of equally many rows, such as heads or experts.

        Raises ValueError if its rows cannot be divided, if its first axis is not its outputs', or if it is one of a
        stack, whose axes only its code knows.
        """
        rows = self.value().shape[0]
        if isinstance(self.rows, int) or self.out_axis or not isinstance(parts, int) or parts < 1 or rows % parts:
            why = "its rows are its inputs" if self.out_axis else f"it has {rows} rows"
            why = "it is a matrix of a stack already" if isinstance(self.rows, int) else why
            raise ValueError(f"nap.Projection: {self.name} cannot be split into {parts!r} matrices: {why}")
        start, size = (self.rows.start if self.rows else 0), rows // parts
        slices = [slice(start + i * size, start + (i + 1) * size) for i in range(parts)]
        return [replace(self, name=f"{self.name}[{i}]", rows=own) for i, own in enumerate(slices)]


def find_weights(module: nn.Module, free: bool = False) -> dict[str, Weight]:
    """The weight matrices of every linear, convolution, embedding and attention layer, in registration order.

    A module of another library that computes x @ weight or x @ weight.T (+ bias) is a linear layer too.
    `nn.MultiheadAttention` stores its query, key and value matrices as one parameter; they are three matrices here,
    named `in_proj_weight[q]`, `[k]` and `[v]`. A tied parameter appears once, under its first name.
    free: also the parameters of modules that are no layers: of two dimensions, and stacks of matrices: `w[0]`, `w[1]`.
    """
    found: dict[str, Weight] = {}
    whole: dict[int, Weight] = {}
    for prefix, owner in module.named_modules():
        for name, parameter, rows in _matrices(owner):
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise ValueError(f"{prefix or type(owner).__name__} is lazy and has no weight yet: run one batch first")
            full = f"{prefix}.{name}" if prefix else name
            if rows is None and id(parameter) in whole:
                first = whole[id(parameter)]
                first.owners.append(owner)
                first.tied.append(full)
                continue
            found[full] = Weight(full, owner, parameter, rows, [owner])
            found[full].coscaled_params.extend(owner._parameters[other] for other in coscaled_params(owner, name))
            if rows is None:
                whole[id(parameter)] = found[full]
    return found | _free_weights(module, found) if free else found


def _free_weights(module: nn.Module, found: dict[str, Weight]) -> dict[str, Weight]:
    """The matrices of parameters whose owner is no layer of torch's, and that belong to no weight yet."""
    known = {id(p) for weight in found.values() for p in (weight.parameter, *weight.coscaled_params)}
    owners = {id(p): owner for owner in module.modules() for p in owner._parameters.values() if p is not None}
    others: dict[str, Weight] = {}
    for name, parameter in module.named_parameters():
        if id(parameter) in known or own_class(owner := owners[id(parameter)]).__module__.startswith("torch."):
            continue
        if parameter.ndim == 2:
            others[name] = Weight(name, owner, parameter, None, [owner], free=True)
        elif parameter.ndim == 3 and min(parameter.shape) > 1:
            parts = ((f"{name}[{i}]", i) for i in range(len(parameter)))
            others |= {full: Weight(full, owner, parameter, i, [owner], free=True) for full, i in parts}
    return others


def _matrices(owner: nn.Module) -> Iterable[tuple[str, nn.Parameter, slice | None]]:
    own = owner._parameters
    if (isinstance(owner, MATRIX_LAYERS) or role(owner) in LINEAR_ROLES) and own.get("weight") is not None:
        yield "weight", own["weight"], None  # type: ignore[misc]
    elif isinstance(owner, nn.MultiheadAttention):
        if (packed := own.get("in_proj_weight")) is not None:
            size = owner.embed_dim
            for i, part in enumerate("qkv"):
                yield f"in_proj_weight[{part}]", packed, slice(i * size, (i + 1) * size)
        for part in "qkv":
            if (parameter := own.get(f"{part}_proj_weight")) is not None:
                yield f"{part}_proj_weight", parameter, None


SMALL = 4096
CHUNK = 512


def frobenius_norms(values: list[Tensor]) -> list[Tensor]:
    """The norm of each tensor, one foreach call: float64 scalars if any is float64, else float32 (bfloat16 too).

    On a CPU the call adds one square after another in float32, which loses the small ones of a large tensor: 4.6e-3 of
    the norm of 4096 x 4096 equal numbers. Up to 4096 values it is right to 1e-6. Larger ones go in as norms of chunks.
    """
    if not values:
        return []
    values = [torch.view_as_real(value) if value.is_complex() else value for value in values]
    if any(is_sharded(value) for value in values):
        return global_norms(frobenius_norms(local_parts(values)), values)
    if any(value.dtype is torch.float64 for value in values):
        return list(torch._foreach_norm(values, 2, torch.float64))
    return list(torch._foreach_norm([_in_chunks(value) for value in values], 2, torch.float32))


def _in_chunks(value: Tensor) -> Tensor:
    """A tensor of the same norm with few entries; `value` itself if it is small or not on a CPU."""
    if value.numel() <= CHUNK or not value.is_cpu:
        return value
    if value.dtype is not torch.float32:
        value = value.float()  # faster than a norm that converts
    if not value.is_contiguous():  # the order does not matter to a norm: as stored nothing is copied
        value = value.permute(sorted(range(value.ndim), key=value.stride, reverse=True)).contiguous()
    if value.numel() <= SMALL:
        return value
    while (size := value.numel()) > CHUNK:
        whole = value if size % CHUNK == 0 else value.view(-1)[: size // CHUNK * CHUNK]
        norms = torch.linalg.vector_norm(whole.view(-1, CHUNK), 2, 1)
        if whole is not value:
            norms = torch.cat([norms, torch.linalg.vector_norm(value.view(-1)[whole.numel() :])[None]])
        value = norms
    return value


def joint_norms(groups: list[list[Tensor]]) -> list[Tensor]:
    """The norm of each group of tensors taken as one tensor; of a single tensor its own norm."""
    norms = iter(frobenius_norms([value for group in groups for value in group]))
    return [next(norms) if len(group) == 1 else reduce(torch.hypot, [next(norms) for _ in group]) for group in groups]
