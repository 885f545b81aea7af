"""How many kernels and host synchronisations an update takes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tensordict import TensorDictBase
from torch._inductor.codecache import PyCodeCache
from torch.utils._python_dispatch import TorchDispatchMode

from agents.dqn import DQN

# allocation and bookkeeping: no kernel
FREE = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach", "alias", "_unsafe_view",
        "is_same_size", "lift_fresh", "set_", "resize_")  # fmt: skip
# the host waits for a value or for a shape
SYNCS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2")
# a launch in the code that Inductor writes: a kernel of its own, or a library call (a view of bytes is none)
LAUNCH = re.compile(
    r"^ +(?:\w+ = )?"
    r"(?:cpp_fused\w*|triton_\w+\.run|extern_kernels\.\w+|torch\.ops\.(?!aten\.view\.)\w+\.\w+\.\w+)\(",
    re.MULTILINE,
)


class OpCounter(TorchDispatchMode):
    """Counts the ATen calls inside it by name; a foreach or fused call is one, and views are none."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in FREE and func.namespace != "profiler":
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))

    def total(self, *names: str) -> int:
        """Calls of these names, or of all."""
        return sum(self.calls[name] for name in names or self.calls)


@dataclass(frozen=True)
class EagerCount:
    """Calls of one block of updates: all of them, those of the two graphs that can be compiled, and host syncs."""

    kernels: int
    syncs: int
    target: OpCounter
    loss: OpCounter


def eager_kernels(agent: DQN, block: TensorDictBase) -> EagerCount:
    """Count one block of an eager agent: its target pass, then an update for each minibatch."""
    agent.update(agent.bootstrap(block)[0])  # not counted: the first update makes the optimiser's state
    with OpCounter() as whole:
        batches = agent.bootstrap(block)
        for batch in batches:
            agent.update(batch)
    with OpCounter() as target, torch.no_grad():
        agent.target(block["next_obs"].flatten(0, 1))
    agent.online.zero_grad()
    with OpCounter() as loss:
        agent.loss(batches[0])[0].backward()
    return EagerCount(whole.total(), whole.total(*SYNCS), target, loss)


def compiled_kernels(agent: DQN, block: TensorDictBase, eager: EagerCount) -> int:
    """Kernels of the same block compiled: what the two graphs launch, and what stays outside of them."""
    batches, target = _launches(lambda: agent.bootstrap(block))
    _, loss = _launches(lambda: agent.update(batches[0]))
    count = len(batches)
    inside = eager.target.total() + count * eager.loss.total()
    return target + count * loss + eager.kernels - inside


def _launches(call: Callable[[], Any]) -> tuple[Any, int]:
    """What a first call gives, and the launches in the code that it compiles or takes from the cache.

    Counted in the code, because `torch._inductor.metrics.generated_kernel_count` counts every variant of a CPU loop
    that was tried, and a kernel once that is launched twice.
    """
    sources: list[str] = []
    load = PyCodeCache.load_by_key_path

    def record(key: str, path: str, *args: Any, **kwargs: Any) -> Any:
        sources.append(Path(path).read_text(encoding="utf-8"))
        return load(key, path, *args, **kwargs)

    with mock.patch.object(PyCodeCache, "load_by_key_path", record):
        result = call()
    return result, sum(launches_in(source) for source in sources)


def launches_in(source: str) -> int:
    """Launches written in one generated module; not its definitions of kernels."""
    return len(LAUNCH.findall(source))
