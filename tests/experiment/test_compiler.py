"""The try of torch.compile, with real compilers and folders that fail."""

import os
import subprocess
import sys

import pytest
import torch

from experiment import compiler
from experiment.compiler import check_compiler, compiler_fault, is_toolchain_failure
from experiment.config import ConfigError
from tests.broken_compiler import broken_compiler

CPU = torch.device("cpu")
ASKED = 'case "$*" in *.cpp*) ;; *) exec g++ "$@" ;; esac; '
"""What lets a compiler say which one it is, as torch asks, before it fails."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Names the folder of compiled code, and takes it away again."""

    def use(name):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / name))
        return tmp_path / name

    return use


def test_a_compiler_that_works_leaves_nothing_behind(folder):
    path = folder("code")
    assert compiler_fault(CPU) is None
    check_compiler("cpu")
    assert [item.name for item in path.iterdir()] == []


def test_a_folder_with_a_space_in_its_name(folder):
    path = folder("my code")
    assert f"the name of the folder {str(path)!r} has a space, and the C++ compiler fails: " in compiler_fault(CPU)


def test_a_program_in_a_folder_whose_name_is_not_utf8(folder):
    folder("code")
    found = {"compiler_fault": compiler_fault, "device": CPU}
    name = os.fsdecode(b"/my-\xff/run.py")
    exec(compile("fault = compiler_fault(device)", name, "exec"), found)
    assert found["fault"] == "the program's own files have names that are not UTF-8, '/my-\\udcff/run.py' for one"


def test_a_folder_without_room(folder, monkeypatch):
    path = folder("code")
    monkeypatch.setattr(compiler, "ROOM", 2**70)
    assert compiler_fault(CPU).startswith(f"{str(path)!r} has room for ")


def test_a_file_in_the_place_of_the_folder(folder):
    path = folder("code")
    path.touch()
    assert compiler_fault(CPU) == f"File exists: {str(path)!r}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(folder):
    path = folder("code")
    path.mkdir(mode=0o500)
    assert compiler_fault(CPU).startswith("Permission denied: ")


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("exit 1", "no C++ compiler works here (g++, or what CXX names)"),
        (f'{ASKED}echo "in file a:"; echo "x.cpp: fatal error: no space left"; exit 1',
         "the C++ compiler fails: x.cpp: fatal error: no space left"),
        (f"{ASKED}exit 1", "the C++ compiler fails: without a word"),
        (f"{ASKED}exit 0", "nothing built in "),
    ],
)  # fmt: skip
def test_a_compiler_that_fails(folder, tmp_path, script, cause):
    folder("code")
    with broken_compiler(tmp_path, script):
        assert compiler_fault(CPU).startswith(cause)
        with pytest.raises(ConfigError, match="--compile: ") as caught:
            check_compiler("cpu")
    assert "\n" not in str(caught.value)


def test_there_is_no_compiler():
    code = "import torch; from experiment.compiler import compiler_fault; print(compiler_fault(torch.device('cpu')))"
    bare = {"PATH": os.path.dirname(sys.executable), "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True)
    assert done.stdout == "no C++ compiler works here (g++, or what CXX names)\n"


def test_the_folder_is_no_folder_when_torch_first_asks_for_it(tmp_path):
    (tmp_path / "file").touch()
    code = "import torch; from experiment.compiler import compiler_fault; print(compiler_fault(torch.device('cpu')))"
    where = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "file" / "code")}
    done = subprocess.run([sys.executable, "-c", code], env=where, capture_output=True, text=True, check=True)
    assert done.stdout == f"Not a directory: {str(tmp_path / 'file' / 'code')!r}\n"


RAISES = """
import sys
from pathlib import Path
import torch
from experiment.compiler import complaint, is_toolchain_failure
from tests.broken_compiler import broken_compiler
torch._inductor.config.compile_threads = 1
with broken_compiler(Path(sys.argv[1]), sys.argv[2]):
    try:
        torch.compile(lambda x: x.sin() + x.numel())(torch.zeros(7))
    except Exception as error:
        print(is_toolchain_failure(error), complaint(error), sep="; ")
"""


def test_what_torch_compile_itself_raises_then_is_one_line(folder, tmp_path):
    """In a process of its own: torch remembers for which vector registers a compiler has built."""
    folder("code")
    words = [sys.executable, "-c", RAISES, str(tmp_path), f'{ASKED}echo "c++: error: broken"; exit 1']
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "True; the C++ compiler fails: c++: error: broken\n"


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("x"), NotImplementedError()])
def test_other_errors_are_not_the_compilers(error):
    assert not is_toolchain_failure(error)
