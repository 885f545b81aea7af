"""The sections on the CPU, where nothing may differ, what makes each fail, and the command that keeps to its time."""

import json
import sys
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import gpu
from benchmarks.speed import gpu_sections, learners
from benchmarks.speed.gpu_sections import Task
from benchmarks.speed.learners import update_block

CPU = Task("cpu", lambda: 1e9)


@pytest.fixture(autouse=True)
def little(monkeypatch):
    """Little replays, blocks and lists of learners."""
    for name, value in {"STEPS": 200, "BATCH": 2, "BLOCK": 2}.items():
        monkeypatch.setattr(learners, name, value)
    monkeypatch.setattr(gpu_sections, "CASES", {"small": {}, "bf16, NaP": {"precision": "bf16", "nap": True}})
    monkeypatch.setattr(gpu_sections, "GRAPHED", {"small": {"nap": True}, "noisy": {"noisy": True}})
    monkeypatch.setattr(gpu_sections, "NETWORKS", ("small",))
    learners.learner_replay.cache_clear()
    yield
    learners.learner_replay.cache_clear()


def passed(findings):
    return [finding.passed for finding in findings]


def reported(folder):
    """The findings of each section in the report."""
    sections = json.loads((folder / "gpu.json").read_text())["sections"]
    return {name: [tuple(finding.values()) for finding in findings] for name, findings in sections.items()}


def called(agent, block):
    """In the place of a CUDA graph: the updates are made, and made again by each call."""
    update_block(agent, block)
    return partial(update_block, agent, block)


def test_the_cpu_agrees_with_itself():
    findings = list(gpu_sections.correctness(CPU))
    assert passed(findings) == [True, True]
    assert "losses of 4 updates apart by 0.0e+00" in findings[0].text


def test_another_learning_rate_is_not_correct(monkeypatch):
    rates, make = iter([1e-4, 1.01e-4] * 2), gpu_sections.learner
    monkeypatch.setattr(gpu_sections, "learner", lambda device, **given: make(device, lr=next(rates), **given))
    assert passed(gpu_sections.correctness(CPU))[0] is False


def test_what_a_graph_replays_is_what_eager_updates_make():
    assert passed(gpu_sections.graph(CPU, called)) == [True, True]


def test_a_graph_that_leaves_an_update_out_is_noticed():
    assert passed(gpu_sections.graph(CPU, lambda agent, block: called(agent, block[:1])))[0] is False


def test_what_cannot_be_captured_is_a_line_and_the_others_go_on():
    def capture(agent, block):
        if not agent.methods:
            raise RuntimeError("operation not permitted\nwhile a stream is capturing")
        return called(agent, block)

    first, second = gpu_sections.graph(CPU, capture)
    assert (first.passed, second.passed) == (True, False)
    assert second.text == "cannot be captured: operation not permitted while a stream is capturing"


def test_an_update_that_reads_a_number_waits(monkeypatch):
    assert passed(gpu_sections.waits(CPU)) == [True, True]
    make = gpu_sections.learner

    def learner(device, **given):
        agent = make(device, **given)
        update = agent.update
        agent.update = lambda batch: {"loss": torch.tensor(update(batch)["loss"].item())}
        return agent

    monkeypatch.setattr(gpu_sections, "learner", learner)
    finding = next(gpu_sections.waits(CPU))
    assert not finding.passed
    assert finding.text.startswith("2 waits in 2 updates")


def test_speed_is_measured_of_what_there_is_time_for_and_works(monkeypatch):
    monkeypatch.setattr(gpu_sections, "PRECISIONS", ("fp32",))
    monkeypatch.setattr(gpu_sections, "SECONDS", 0.01)
    contestants = learners.contestants

    def with_a_broken_one(settings):
        for each in contestants(settings):
            yield each if each.name != "fp32, eager, NaP" else replace(each, setup=lambda: [][0])

    monkeypatch.setattr(learners, "contestants", with_a_broken_one)
    found = {finding.name: finding for finding in gpu_sections.speed(Task("cpu", lambda: 30.0))}
    assert list(found) == [
        f"small, fp32, {how}" for how in ("compiled, plain", "eager, plain", "eager, NaP", "compiled, NaP")
    ]
    assert found["small, fp32, compiled, plain"].text == "left out: no time"
    assert found["small, fp32, eager, NaP"] == ("small, fp32, eager, NaP", "list index out of range", False)
    assert float(found["small, fp32, eager, plain"].text.partition(" ")[0]) > 0


