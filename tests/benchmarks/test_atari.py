"""Sweeps over games, seeds and arms, run with an agent that learns nothing and is done in a second."""

import functools
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from agents.config import DQNConfig
from benchmarks import atari
from benchmarks.sweep import suites
from benchmarks.sweep.command import AgentSweep, Settings, parse
from benchmarks.sweep.runs import KIND, UPDATE, AgentRuns, part_length
from benchmarks.sweep.suites import SUITES, Arm, arms, check_agent, entries, games
from envs.games import ATARI_57
from experiment.storage.run_dir import RunDir
from experiment.sweeps import calibration, gpus
from experiment.sweeps.manifest import Entry, Manifest
from experiment.sweeps.status import RunStatus, SweepStatus
from experiment.sweeps.sweep import SweepState
from experiment.sweeps.view import as_panel, print_status
from experiment.sweeps.workload import RunKind
from experiment.values import ConfigError

FAKE = """
import json, sys, time
from pathlib import Path
from agents.cli import settings
from experiment.interrupt import Interrupt
from experiment.storage.run_dir import RunDir

class Agent: ...

def option(name):
    return sys.argv[len(sys.argv) - sys.argv[::-1].index(name)]

def main():
    resumed = "--resume" in sys.argv
    config = settings("fake:Agent", sys.argv[1:])
    if resumed:
        run = RunDir.open(option("--resume"))
    else:
        run = RunDir.create(config.root, config.name, config, explicit=True)
    run.lock()
    assert not run.result.exists()
    if config.env == "Qbert":
        sys.exit("the ROM is gone")
    step = max([int(path.name) for path in run.checkpoints.iterdir()], default=0)
    part = config.log_interval
    with Interrupt() as interrupt:
        while step < config.steps and not interrupt.requested:
            step += part
            seconds = 0.01 * step + 0.04 * max(step - config.update_start, 0)
            with open(run.metrics, "a") as file:
                row = {"agent_step": step, "seconds": seconds, "mean_return": 1.5}
                file.write(json.dumps(row | {"updates": max(step - config.update_start, 0)}) + "\\n")
            (run.checkpoints / str(step)).mkdir()
            time.sleep(config.lr)
    if step < config.steps:
        sys.exit(130)
    with open(run.path.parent / "results.txt", "a") as file:
        file.write(run.path.name + "\\n")
    score = {"mean": 30.5 if config.seed else 1.7, "episodes": 10}
    more = {"updates": step - config.update_start, "parameter_hash": "abc", "protocol": {"name": "atari100k"}}
    run.write_result({"score": score, "agent_steps": step, "seconds": {"training": seconds}, **more})

if __name__ == "__main__":
    main()
"""
REPLACED = """
import sys

if "benchmarks.atari" in sys.orig_argv:
    from tests.benchmarks.test_atari import play_the_fake
    play_the_fake(setattr)
"""
"""Has every process of a sweep run the fake: Python imports sitecustomize as it starts."""
STEPS = ["--", "--steps", "400", "--log-interval", "40", "--update-start", "200"]


def play_the_fake(replace_attribute) -> None:
    """Runs of the agent fake:Agent are those of the program `fake`, which needs no torch."""
    check, program = suites.check_agent, suites._program
    replace_attribute(suites, "check_agent", lambda agent: None if agent == "fake:Agent" else check(agent))
    fake = (sys.executable, "-m", "fake")
    replace_attribute(suites, "_program", lambda agent: fake if agent == "fake:Agent" else program(agent))
    check_start = AgentRuns.check_start
    replace_attribute(
        AgentRuns,
        "check_start",
        lambda kind, entry, here: (RunKind.check_start if "fake:Agent" in entry.command else check_start)(
            kind, entry, here
        ),
    )


@pytest.fixture(autouse=True)
def _fake_agent(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "fake.py").write_text(FAKE)
    (tmp_path / "code" / "sitecustomize.py").write_text(REPLACED)
    play_the_fake(monkeypatch.setattr)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "code" / "cache"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'code'}:{Path(__file__).parents[2]}")


