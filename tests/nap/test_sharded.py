"""Weights spread over two gloo processes: FSDP2, tensor parallelism and DDP keep the norms of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent
SPREAD = ("ddp", "fsdp2", "hsdp", "tensor", "tensor+fsdp2", "upsampling")
OPTIONS = ("plain", "neuron", "unit", "bound", "joint", "decay")
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of every case of sharded_runs.py, by case, of each process."""
    folder = tmp_path_factory.mktemp("sharded")
    command = [sys.executable, str(ROOT / "tests/nap/sharded_runs.py"), str(folder)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = {"stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, rank], env=env, **pipe) for rank in "01"]  # type: ignore[call-overload]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors[0] + errors[1]
    return [
        {path.name.removesuffix(f".{rank}.pt"): torch.load(path) for path in folder.glob(f"*.{rank}.pt")}
        for rank in "01"
    ]


def same(left: Any, right: Any, rtol: float = 1e-6, atol: float = 0.0) -> None:
    torch.testing.assert_close(left, right, rtol=rtol, atol=atol)


CASES = [f"{spread}, {options}" for spread in SPREAD for options in OPTIONS] + ["attention", "experts", "foreign"]


@pytest.mark.parametrize("case", CASES)
def test_norms_and_parameters_are_those_of_one_process(runs: list[dict[str, Any]], case: str) -> None:
    alone, spread = runs[0][case]["alone"], runs[0][case]["spread"]
    assert len(alone["initial"]) == {"attention": 6, "experts": 3, "foreign": 1}.get(case, 2)
    same(spread["initial"], alone["initial"])  # the whole matrix's, or of each of all the neurons
    if case.endswith("bound"):
        same(spread["norms"], alone["norms"], rtol=1e-4)
        assert all((norm <= spread["initial"][name] * (1 + 1e-6)).all() for name, norm in spread["norms"].items())
    else:
        same(spread["norms"], spread["initial"])
    same(spread["values"], alone["values"], rtol=0, atol=1e-4 if "upsampling" in case else 2e-6)
    moved = [(spread["values"][name] - value).abs().max() for name, value in alone["start"].items()]
    assert max(moved) > 0.05
    same(runs[1][case]["spread"], spread, rtol=0)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_state_is_of_the_whole_model(runs: list[dict[str, Any]], options: str) -> None:
    found = runs[0]["resumed"][options]
    for state in found[1:]:  # loaded into another sharded projection, and into one of a single process
        same(state, found[0], rtol=0)
    same(found[0]["initial_norms"], runs[0][f"fsdp2, {options}"]["alone"]["initial"])
    assert found[0]["updates"] == 10
    same(runs[1]["resumed"][options], found, rtol=0)


def test_a_projection_made_before_sharding_is_refused(runs: list[dict[str, Any]]) -> None:
    for error in runs[0]["before"].values():
        assert "shard" in error
        assert "\n" not in error


def test_what_cannot_be_right_is_refused_in_one_line(runs: list[dict[str, Any]]) -> None:
    order = "nap.normalize, then fully_shard or parallelize_module, the optimiser, nap.Projection"
    found = runs[0]["refused"]
    assert (
        found["normalize"] == found["normalize tensor"] == f"nap.normalize: 0.weight is sharded; the order is {order}"
    )
    for caller, key in (("nap.Projection", "fsdp1"), ("nap.normalize", "normalize fsdp1")):
        assert found[key].startswith(f"{caller}: the module is a FullyShardedDataParallel, which flattens matrices")
        assert found[key].endswith(order)
    for key in ("packed", "groups"):
        assert "rows of a sharded parameter" in found[key]
        assert "\n" not in found[key]


def test_the_report_on_a_sharded_model_is_the_one_before_sharding(runs: list[dict[str, Any]]) -> None:
    for sharded, alone in runs[0]["analyzed"].values():
        assert sharded == alone


def test_all_norms_take_one_all_reduce_and_whole_rows_none(runs: list[dict[str, Any]]) -> None:
    assert runs[0]["reductions"] == {"frobenius": [(2,)], "neuron": []}


def test_nap_does_not_need_torchs_distributed_part() -> None:
    code = """
import sys, torch
sys.modules |= {name: None for name in ("torch.distributed.tensor", "torch.distributed.fsdp")}  # their import fails
import nap
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
nap.normalize(model)
projection = nap.Projection(model, affine="joint")
model[0].weight.data.mul_(2)
projection.project()
kept = projection.initial_norms["0.weight"]
assert abs(projection.norms()["0.weight"] / kept - 1) < 1e-6
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