WRITES = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[2]) / sys.argv[4]
folder.mkdir()
(folder / "metrics.jsonl").write_text('{"agent_step": 40}\\n')
"""
RESULT = {"training_seconds": 2.0, "updates": 30, "agent_steps": 50, "score": {"mean": 1.25, "episodes": 4}}
SAVES = f"(folder / 'result.json').write_text(json.dumps({RESULT}))"
ENDS = {
    SAVES: {"2 s of training": None, "30 in 50 agent steps": True, "1.2, the mean of 4 games": None},
    "sys.exit('error: no\\nsuch game')": {"exit code 1: error: no such game": False},
    "import time; time.sleep(60)": {"past agent step 40": None},
    "(folder / 'metrics.jsonl').write_text(''); import time; time.sleep(60)": {"past agent step 0": False},
}


@pytest.mark.parametrize("script", ENDS)
def test_a_run_is_told_however_it_ends(script, tmp_path):
    command = [sys.executable, "-c", WRITES + script, "--root", str(tmp_path), "--name", "a"]
    findings = list(gpu_sections.run(Task("cpu", lambda: 3.0, command)))
    for finding, (text, good) in zip(findings, ENDS[script].items(), strict=True):
        assert finding.text.endswith(text)
        assert finding.passed is good


@pytest.mark.parametrize(
    ("served", "last"),
    [
        (
            "import time, subprocess; subprocess.run(['sleep', '60'])",
            ("time", "ended after its 2 s, before it was through"),
        ),
        ("import os; os.write(2, b'a\\nCUDA error\\n'); os._exit(3)", ("error", "exit code 3: CUDA error")),
        ('print(\'["error", "b", false]\'); raise SystemExit(1)', ("error", "b")),
    ],
)
def test_a_section_that_hangs_or_dies_costs_its_own_time_alone(served, last, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "SERVE", 'print(\'["a", "fine", true]\', flush=True)\n' + served)
    monkeypatch.setattr(gpu, "SECTIONS", {"waits": 2, "memory": 2})
    began = time.monotonic()
    assert gpu.main(["--device", "cpu", "--only", "waits", "memory", "--out", str(tmp_path)]) == 1
    assert time.monotonic() - began < 20
    assert reported(tmp_path) == {name: [("a", "fine", True), (*last, False)] for name in ("waits", "memory")}
    assert "2 of 4 checks passed" in capsys.readouterr().out


def test_sections_beyond_the_time_are_left_out(tmp_path, capsys):
    assert gpu.main(["--device", "cpu", "--minutes", "0.001", "--out", str(tmp_path)]) == 0
    assert reported(tmp_path) == {name: [("time", "left out: no time", None)] for name in gpu.SECTIONS}


def test_a_real_section_in_its_process(tmp_path):
    assert gpu.main(["--device", "cpu", "--only", "memory", "--out", str(tmp_path)]) == 0
    assert reported(tmp_path) == {"memory": [("peak memory", "not counted on cpu", None)]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cuda:99"], "--device cuda:99 cannot be used: "),
        (["--device", "mps"], "--device mps cannot be used: it has to be cpu, cuda or cuda:N"),
        (["--device", "cpu", "--only", "graphs"], "--only: 'graphs' is none of correctness, graph"),
        (["--device", "cpu", "--steps", "10"], "--steps is 10"),
    ],
)
def test_what_cannot_be_checked_is_one_line(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        gpu.main([*words, "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {message}")
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_run_is_a_command_that_the_agent_takes():
    from agents.cli import settings

    words = gpu.Settings(device="cpu").run_command("a")[3:]
    config = settings("dqn", words)
    assert (config.steps, config.nap, config.eval_episodes) == (20_000, True, 10)