def words(tmp_path: Path, *more: str, suite: str = "Breakout,AirRaid", seeds: int = 2) -> list[str]:
    root = ["--root", str(tmp_path / "root"), "--suite", suite, "--seeds", str(seeds)]
    return [*root, "--agent", "fake:Agent", "--processes", "2", *more]


def parsed(words: list[str]) -> tuple[Settings, tuple[str, ...]]:
    return parse(words, Settings)


def launch(words: list[str], **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "benchmarks.atari", *words], **options)


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def lines_of(sweep: SweepStatus) -> str:
    console = Console(file=io.StringIO())
    print_status(sweep, console)
    return console.file.getvalue()


def pid_of(run: Path) -> int:
    return int((run / ".lock").read_text()) if any((run / "checkpoints").glob("*")) else 0


def test_kills_of_a_worker_and_the_launcher_and_a_closed_terminal_lose_no_run_and_do_none_twice(tmp_path):
    root, names = tmp_path / "root", [f"a-{game}-s{seed}" for seed in (0, 1) for game in ("Breakout", "AirRaid")]
    command = words(tmp_path, "--arm", "a:--lr 0.1 --lr-floor 0", *STEPS)
    first = launch(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: pid_of(root / names[0]) and pid_of(root / names[1]))
    os.kill(pid_of(root / names[0]), signal.SIGKILL)
    wait_for(lambda: (root / names[2]).exists())
    shown = lines_of(SweepStatus(KIND, root, Manifest.load(root).runs))
    assert re.search(r"\d+% \d(\.\d)?/4 runs, .*waiting 1, running 2, ", shown) or "done 1" in shown
    assert re.search(r"running: a-Breakout-s1: \d+/400 agent steps", shown)
    first.kill()
    first.wait()

    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    second = launch(command, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    text = b""
    while b"return 1.5" not in text:
        text += os.read(leader, 4096)
    assert b"human-normalised, best" in text
    os.close(leader)  # the terminal is closed
    assert second.wait(timeout=60) == 0
    assert sorted((root / "results.txt").read_text().split()) == sorted(names)
    for name in names:
        rows = [json.loads(line)["agent_step"] for line in (root / name / "metrics.jsonl").read_text().splitlines()]
        assert rows == list(range(40, 401, 40))
    assert "done 4, failed 0, best 1.000 a-Breakout-s1, worst 0.000 a-Breakout-s0" in lines_of(
        SweepStatus(KIND, root, Manifest.load(root).runs)
    )
    before = (root / "logs" / f"{names[0]}.log").read_bytes()
    assert atari.main(command) == 0
    assert (root / "logs" / f"{names[0]}.log").read_bytes() == before


def test_a_run_that_fails_is_retried_and_named_here_and_in_the_status(tmp_path, capfd):
    assert atari.main(words(tmp_path, "--retries", "1", *STEPS, suite="Qbert", seeds=1)) == 1
    assert "failed: Agent-Qbert-s0: the ROM is gone (exit code 1), 2 attempts, log: " in capfd.readouterr().out
    assert atari.main(["--status", str(tmp_path / "root")]) == 0
    out = capfd.readouterr().out
    assert "waiting 0, running 0, done 0, failed 1" in out
    assert "failed: Agent-Qbert-s0: the ROM is gone (exit code 1), 2 attempts\n" in out


def dry_run(capfd, words: list[str]) -> list[str]:
    assert atari.main([*words[: words.index("--")], "--dry-run", *words[words.index("--") :]]) == 0
    return capfd.readouterr().out.splitlines()


def test_the_dry_run_measures_the_cost_when_told_to_remembers_it_and_writes_nothing(tmp_path, capfd):
    both = ["--arm", "slow:--utd 2", "--arm", "plain:"]
    lines = dry_run(capfd, words(tmp_path, *both, *STEPS))
    assert lines[1:4] == [
        "arm slow: cost unknown, 4 runs to do",
        "arm plain: cost unknown, 4 runs to do",
        "cost: unknown (--calibrate measures it now: 200 updates of each arm)",
    ]
    lines = dry_run(capfd, words(tmp_path, *both, "--calibrate", *STEPS))
    # 200 agent steps of play at 0.01 s, and 200 of learning at 0.05 s
    assert lines[:4] == [
        "8 runs: 0 done, 0 to resume, 8 to start",
        "arm slow: 12 s a run, by 200 updates on Breakout; 4 to do",
        "arm plain: 12 s a run, by 200 updates on Breakout; 4 to do",
        "cost: 0.01 hours with 2 at a time; compiling and evaluations come on top",
    ]
    assert lines[4] == "arms slow, plain: single runs: --agent: fake has no agents.dqn.DQN 'Agent'; known: none"
    assert lines[5].startswith("start   slow-Breakout-s0: ")
    assert lines[6:] == ["and 7 more runs: --all-commands prints each"]
    again = dry_run(capfd, words(tmp_path, *both, "--arm", "new:--utd 3", "--all-commands", *STEPS))
    assert re.fullmatch(r"arm slow: 12 s a run, as measured on \d{4}-\d\d-\d\d; 4 to do", again[1])
    assert again[3] == "arm new: cost unknown, 4 runs to do"
    assert again[4].startswith(
        "cost: 0.01 hours with 2 at a time, without 1 arm; compiling and evaluations come on top (--"
    )
    assert again[5] == (
        "arms slow, plain, new: single runs: of the networks only MinAtar's is known to be faster in fleets; "
        "--dry-run --calibrate measures it"
    )
    assert [line.split()[1] for line in again[6:]] == [
        f"{arm}-{game}-s{seed}:"
        for seed in (0, 1)
        for game in ("Breakout", "AirRaid")
        for arm in ("slow", "plain", "new")
    ]
    longer = dry_run(capfd, words(tmp_path, *both, "--", "--steps", "4200", *STEPS[3:]))
    assert longer[1].startswith("arm slow: 202 s a run, as measured on ")  # 0.01 s for 200 steps, 0.05 s for 4,000
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("content", [None, "{", "[]", '{"KEY": 3}', '{"KEY": ["a", 1, "b"]}'])
def test_a_lost_or_damaged_measurement_is_none(content, tmp_path):
    memory, config = calibration.Memory(KIND, "cpu"), DQNConfig().resolved()
    if content is not None:
        memory.path.parent.mkdir(parents=True)
        memory.path.write_text(content.replace("KEY", memory._key(config)))
    assert memory.recall(config) is None
    memory.keep(config, calibration.Pace(0.5, 2.0, "now"))
    assert memory.recall(config)[:2] == (0.5, 2.0)
    assert memory.recall(replace(config, steps=500, seed=3, env="Pong"))[:2] == (0.5, 2.0)
    for other in (replace(config, threads=config.threads + 1), replace(config, utd=Fraction(2))):
        assert memory.recall(other) is None
    assert calibration.Memory(KIND, "cuda").recall(config) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_dry_run_that_is_ended_leaves_no_process_and_no_folder(tmp_path, number):
    (tmp_path / "tmp").mkdir()
    slow = words(tmp_path, "--dry-run", "--calibrate", *STEPS, "--lr", "10")
    heard = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # these tests may themselves ignore it
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
    process = launch(slow, env=environment, stdout=subprocess.DEVNULL, preexec_fn=heard)
    wait_for(lambda: any(map(pid_of, (tmp_path / "tmp").glob("*/calibration"))))
    (pid,) = map(pid_of, (tmp_path / "tmp").glob("*/calibration"))
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert not any((tmp_path / "tmp").iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_sweep_takes_no_less_than_its_longest_run(tmp_path, monkeypatch):
    ready = AgentSweep(*parsed(words(tmp_path, "--arm", "a:", "--arm", "b:--utd 2", seeds=1)))
    pace = {"a": 7200.0 / DQNConfig().budget, "b": 0.0}
    costs = [calibration.cost(ready.packing, ready.runs, count, {}, True) for count in (1, 8, None)]
    monkeypatch.setattr(calibration, "calibrate", lambda _, entry, *__: calibration.Pace(*2 * [pace[entry.arm]], "now"))
    assert [list(lines)[-1][:16] for lines in costs] == [
        "cost: 4.00 hours",
        "cost: 2.00 hours",
        "cost: 4.00 hours",
    ]


def test_a_calibration_runs_where_the_sweep_will(tmp_path, monkeypatch):
    ready, seen = AgentSweep(*parsed(words(tmp_path, seeds=1))), []

    def run(words, *, env, **_):
        seen.append(env)
        return subprocess.CompletedProcess(words, 1, "", "no such GPU")

    monkeypatch.setattr(calibration.subprocess, "run", run)
    lines = list(calibration.cost(ready.packing, ready.runs, 1, {"CUDA_VISIBLE_DEVICES": "7"}, True))
    assert "could not be calibrated: no such GPU" in lines[0]
    assert {env["CUDA_VISIBLE_DEVICES"] for env in seen} == {"7"}


def save(tmp_path: Path, *more: str, **options) -> AgentSweep:
    ready = AgentSweep(*parsed(words(tmp_path, *more, **options)))
    ready.write_manifest()
    return ready


def test_seeds_and_arms_extend_the_list_and_other_settings_are_refused(tmp_path):
    root = tmp_path / "root"
    one = save(tmp_path, "--arm", "a:--utd 2", seeds=1)
    text = (root / "manifest.json").read_text()
    (root / "manifest.json").write_text(text.replace('"layout": 2', '"layout": 1').replace('"task"', '"game"'))
    save(tmp_path, "--arm", "b:", "--arm", "a:--utd 2", seeds=3)
    loaded = Manifest.load(root)
    assert loaded.runs[:2] == one.runs
    assert {(run.arm, run.task, run.seed) for run in loaded.runs} == {
        (arm, game, seed) for arm in "ab" for game in ("Breakout", "AirRaid") for seed in range(3)
    }
    save(tmp_path, "--arm", "a:--utd 2 --threads 2")  # of the machine
    for suite in ("Breakout,AirRaid", "Pong"):
        with pytest.raises(ConfigError, match=r"arm 'a' has other settings in .*, --utd is 2 there and 4 here: give"):
            save(tmp_path, "--arm", "a:--utd 4", suite=suite)
    text = (root / "manifest.json").read_text()
    (root / "manifest.json").write_text(text.replace(one.runs[0].config_hash, "0123456789abcdef"))
    save(tmp_path, "--arm", "a:--utd 2")  # hashed by another version
    assert Manifest.load(root).runs[0] == one.runs[0]
    (root / "manifest.json").unlink()
    run = root / "a-AirRaid-s0"
    run.mkdir()
    (run / "config.yaml").write_text("agent: fake:Agent\nenv: AirRaid\nutd: 2\nlr: 0.1\n")
    with pytest.raises(ConfigError, match=r"arm 'a' has other settings in .*, --\S+ is .* there and .* here"):
        save(tmp_path, "--arm", "a:--utd 2")


WRONG = {
    "a misspelt game": (["--suite", "Pong,Braekout"], "unknown game 'Braekout'; did you mean 'Breakout'"),
    "a misspelt suite": (["--suite", "atari100"], "or of the suites did you mean 'atari100k'?"),
    "no game": (["--suite", ","], "--suite names no game"),
    "no seed": (["--seeds", "0"], "--seeds is 0: it has to be at least 1"),
    "an unknown flag": (["--arm", "x:--napp"], "arm 'x': unknown option '--napp'; did you mean '--nap'?"),
    "a wrong value": (["--arm", "x:--utd fast"], "arm 'x': --utd: expected a rational"),
    "an option that is the sweep's": (["--arm", "x:--seed=3"], "arm 'x': --seed is set by the sweep"),
    "one of them after --": (["--", "--env", "Pong"], "the options after --: --env is set by the sweep"),
    "two arms of one name": (["--arm", "x:", "--arm", "x:--nap"], "two arms are named 'x'"),
    "an arm without a name": (["--arm", ":--nap"], 'write name:"flags"'),
    "an open quote": (["--arm", "x:--plasticity 'a"], "arm 'x': \"--plasticity 'a\": No closing quotation"),
    "an unknown preset": (["--config", "atari"], "no preset or file is named 'atari'"),
    "two presets": (["--config", "a", "--config", "b"], "--config is given twice"),
    "an unknown agent": (["--agent", "dre"], "--agent 'dre' is neither known nor module:Class; did you mean 'der'?"),
    "no such module": (["--agent", "nowhere:A"], "--agent: 'nowhere:A' cannot be imported: No module named 'nowhere'"),
    "no such class": (
        ["--agent", "examples.new_agent:AdvantageLerning"],
        "examples.new_agent has no agents.dqn.DQN 'AdvantageLerning'; did you mean 'AdvantageLearning'?",
    ),
    "no such option of an agent": (
        ["--agent", "examples.new_agent:AdvantageLearning:alpa=1"],
        "has no option 'alpa'; did you mean 'alpha'?",
    ),
    "no such option in an arm": (
        ["--arm", "x:--agent examples.new_agent:AdvantageLearning:alpha=much"],
        "alpha=much: it has to be a number",
    ),
    "a known agent in an arm": (["--arm", "x:--agent der"], "arm 'x': --agent is set by the sweep"),
    "runs of a GPU without one": (["--per-gpu", "2"], "--per-gpu is for --device cuda"),
    "flags without quotes": (["--arm", "a:--plasticity", "redo"], 'in quotes: --arm a:"--plasticity redo"'),
    "flags cut in two": (
        ["--arm", "a:--nap", "--utd", "2"],
        "--utd is an option of the agent: put it in the quotes",
    ),
    "a name of a run": (["--name", "x"], "--name is set by the sweep, for every run: leave it out"),
    "a calibration of a sweep": (["--calibrate"], "--calibrate is for --dry-run"),
    "a class that is no agent": (
        ["--agent", "examples.new_method:MyMethod", "--dry-run"],
        "examples.new_method has no agents.dqn.DQN 'MyMethod'",
    ),
    "an option without a value": (["--arm"], "--arm needs a value"),
    "a folder that is a file": (["--root", __file__], "is a file, where a folder is wanted"),
    "no sweep": (["--status", "/nowhere"], "no sweep in '/nowhere': it has no manifest.json"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capfd, case):
    monkeypatch.chdir(tmp_path)
    given, message = WRONG[case]
    with pytest.raises(SystemExit) as exit:
        atari.main(given)
    out, err = capfd.readouterr()
    assert exit.value.code == 2
    assert message in err
    assert (out, err.count("\n")) == ("", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["code"]


def test_a_damaged_list_and_a_forbidden_folder_are_one_line_and_left_alone(tmp_path, monkeypatch):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "manifest.json").write_text("{")
    for more in ([], ["--dry-run"]):
        with pytest.raises(SystemExit):
            atari.main(words(tmp_path, *more))
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["manifest.json"]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match="cannot be read and written"):
        save(tmp_path)


TWO = """
if __name__ == "__main__":
    from agents.cli import main

    raise SystemExit(main("two:First"))

from agents.dqn import DQN


class First(DQN): ...


class Second(DQN): ...
"""


def test_every_agent_of_a_module_is_swept_by_the_command_of_one(tmp_path, capfd):
    (tmp_path / "code" / "two.py").write_text(TWO)
    run = ["--update-start=40", "--batch-size=4", "--compile=false", "--probe-interval=0", "--eval-episodes=0"]
    where = ["--root", str(tmp_path / "my sweep"), "--suite", "Catch", "--seeds", "1", "--processes", "1"]
    assert atari.main([*where, "--agent", "two:Second", "--", "--steps=60", *run]) == 0
    out = capfd.readouterr().out
    assert out.startswith("1 run in ")
    assert out.splitlines()[-1] == f"done, 1 run: python -m benchmarks.report '{tmp_path / 'my sweep'}'"
    assert "best" not in out  # Catch has no human score
    stored = tmp_path / "my sweep" / "Second-Catch-s0"
    assert json.loads((stored / "result.json").read_text())["agent"] == "two:Second"
    assert "agent: two:Second\n" in (stored / "config.yaml").read_text()


def test_suites_are_the_papers_and_lists_are_resolved_once_each():
    sizes = {"atari100k": 26, "high-utd-20": 20, "atari57": 57, "minatar": 5}
    assert {name: len(games(name)) for name in SUITES} == sizes
    assert games("ms_pacman, ALE/MsPacman-v5,Krull") == ("MsPacman", "Krull")
    (arm,) = arms("der", "small", [], [])
    assert (arm.name, arm.argv) == ("der-small", ("--config", "small"))
    with pytest.raises(ConfigError):
        check_agent("examples.new_agent:Nothing")
    check_agent("examples.new_agent:AdvantageLearning")


def test_minatar_is_swept_by_itself_and_by_its_own_rules():
    with pytest.raises(ConfigError, match="have other rules or networks: sweep them apart"):
        games("Pong,MinAtar/Breakout")
    (arm,) = arms("dqn", None, [], ["--protocol", "minatar", "--steps", "none", "--frames", "5001"])
    assert arm.config("MinAtar/Breakout").steps == 5_001
    with pytest.raises(ConfigError, match="arm 'dqn': --protocol 'minatar' is not for Breakout: it has to"):
        arm.config("Breakout")


def test_a_run_has_one_thread_unless_its_arm_says_otherwise(tmp_path):
    for flags, words in (([], ["--threads", "1"]), (["--threads", "2"],) * 2, (["--threads=3"],) * 2):
        (arm,) = arms("dqn", None, [], flags)
        (entry,) = entries([arm], ["Pong"], 1, tmp_path)
        assert [arg for arg in entry.command if arg.startswith("--threads")] == words[:1]
        assert KIND.settings(entry).threads == int(words[-1].rpartition("=")[2])


def test_a_preset_that_is_a_file_has_its_full_path(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("agent: der\nlr: 0.01\n")
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / "mine.yaml")
    for flags, found in (("--config mine.yaml", ("--config", path)), ("--config=mine.yaml", (f"--config={path}",))):
        (arm,) = arms("der", None, [f"x:{flags} --utd 2"], [])
        assert arm.argv == (*found, "--utd", "2")
    (arm,) = arms("der", None, [], ["--config", "mine.yaml"])
    assert arm.argv == ("--config", path)


@settings(max_examples=6, deadline=None)
@given(
    st.sets(st.sampled_from(ATARI_57), min_size=1, max_size=2),
    st.integers(1, 2),
    st.sampled_from(["", "--utd 3/7", "--nap --plasticity redo:period=100,tau=0.1 --plasticity cbp", "--config small"]),
)
def test_the_command_of_a_run_gives_its_settings(played, seeds, flags):
    both = arms("der", None, [f"x:{flags}", "y:--lr 0.01"], ["--steps", "3000"])
    made = entries(both, sorted(played), seeds, Path("/root"))
    assert len({entry.name for entry in made}) == len(made) == 2 * len(played) * seeds
    of = {arm.name: arm for arm in both}
    for entry in made:
        config = KIND.settings(entry)
        assert (config.name, config.root, config.steps) == (entry.name, "/root", 3000)
        assert replace(config, name=None, root="run", seed=0) == of[entry.arm].config(entry.task)
        assert (config.seed, KIND.config_hash(config)) == (entry.seed, entry.config_hash)


def test_the_hash_tells_apart_what_is_learned_and_nothing_else():
    config = DQNConfig()
    names = {"env", "seed", "name", "root", "resume", "fork", "fork_hash", "fork_changed"}
    names |= {"keep_checkpoints", "checkpoint_at"}
    machine = {"device", "threads", "compile", "track", "on_nonfinite", "checkpoint_interval", "probe_interval"}
    machine |= {"fit_probe_interval"}
    for field in fields(DQNConfig):
        other = replace(config, **{field.name: "another"})
        assert (KIND.config_hash(other) == KIND.config_hash(config)) == (field.name in names | machine), field.name
        assert KIND.difference(vars(config), vars(other)).startswith(f"--{field.name.replace('_', '-')} is ") == (
            field.name not in names | machine
        )


@settings(max_examples=30, deadline=None)
@given(
    st.fractions(Fraction(1, 50), 16), st.integers(1, 512), st.integers(1, 20), st.integers(1, 64), st.integers(0, 99)
)
def test_a_calibration_can_train_and_foretells_a_steady_run(utd, batch_size, n_step, num_envs, start):
    config = DQNConfig(utd=utd, batch_size=batch_size, n_step=n_step, num_envs=num_envs)
    part = part_length(config, calibration.UPDATES)
    replace(config, steps=4 * part, update_start=2 * part, schedule="constant").resolved()
    assert part % num_envs == 0
    assert 2 * part * utd >= calibration.UPDATES
    times = {part: part * 0.5, 2 * part: part * 1.0, 3 * part: 1000.0, 4 * part: 1000.0 + 2 * part}
    whole = replace(config, steps=1000, update_start=start)
    assert calibration.Pace(*calibration.paces(times), "").seconds(KIND.workload(whole)) == pytest.approx(
        0.5 * start + 2 * (1000 - start)
    )


def board_of(statuses: list[RunStatus]) -> SweepStatus:
    runs = entries([Arm("a", "dqn", ()), Arm("b", "dqn", ("--utd", "2"))], ["Pong"], len(statuses) // 2, Path("/r"))
    sweep = SweepStatus(KIND, Path("/r"), runs, {run.name: there for run, there in zip(runs, statuses, strict=True)})
    works = {"a": KIND.workload(DQNConfig()), "b": KIND.workload(DQNConfig(utd=Fraction(2)))}
    sweep.workloads = {(run.arm, run.config_hash): works[run.arm] for run in runs}
    return sweep


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["waiting", "running", "done", "failed"]), min_size=2, max_size=8).filter(
        lambda states: len(states) % 2 == 0
    ),
    st.integers(1, 4),
    st.data(),
)
def test_the_time_left_is_that_of_every_run_at_its_arms_pace(states, processes, data):
    steps = [0 if state == "waiting" else data.draw(st.integers(1, 100_000)) for state in states]
    steps = [100_000 if state == "done" else step for state, step in zip(states, steps, strict=True)]
    pace = {"a": 0.1, "b": 0.3}
    sweep = board_of([RunStatus()] * len(states))
    units = {}
    for run, state, step in zip(sweep.entries, states, steps, strict=True):
        seconds = pace[run.arm] * sweep.workload(run).work(step)
        sweep.statuses[run.name] = RunStatus(state, step, None, seconds, step)
        if step:
            units.setdefault(run.arm, []).append(seconds)
    shares = [
        sweep.workload(run).work(step) / sweep.workload(run).work(100_000) if state != "done" else 1.0
        for run, state, step in zip(sweep.entries, states, steps, strict=True)
    ]
    assert sweep.done() == pytest.approx(sum(shares))
    left = sweep.seconds_left(processes)
    if not units:
        assert left is None
    elif len(units) == 2:
        each = [
            pace[run.arm] * sweep.workload(run).work(100_000) * (1 - share)
            for run, share, state in zip(sweep.entries, shares, states, strict=True)
            if state in ("waiting", "running")
        ]
        assert left == pytest.approx(max(sum(each) / processes, *each, 0.0), abs=1e-6)


