"""Numbers that are no longer finite: found where metrics are read, or kept out update by update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

FOLD = 64
"""Losses that `LossWatch` looks at together."""


class NonFinite(ArithmeticError):
    """A loss or a part of the state is NaN or infinite; the message says which, in one line."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the CPU has no memory left; torch has no error type for the CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


class LossWatch:
    """Counts the updates before the first loss that is not finite; the device is not waited for.

    Attributes:
        seen: losses so far.
    """

    def __init__(self) -> None:
        self.seen = 0
        self._folded = 0
        self._fine: Tensor | None = None
        self._waiting: list[Tensor] = []

    def note(self, loss: Tensor) -> None:
        """Takes the scalar loss of the next update, which must not be written to afterwards."""
        self.seen += 1
        self._waiting.append(loss)
        if len(self._waiting) == FOLD:
            self._fold()

    def _fold(self) -> None:
        fine = torch.isfinite(torch.stack(self._waiting).detach()).long().cumprod(0).sum()
        self._fine = fine if self._fine is None else self._fine + fine * (self._fine == self._folded)
        self._folded = self.seen
        self._waiting.clear()

    def fine(self, device: torch.device | str = "cpu") -> Tensor:
        """Losses before the first bad one, all of them if none is bad: a scalar, on the losses' device if any is."""
        if self._waiting:
            self._fold()
        return torch.zeros((), dtype=torch.int64, device=device) if self._fine is None else self._fine


class SkipNonFinite:
    """Makes an optimiser skip the updates whose loss or gradient is not finite.

    Call `look(loss)` between `backward()` and `optimizer.step()`. The device decides, and the host does not wait for
    it. A skipped update changes neither parameters nor moments nor step counts, and its gradients become 0. While all
    values are finite, this class changes no bit. A gradient also counts as not finite when its norm overflows. The
    mechanism is `found_inf` of torch's gradient scaler, which fused optimisers read.

    Attributes:
        left_out: bool scalar, whether the last update was skipped. count: int64 scalar, number of skipped updates.

    Raises:
        ValueError: an optimiser that cannot skip updates.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not getattr(optimizer, "_step_supports_amp_scaling", False):
            raise ValueError(f"{type(optimizer).__name__} cannot leave out updates: it has to be made with fused=True")
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        device = self._parameters[0].device
        self.left_out = torch.zeros((), dtype=torch.bool, device=device)
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self._found = torch.zeros((), device=device)
        optimizer.found_inf = self._found  # type: ignore[attr-defined]

    @torch.no_grad()
    def look(self, loss: Tensor) -> None:
        """Decides whether the next step of the optimiser counts."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        values = [loss, *torch._foreach_norm(gradients)]
        self.left_out.copy_(~torch.isfinite(torch.stack([value.float() for value in values])).all())
        self._found.copy_(self.left_out)
        self.count += self.left_out
        for gradient in gradients:
            gradient.masked_fill_(self.left_out, 0)


def magnitudes(state: Any) -> dict[str, Tensor]:
    """Largest absolute value of each floating-point tensor in nested dicts and sequences, by its path.

    NaN and infinity stay what they are. All are on the device of the first, and nothing waits for it.
    """
    tensors = dict(_tensors(state, ""))
    if not tensors:
        return {}
    norms = torch._foreach_norm([tensor.detach() for tensor in tensors.values()], ord=math.inf)
    return {path: norm.to(norms[0].device).float() for path, norm in zip(tensors, norms, strict=True)}


def _tensors(state: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        if state.is_floating_point() and state.numel():
            yield path, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from _tensors(value, f"{path}.{key}" if path else str(key))
    elif isinstance(state, list | tuple):
        for index, value in enumerate(state):
            yield from _tensors(value, f"{path}[{index}]")


def bad_names(values: Mapping[str, float]) -> str:
    """The names of what is not finite, the first three of many; "" if all is finite."""
    names = [name for name, value in values.items() if not math.isfinite(value)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def check_finite(state: Any, values: Mapping[str, float] | None = None) -> None:
    """Raises NonFinite if a tensor of the state, or one of `values`, is not finite; reads the device once."""
    norms = magnitudes(state)
    sizes = torch.stack(list(norms.values())).tolist() if norms else []
    if names := bad_names({**(values or {}), **dict(zip(norms, sizes, strict=True))}):
        raise NonFinite(f"not finite: {names}")
