"""Parameters that are spread over processes: FSDP2 and tensor parallelism store each one as a DTensor."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # else imported where it is needed: torch may be built without it
    from typing import TypeGuard

    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor

ORDER = "nap.normalize, then fully_shard or parallelize_module, the optimiser, nap.Projection"


def is_sharded(value: object) -> TypeGuard[DTensor]:
    return hasattr(value, "device_mesh")


def own_class(module: nn.Module) -> type:
    """The class that a module had before `fully_shard` gave it another."""
    kind: Any = type(module)
    return kind.__mro__[kind._orig_cls_mro_index] if hasattr(kind, "_orig_cls_mro_index") else kind


def local_parts(values: list[Tensor]) -> list[Tensor]:
    """This process's part of each tensor, sharing its storage: the tensor itself if it is not sharded."""
    return [value.to_local() if is_sharded(value) else value for value in values]


def global_norms(norms: list[Tensor], values: list[Tensor]) -> list[Tensor]:
    """The norms of whole tensors, from the norms of this process's parts; one all-reduce for each process group."""
    from torch.distributed import all_reduce

    groups: dict[ProcessGroup, list[int]] = {}
    for i, value in enumerate(values):
        if is_sharded(value):
            for dim, placement in enumerate(value.placements):
                if not placement.is_replicate():
                    groups.setdefault(value.device_mesh.get_group(dim), []).append(i)
    dtype, device = norms[0].dtype, norms[0].device
    squares = list(torch.stack(norms).double().square().unbind())  # in float32 they would overflow above 2e19
    for group, members in groups.items():
        first: Any = values[members[0]]
        on_mesh = first.device_mesh.device_type  # not where the parameters are, if they are offloaded
        summed = torch.stack([squares[i] for i in members]).to(on_mesh)
        all_reduce(summed, group=group)
        for i, square in zip(members, summed.to(device).unbind(), strict=True):
            squares[i] = square
    return list(torch.stack(squares).sqrt().to(dtype).unbind())


def rows_of(value: Tensor, rows: slice | int) -> Tensor:
    """Some rows of a tensor, or one, sharing its storage. Of a DTensor sharded by rows: those that this process has.

    That result is for `local_parts` and `global_norms` alone: its parts are not of the sizes that torch expects.
    """
    by_rows = [p for p in value.placements if getattr(p, "dim", None) == 0] if is_sharded(value) else []
    if not is_sharded(value) or not by_rows:
        return value[rows]
    rows = slice(rows, rows + 1) if isinstance(rows, int) else rows
    if not all(placement.is_shard() for placement in by_rows):  # FSDP2 on top of tensor parallel rows: not contiguous
        raise ValueError("nap: the rows of a packed matrix are sharded twice, which is not supported")
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    first = compute_local_shape_and_global_offset(value.shape, value.device_mesh, value.placements)[1][0]
    part = value.to_local()[max(rows.start - first, 0) : max(rows.stop - first, 0)]
    shape = torch.Size((rows.stop - rows.start, *value.shape[1:]))
    return DTensor.from_local(
        part, value.device_mesh, value.placements, run_check=False, shape=shape, stride=value.stride()
    )


def all_reduced(value: Tensor) -> Tensor:
    """A result whose terms lie on several processes, summed; another tensor as it is."""
    if not is_sharded(value) or not any(placement.is_partial() for placement in value.placements):
        return value
    from torch.distributed.tensor import Replicate

    return value.redistribute(placements=[Replicate() if p.is_partial() else p for p in value.placements])


def whole(value: Tensor) -> Tensor:
    """The whole of a tensor. Every process has to call it."""
    return value.full_tensor() if is_sharded(value) else value


def copy_whole(target: Tensor, value: Tensor) -> None:
    """Copies a whole tensor into one that may be sharded."""
    if is_sharded(target):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None).to_local()
        target = target.to_local()
    target.copy_(value)


def prepare(caller: str, module: nn.Module) -> None:
    """Refuses FSDP1; puts the shards of FSDP2 back in place of the whole parameters that a forward leaves behind."""
    if (fsdp := sys.modules.get("torch.distributed.fsdp")) is None:
        return
    for name, part in module.named_modules():
        if isinstance(part, fsdp.FullyShardedDataParallel):
            raise ValueError(
                f"{caller}: {name or 'the module'} is a FullyShardedDataParallel, which flattens matrices: use "
                f"torch.distributed.fsdp.fully_shard instead, in this order: {ORDER}"
            )
        if isinstance(part, fsdp.FSDPModule):
            part.reshard()


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Inside, a module has the classes, hooks and shapes that it had before it was sharded, and zeros as values.

    An analysis reads no more. The hooks of FSDP2 would stop it, and their state would not survive its calls.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    parts = list(module.modules())
    fsdp_parts = [part for part in parts if fsdp is not None and isinstance(part, fsdp.FSDPModule)]
    if not fsdp_parts and not any(is_sharded(parameter) for parameter in module.parameters()):
        yield
        return
    classes = {part: type(part) for part in fsdp_parts}
    attributes = {part: dict(part.__dict__) for part in parts}  # FSDP2's state is among them, its key starts with "__"
    stand_ins: dict[Any, nn.Parameter] = {
        value: nn.Parameter(value.to_local().new_zeros(()).expand(value.shape), value.requires_grad)
        for value in module.parameters()
        if is_sharded(value)
    }
    try:
        for part in classes:
            part.__class__ = own_class(part)
        for part, saved in attributes.items():
            _replace(part, {key: _without_torchs_own(key, value) for key, value in saved.items() if key[:2] != "__"})
            part._parameters = {name: stand_ins.get(value, value) for name, value in part._parameters.items()}
        yield
    finally:
        for part, saved in attributes.items():
            _replace(part, saved)
        for part, kind in classes.items():
            part.__class__ = kind


def _replace(module: nn.Module, attributes: dict[str, Any]) -> None:
    module.__dict__.clear()
    module.__dict__.update(attributes)


def _without_torchs_own(key: str, value: Any) -> Any:
    """An attribute without the hooks of torch.distributed."""
    if not key.endswith("_hooks"):
        return value
    return OrderedDict((i, hook) for i, hook in value.items() if not hook.__module__.startswith("torch.distributed"))