@pytest.mark.parametrize("compiling", [0.0, 53.0])
def test_the_time_left_is_that_of_updates_however_quick_the_play_before_them(compiling, tmp_path):
    """A step of play takes 2 ms, one with its update 52 ms; the first update compiles."""
    (run,) = entries([Arm("a", "dqn", ())], ["Pong"], 1, tmp_path)
    sweep = SweepStatus(KIND, tmp_path, [run])
    config = KIND.settings(run)
    (tmp_path / run.name).mkdir()
    said = {}
    with open(tmp_path / run.name / "metrics.jsonl", "w") as file:
        for step in range(1_000, 31_000, 1_000):
            updates = max(step - config.update_start, 0)
            seconds = 0.002 * step + 0.05 * updates + (compiling if updates else 0.0)
            row = {"agent_step": step, "seconds": seconds, "updates": updates, "mean_return": 1.0}
            file.write(json.dumps(row) + "\n")
            file.flush()
            sweep.look(SweepState(0, (run.name,), (), {}, ()))
            said[step] = sweep.remaining(1)
            if step >= 3_000:
                assert sweep.seconds_left(1) == pytest.approx(0.052 * (config.budget - step), rel=0.02)
    assert said[1_000] == said[2_000] == "time left unknown"


def test_a_run_that_plays_its_evaluation_says_so(tmp_path):
    (run,) = entries([Arm("a", "dqn", ())], ["Pong"], 1, tmp_path)
    sweep = SweepStatus(KIND, tmp_path, [run], {run.name: RunStatus("running", 100_000)})
    console = Console(file=io.StringIO(), width=120)
    console.print(as_panel(sweep, 1, 20))
    assert "evaluates or ends" in console.file.getvalue()


