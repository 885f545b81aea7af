"""A pretend accelerator on the CPU: its tensors say that they are elsewhere, and mix with the CPU's as CUDA's do.

`torch.device("pretend")` works once this file is imported, in the whole process and for good: what uses it runs in a
process of its own (test_pretend_device.py). A tensor there holds one of the CPU, to which every operation is passed on,
so that results are the CPU's own. `waits()` counts what the host of a real accelerator waits for. Generators are the
CPU's too, and say that they are not. Not pretended: streams, an allocator, compiled code, captured graphs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

HERE = "pretend"
WAITS: Counter[str] = Counter()
READS = {
    "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim", "bincount",
    "repeat_interleave", "_linalg_eigh", "linalg_eig", "_linalg_svd",
}  # fmt: skip
MOVES = {"_to_copy", "copy_", "_foreach_copy_", "_copy_from"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
TAKES_SCALARS = {"masked_fill", "masked_fill_", "fill_", *INDEXED}


class PretendTensor(Tensor):
    """A tensor on the pretend device; `host` has its values."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> PretendTensor:
        layout = {"strides": host.stride(), "storage_offset": host.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, host.shape, **layout, dtype=host.dtype, device=f"{HERE}:0")
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, *args, **(kwargs or {}))

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        """With its inverse it tells torch that a module which moves has to swap such parameters in."""
        return ["host"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta: None, size: Any, stride: Any) -> PretendTensor:
        return PretendTensor(inner["host"])

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:  # in a file it is as torch.load gives it with map_location="cpu"
        return self.host.__reduce_ex__(protocol)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{self.host!r} on {HERE}"


class Generator(torch._C.Generator):
    """`torch.Generator`, which makes them for the pretend device too."""

    elsewhere: ClassVar[dict[int, torch._C.Generator]] = {}  # kept, so that no other gets the address of one

    def __new__(cls, device: Any = "cpu") -> Generator:
        pretend = torch.device(device).type == HERE
        made = super().__new__(cls, "cpu" if pretend else device)
        if pretend:
            cls.elsewhere[made._cdata] = made
        return made

    @property
    def device(self) -> torch.device:
        return torch.device(_place(self))


def _place(thing: Tensor | torch._C.Generator) -> str:
    if isinstance(thing, Tensor):
        return HERE if isinstance(thing, PretendTensor) else "cpu"
    return HERE if thing._cdata in Generator.elsewhere else "cpu"


def run(func: Any, *args: Any, **kwargs: Any) -> Any:
    """One operation of which a tensor is on the pretend device, or which makes one there."""
    name, given = func.overloadpacket.__name__, list(_leaves([*args, *kwargs.values()]))
    ours = [tensor for tensor in given if isinstance(tensor, PretendTensor)]
    place = _place(ours[0]) if ours else "cpu"
    if kwargs.get("device") is not None:
        place = torch.device(kwargs["device"]).type
        kwargs["device"] = torch.device("cpu") if place == HERE else kwargs["device"]
    if name in MOVES:
        place = _move(name, args, kwargs, place)
    else:
        _refuse_mixed(func, name, args, kwargs, given, place)
        if ours:
            _count_reads(name, args)
    result = func(*_mapped(_host, args), **_mapped(_host, kwargs))
    if ours and torch.Tag.inplace_view in func.tags:  # squeeze_, say: the same of the tensor's own sizes
        with torch._C._DisableTorchDispatch():
            func(*args, **kwargs)
    for tensor in ours:
        assert tensor.shape == tensor.host.shape, f"{func} resizes a tensor, which the pretend device cannot"
    known = {id(tensor.host): tensor for tensor in ours}
    return _mapped(lambda made: known.get(id(made), PretendTensor(made) if place == HERE else made), result)


def _move(name: str, args: Any, kwargs: Any, place: str) -> str:
    """Count copies from one device to the other; where the result is."""
    if name == "_to_copy":
        pairs = [(place, args[0])]
    else:
        to, source = (args[1], args[0]) if name == "_copy_from" else args[:2]
        pairs = [(_place(a), b) for a, b in (zip(to, source, strict=True) if isinstance(to, list) else [(to, source)])]
    at_once = kwargs.get("non_blocking") or True in args[2:]
    for there, source in pairs:
        if there != _place(source) and not at_once:
            WAITS[f"copy to {there}"] += 1
    return pairs[0][0]


def _refuse_mixed(func: Any, name: str, args: Any, kwargs: Any, given: list[Tensor], place: str) -> None:
    generator = kwargs.get("generator")
    if generator is not None and _place(generator) != place:
        raise RuntimeError(f"Expected a {place!r} device type for generator but found {_place(generator)!r}")
    others = [tensor for tensor in given if _place(tensor) == "cpu"]
    if name in INDEXED and _place(args[0]) == HERE:  # indices may be the CPU's: they are copied there
        indices = [index for index in args[1] if index is not None and _place(index) == "cpu"]
        WAITS["copy to pretend"] += len(indices)
        others = [tensor for tensor in others if not any(tensor is index for index in indices)]
    if not others or len(others) == len(given):
        return
    scalars = torch.Tag.pointwise in func.tags or name in TAKES_SCALARS or name.startswith(("_foreach", "_fused"))
    names = [argument.name for argument in func._schema.arguments if argument.is_write]
    bound = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    written = list(_leaves([bound.get(name) for name in names]))
    if not scalars or any(tensor.ndim for tensor in others) or any(_place(tensor) == "cpu" for tensor in written):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {HERE} and cpu: {func}")


def _count_reads(name: str, args: Any) -> None:
    masks = [i for i in args[1] if i is not None and i.dtype == torch.bool] if name in INDEXED else []
    filled = name.startswith("index_put") and args[2].ndim == 0  # as masked_fill does it, without looking
    WAITS[name] += name in READS or bool(masks and not filled)


def _host(tensor: Tensor) -> Tensor:
    return tensor.host if isinstance(tensor, PretendTensor) else tensor


def _mapped(call: Callable[[Tensor], Any], value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_mapped(call, each) for each in value)
    if isinstance(value, dict):
        return {key: _mapped(call, each) for key, each in value.items()}
    return call(value) if isinstance(value, Tensor) else value


def _leaves(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """What the host waits for inside, by the name of the operation."""
    before, found = WAITS.copy(), Counter[str]()
    yield found
    found.update(WAITS - before)


class Everywhere(TorchDispatchMode):
    """Sees every operation: those that make a tensor on the pretend device, or draw from its generators, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, *args, **(kwargs or {}))


class Hooks(torch._C._acc.PrivateUse1Hooks):
    """What torch asks of a device's library."""

    def is_available(self) -> bool:
        return True

    def is_built(self) -> bool:
        return True

    def has_primary_context(self, device_index: int) -> bool:
        return True


class Module(backend_registration._DummyBackendModule):
    """What would be `torch.cuda`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def synchronize(self, device: Any = None) -> None:
        """Nothing is ever under way."""


backend_registration._setup_privateuseone_for_python_backend(HERE, Module(), Hooks())
ATEN, ANY = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
ATEN.impl("_to_copy", partial(run, torch.ops.aten._to_copy.default), "PrivateUse1")  # modes do not see torch.tensor's
ANY.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
torch.Generator = Generator  # type: ignore[misc]
torch.accelerator.synchronize = getattr(torch, HERE).synchronize
Everywhere().__enter__()
