"""The memory format of every network with convolutions, and how networks are compiled."""

import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiment.processor import instruction_sets, vendor

NARROW = 16
"""Channels that fill the widest vector register of a processor."""
MOST = 4096
"""Graphs of one function in a process: each learner has its own of the same functions, and torch stops after 8."""


def memory_format(network: nn.Module) -> torch.memory_format:
    """channels_last, in which convolutions are quickest, or the contiguous format where channels_last is not safe.

    The oneDNN of torch 2.13 and 2.14 has a fault on x86 processors: in channels_last it writes past its own memory in
    the backward pass of some narrow convolutions that step over pixels, as the shortcuts of a narrow ResNet do. The
    process aborts, or goes on with wrong numbers. Processors with AVX2 and no AVX-512 are hit most. In the contiguous
    format oneDNN uses other code. A network with such a convolution is contiguous on every CPU, so that all CPUs
    compute the same.
    """
    at_risk = _on_cpu(network) and any(_steps_over_pixels(module) for module in network.modules())
    return torch.contiguous_format if at_risk else torch.channels_last


def _steps_over_pixels(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d) or module.in_channels >= NARROW:
        return False
    return any(stride > kernel for stride, kernel in zip(module.stride, module.kernel_size, strict=True))


def _on_cpu(network: nn.Module) -> bool:
    return any(parameter.device.type == "cpu" for parameter in network.parameters())


def compiled(
    function: Callable[..., Any],
    network: nn.Module,
    backend: str | Callable[..., Any] = "inductor",
    fullgraph: bool = True,
) -> Callable[..., Any]:
    """A function that calls the network, compiled as one graph that keeps the network's memory format.

    The function may call `backward()`, which is then a part of the graph. Outside of it, the gradients would be a
    second graph, called by the autograd engine; that costs a small network half as much time as its arithmetic.

    On a CPU the C++ compiler reads torch's headers, which takes it longer than the code. By default it does so for each
    kernel, for a precompiled header, and for tests of the vector registers; here, once for each graph.
    The kernels and their bits are the same.
    fullgraph: whether what cannot be one graph is an error. The count by which torch 2.13 and 2.14 know belongs to the
    whole process, so that calls from several threads at once fail by chance: they set it to False.
    """
    configure_compiler()
    options: dict[str, str | int | bool | Callable[..., Any]] = {}
    if _on_cpu(network):
        keep_code_apart()
        options |= {"cpp_wrapper": True, "cpp_cache_precompile_headers": False}
        if _widest_vectors():
            options["cpp.vec_isa_ok"] = True
        if by_onednn():
            from experiment.products import OneDNNProducts

            options["post_grad_custom_post_pass"] = OneDNNProducts()
    if memory_format(network) == torch.contiguous_format:
        options["layout_optimization"] = False  # on a CPU inductor else makes every convolution channels_last
    given = options if backend == "inductor" and options else None
    return torch.compile(function, fullgraph=fullgraph, dynamic=False, backend=backend, options=given)


def configure_compiler() -> None:
    """Lets this thread compile gradients within a graph, and as many networks as there are."""
    torch._dynamo.config.trace_autograd_ops = True
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = MOST


def keep_code_apart() -> None:
    """Lets torch keep its compiled code in a folder of its own for each kind of processor, in the folder that it has.

    inductor of torch 2.13 and 2.14 finds a graph there again by what it computes, not by the vector registers that its
    C++ was written for. A processor with others builds it for its own, and half of the numbers are then whatever the
    memory held, or the process aborts. Such folders are shared by the machines of a cluster, and by processes with
    different ATEN_CPU_CAPABILITY.
    """
    from torch._inductor import config
    from torch._inductor.cpu_vec_isa import pick_vec_isa
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    with config.patch({"cpp.vec_isa_ok": True} if _widest_vectors() else {}):
        kind = f"{platform.machine()} {pick_vec_isa()} {sorted(instruction_sets())}"
    folder, name = Path(cache_dir()), f"processor-{hashlib.sha256(kind.encode()).hexdigest()[:12]}"
    if folder.name.startswith("processor-"):  # of this machine, or of the one that started this process
        folder = folder.parent
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / name)


def _widest_vectors() -> bool:
    """Whether torch's own kernels use the processor's widest registers. Then what inductor tests is known to work."""
    return torch.backends.cpu.get_cpu_capability() == ("AVX512" if "avx512f" in instruction_sets() else "AVX2")


def by_onednn() -> bool:
    """Whether oneDNN computes the float32 products of compiled networks on this processor.

    MKL keeps to AVX2 on AMD's processors with AVX-512, where oneDNN uses AVX-512 and is up to twice as fast.
    The processor decides, not a measurement: one processor always computes the same bits.
    """
    return (
        vendor() == "AuthenticAMD"
        and "avx512f" in instruction_sets()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
    )