def test_work_counts_the_updates():
    workload = KIND.workload(DQNConfig(utd=Fraction(1, 4), update_start=100))
    assert [workload.work(step) for step in (50, 100, 180)] == [50, 100, 180 + 80 * UPDATE / 4]


@pytest.mark.parametrize("text", ["{", '{"score": {"mean": "many"}, "agent_steps": 9, "training_seconds": 2.5}', "[]"])
def test_a_result_that_cannot_be_read_is_told_and_stops_nothing(text, tmp_path):
    ready = save(tmp_path, "--arm", "a:")
    (ready.root / ready.runs[0].name).mkdir()
    (ready.root / ready.runs[0].name / "result.json").write_text(text)
    sweep = SweepStatus(KIND, ready.root, Manifest.load(ready.root).runs)
    assert f"done: {ready.runs[0].name}: its result.json cannot be read" in lines_of(sweep)
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    print_status(sweep, console)
    assert "its result.json cannot be read" in console.file.getvalue()


def test_ten_thousand_runs_are_planned_and_told_in_seconds(tmp_path):
    began = time.process_time()  # the machine may be busy
    ready = save(tmp_path, "--arm", "a:", "--arm", "b:--nap", suite="atari57", seeds=88)
    assert len(ready.runs) == 10_032
    for run in ready.runs[:200]:
        (ready.root / run.name).mkdir()
        (ready.root / run.name / "result.json").write_text(
            '{"score": {"mean": 5.0}, "agent_steps": 9, "training_seconds": 2.5}'
        )
    shown = lines_of(SweepStatus(KIND, ready.root, Manifest.load(ready.root).runs))
    assert "waiting 9832, running 0, done 200, failed 0" in shown
    sweep = SweepStatus(KIND, ready.root, ready.runs)
    sweep.look(SweepState(9832, (), {run.name for run in ready.runs[:200]}, {}, ()))
    assert len(sweep.named("done")) == 200
    assert time.process_time() - began < 10


