"""Tests whether torch.compile works on this machine before a run depends on it."""

import ctypes
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import torch

from experiment.values import ConfigError

ROOM = 32_000_000
"""Bytes that must be free in the folder of compiled code; a compiled loss takes a few MB."""
SOURCE = '#include <Python.h>\nextern "C" int answer() { return 42; }\n'
NO_COMPILER, BAD_COMPILER = "InvalidCxxCompiler", "CppCompileError"
"""Errors of torch._inductor.exc, by name: that module cannot be imported if its folder cannot be used."""
ADVICE = "TORCHINDUCTOR_CACHE_DIR names the folder, CXX the compiler"


def check_compiler(device: torch.device | str) -> None:
    """Raises ConfigError, with the cause in one line, if a function cannot be compiled for the device."""
    if cause := compiler_fault(torch.device(device)):
        raise ConfigError(f"--compile: {cause}; {ADVICE}")


def compiler_fault(device: torch.device) -> str | None:
    """Why nothing can be compiled for the device, in one line, or None if it can.

    For a CPU, torch.compile's builder compiles a few lines of C++ in torch's folder, and the result is loaded, as for
    every graph. For another device, torch.compile compiles a function of one line.
    """
    try:
        return _fault(device)
    except Exception as error:  # a compiler, a loader, a file system: whatever fails here would fail in the run
        return complaint(error)


def _fault(device: torch.device) -> str | None:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    for frame, _ in traceback.walk_stack(sys._getframe()):
        if not _is_utf8(name := frame.f_code.co_filename):  # torch.compile reads the names of the stack's files
            return f"the program's own files have names that are not UTF-8, {name!r} for one"
    folder = cache_dir()
    free = shutil.disk_usage(folder).free
    if free < ROOM:
        return f"{folder!r} has room for {free / 1e6:.0f} MB of compiled code, and {ROOM / 1e6:.0f} MB are needed"
    if device.type == "cpu":
        _build(folder)
    else:
        torch.compile(lambda x: x.sin() + 1, fullgraph=True)(torch.zeros(8, device=device))
    return None


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _build(folder: str) -> None:
    from torch._inductor.cpp_builder import CppBuilder, CppTorchOptions

    with tempfile.TemporaryDirectory(prefix="try-", dir=folder) as own:
        source = Path(own, "answer.cpp")
        source.write_text(SOURCE)
        builder = CppBuilder("answer", str(source), CppTorchOptions(), own)
        try:
            builder.build()
        except Exception as error:
            if len(folder.split()) == 1:
                raise
            raise RuntimeError(f"the name of the folder {folder!r} has a space, and {complaint(error)}") from None
        try:
            ctypes.CDLL(builder.get_target_file_path())
        except OSError as error:
            reason = str(error).rpartition(": ")[2]
            raise RuntimeError(f"nothing built in {folder!r} can be loaded (mounted noexec?): {reason}") from None


def is_toolchain_failure(error: BaseException) -> bool:
    """Whether torch.compile failed because a compiler, a library or disk space is missing."""
    inner = getattr(error, "inner_exception", error)
    return isinstance(inner, OSError | ImportError) or type(inner).__name__ in (NO_COMPILER, BAD_COMPILER)


def complaint(error: BaseException) -> str:
    """The cause of an error of torch.compile in one line: the first error in a compiler's output."""
    inner = getattr(error, "inner_exception", error)
    name = type(inner).__name__
    if name == NO_COMPILER:
        return "no C++ compiler works here (g++, or what CXX names)"
    if name == BAD_COMPILER or isinstance(inner, subprocess.CalledProcessError):
        lines = [line.strip() for line in _text(getattr(inner, "output", None)).splitlines() if line.strip()]
        complaints = [line for line in lines if "error" in line.lower()]
        return f"the C++ compiler fails: {(complaints or lines or ['without a word'])[0]}"
    if isinstance(inner, OSError) and inner.strerror:
        return f"{inner.strerror}: {str(inner.filename)!r}"
    line = (str(inner).strip().splitlines() or [""])[0]
    return line if line and type(inner) is RuntimeError else f"{name}: {line}".removesuffix(": ")


def _text(output: str | bytes | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