def test_the_memory_of_a_run_holds_its_replay():
    small, large = (KIND.workload(DQNConfig(replay_capacity=size)).bytes for size in (1_000, 100_000))
    assert gpus.FIXED < small < large
    assert large > gpus.FIXED + 100_000 * 84 * 84


def test_a_run_goes_on_only_on_the_device_where_it_began(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(gpus, "free_memory", lambda: {"0": 1e12})
    ready = save(tmp_path, seeds=1, suite="Breakout")
    folder = ready.jobs[0].directory
    run = RunDir.create(str(folder.parent), folder.name, KIND.settings(ready.runs[0]), explicit=True)
    (run.checkpoints / "40").mkdir()
    on_gpu = words(tmp_path, "--device", "cuda", "--per-gpu", "1", seeds=1, suite="Breakout")
    on_gpu[on_gpu.index("--processes") : on_gpu.index("--processes") + 2] = []
    for more in ([], ["--dry-run"]):
        with pytest.raises(SystemExit):
            atari.main([*on_gpu, *more])
        (line,) = capfd.readouterr().err.splitlines()
        assert f"--device cuda: {folder} was interrupted" in line
        assert "finish with --device cpu" in line
    save(tmp_path, seeds=1, suite="Breakout")


def test_the_sweep_on_gpus_gives_each_run_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "free_memory", lambda: {"0": 1e12, "1": 1e12})
    ready = AgentSweep(*parsed(words(tmp_path, "--device", "cuda", "--per-gpu", "2")[:-2]))
    assert ready.processes == 2
    assert all(run.command[run.command.index("--device") + 1] == "cuda" for run in ready.runs)
    assert isinstance(ready.runs[0], Entry)
