"""The real commands, end to end on real games, small."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from agents import cli, evaluate
from agents.build import build_agent
from experiment.determinism import parameter_hash
from experiment.storage import checkpoint
from experiment.storage.run_dir import RunDir

# Pong: a random game ends after about 900 agent steps, whatever the agent does
TINY = ["--env=Pong", "--network=small", "--steps=260", "--update-start=100", "--log-interval=50"]
TINY += ["--threads=1", "--compile=false", "--batch-size=8"]


def command(*words, root):
    return [sys.executable, "-m", "agents.dqn", *TINY, "--root", str(root), *map(str, words)]


def dqn(*words, root):
    return cli.main("dqn", [*TINY, "--root", str(root), *map(str, words)])


def result(run: Path):
    return json.loads((run / "result.json").read_text())


def rows(run: Path):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_ends_with_a_score_its_protocol_and_settings_that_repeat_it(tmp_path, capsys):
    assert dqn("--nap", "--name", "a", "--eval-episodes", 1, root=tmp_path) == 0
    outcome = result(tmp_path / "a")
    assert outcome["updates"] == 160
    assert outcome["score"]["episodes"] == 1
    assert -21 <= outcome["score"]["mean"] <= 21
    (length,), cut = outcome["score"]["steps"], outcome["score"]["cut"]
    assert 500 < length < 27_000
    assert (cut, outcome["score"]["limit_steps"], outcome["score"]["cut_games"]) == ([False], 27_000, 0)
    assert (outcome["score"]["different_games"], outcome["score"]["effective_games"]) == (1, 1.0)
    assert outcome["protocol"]["name"] == "atari100k"
    learner_rows = [row for row in rows(tmp_path / "a") if "loss" in row]
    assert [row["agent_step"] for row in learner_rows] == [150, 200, 250, 260]
    names = {"lr", "epsilon", "elr/torso.0.weight", "rotation/torso.0.weight", "norm/head.weight"}
    names |= {"gradient/head.weight", "dormant_sokar_0.025", "erank_roy/torso.1", "policy_churn"}
    assert names <= set(learner_rows[-1])
    shown = capsys.readouterr().out
    assert "Pong: mean" in shown
    assert "plasticity methods: NaP (layer norm, joint scale and offset)\n" in shown
    assert "budget: 260 agent steps (1,040 frames), 160 updates\n" in shown
    assert "over 1 whole game (atari100k, epsilon 0.001)" in shown

    config = str(tmp_path / "a" / "config.yaml")
    assert cli.main("dqn", ["--config", config, "--name", "b", "--eval-episodes", "0"]) == 0
    assert cli.main("dqn", ["--config", config, "--name", "c", "--eval-episodes", "0", "--seed", "1"]) == 0
    again, other = result(tmp_path / "b"), result(tmp_path / "c")
    assert again["parameter_hash"] == outcome["parameter_hash"] != other["parameter_hash"]

    out = tmp_path / "scores.json"
    assert evaluate.main([str(tmp_path / "a"), "--episodes", "1", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert f"mean {outcome['score']['mean']:.1f}" in shown
    assert f"scores: {out}\n" in shown
    written = json.loads(out.read_text())
    assert (written["score"], written["agent_steps"]) == (outcome["score"], 260)
    assert written["protocol"] == outcome["protocol"] | {"evaluation_episodes": 1}


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_where_it_stopped(tmp_path, number):
    words = command("--name", "a", "--steps", 1000, "--utd", "3/7", "--eval-episodes", 0, root=tmp_path)
    run, metrics = tmp_path / "a", tmp_path / "a" / "metrics.jsonl"
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: metrics.is_file() and metrics.stat().st_size > 0, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"--resume {run}" in out.splitlines()[-1]
    assert "Traceback" not in err
    stopped = int(max(path.name for path in (run / "checkpoints").iterdir()))
    assert 0 < stopped < 1000

    assert cli.main("dqn", ["--resume", str(run)]) == 0
    assert result(run)["agent_steps"] == 1000
    assert result(run)["updates"] == (1000 - 100) * 3 // 7
    assert [row["agent_step"] for row in rows(run) if "frames" in row] == list(range(50, 1001, 50))


@pytest.fixture
def stop_at(monkeypatch):
    """Makes the next runs stop as by Ctrl-C at an agent step; inf: never."""
    import agents.run
    import experiment.run

    steps, runs = [float("inf")], []
    original = agents.run.AgentRun.__init__

    def remember(run, config):
        runs.append(run)
        original(run, config)

    class Stop(experiment.run.Interrupt):
        requested = property(lambda self: runs[-1].trainer.agent_step >= steps[0], lambda self, value: None)

    monkeypatch.setattr(agents.run.AgentRun, "__init__", remember)
    monkeypatch.setattr(experiment.run, "Interrupt", Stop)

    def set_step(step):
        steps[0] = step
        return runs

    return set_step


@pytest.mark.parametrize("utd", ["0.25", "1", "3/7", "8"])
@pytest.mark.parametrize("num_envs", [1, 2, 8])
def test_the_number_of_updates_is_exact_across_a_resume(tmp_path, utd, num_envs, stop_at):
    settings = ["--utd", utd, "--num-envs", num_envs, "--n-step", 3, "--batch-size", 8, "--name", "a"]
    stop_at(126)
    assert dqn(*settings, "--steps", 136, "--eval-episodes", 0, root=tmp_path) == 130
    stop_at(float("inf"))
    assert cli.main("dqn", ["--resume", str(tmp_path / "a")]) == 0
    assert result(tmp_path / "a")["updates"] == int(Fraction(utd) * 36)


def test_resume_auto_finds_the_unfinished_run_of_the_same_settings(tmp_path, capsys, stop_at):
    plain = ["--eval-episodes", 0]
    stop_at(150)
    for seed in (0, 1):
        assert dqn("--name", f"s{seed}", "--seed", seed, *plain, root=tmp_path) == 130
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "old" / "config.yaml").write_text("a_key_of_long_ago: 1\n")
    stop_at(float("inf"))
    assert dqn(*plain, "--resume", "auto", root=tmp_path) == 0
    assert (tmp_path / "s0" / "result.json").is_file()
    assert not (tmp_path / "s1" / "result.json").is_file()
    assert dqn("--seed", 1, *plain, "--resume", "auto", "--name", "s1", root=tmp_path) == 0
    assert (tmp_path / "s1" / "result.json").is_file()
    capsys.readouterr()
    assert dqn(*plain, "--resume", "auto", "--name", "new", root=tmp_path) == 0
    assert "a new one begins" in capsys.readouterr().out
    assert (tmp_path / "new" / "result.json").is_file()


def test_resume_auto_says_which_settings_the_run_keeps(tmp_path, capsys, stop_at):
    plain, stored = ["--eval-episodes", 0], tmp_path / "a" / "config.yaml"
    stop_at(150)
    assert dqn("--name", "a", "--probe-interval", 100, *plain, root=tmp_path) == 130
    before = stored.read_text()
    runs = stop_at(200)
    others = ["--probe-interval", 200, "--threads", 2, "--on-nonfinite", "skip", "--compile", "auto"]
    capsys.readouterr()
    assert dqn(*plain, *others, "--resume", "auto", root=tmp_path) == 130
    config = runs[-1].config
    assert (config.probe_interval, config.threads, config.on_nonfinite) == (100, 1, "skip")
    lines = [line for line in capsys.readouterr().out.splitlines() if "keeps" in line]
    kept = "--probe-interval 100 (not 200), --threads 1 (not 2)"
    assert lines == [f"run '{tmp_path / 'a'}' keeps its own settings: {kept}"]
    stop_at(float("inf"))
    assert dqn(*plain, "--resume", "auto", "--probe-interval", 100, root=tmp_path) == 0
    assert "keeps" not in capsys.readouterr().out
    assert stored.read_text() == before


def test_a_run_that_died_before_its_first_checkpoint_begins_again(tmp_path):
    plain = ["--eval-episodes", 0, "--name", "a"]
    assert dqn(*plain, root=tmp_path) == 0
    expected = result(tmp_path / "a")["parameter_hash"], len(rows(tmp_path / "a"))
    (tmp_path / "a" / "result.json").unlink()
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    (tmp_path / "a" / "checkpoints").mkdir()
    assert dqn(*plain, "--resume", "auto", root=tmp_path) == 0
    assert (result(tmp_path / "a")["parameter_hash"], len(rows(tmp_path / "a"))) == expected


def test_the_screen_says_that_the_first_update_compiles_and_how_much_is_done(tmp_path, monkeypatch, capsys, stop_at):
    import agents.run

    said, runs = [], stop_at(150)

    class Spy(agents.run.Progress):
        def busy(self, activity):
            said.append((activity() if callable(activity) else activity, runs[-1].trainer.updates))
            super().busy(activity)

    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(agents.run, "Progress", Spy)
    assert dqn("--name", "a", "--eval-episodes", 0, "--compile", "true", root=tmp_path) == 130
    assert said == [("compiling", 0), ("", 1)]
    stop_at(float("inf"))
    assert cli.main("dqn", ["--resume", str(tmp_path / "a")]) == 0
    assert said[2:] == [("compiling", 50), ("", 51)]
    shown = capsys.readouterr().out
    assert "budget: 260 agent steps (1,040 frames), 160 updates\n" in shown
    assert "budget: 260 agent steps (1,040 frames), 160 updates; 150 steps and 50 updates are made\n" in shown


def test_an_interrupted_evaluation_is_made_again(tmp_path, monkeypatch, capsys, stop_at):
    import agents.run

    with monkeypatch.context() as patch:
        patch.setattr(agents.run, "score", lambda *_, stopped, **__: stop_at(0) and [])
        assert dqn("--name", "a", "--eval-episodes", 1, root=tmp_path) == 130
    assert "all is saved" in capsys.readouterr().out
    assert not (tmp_path / "a" / "result.json").exists()
    stop_at(float("inf"))
    assert cli.main("dqn", ["--resume", str(tmp_path / "a")]) == 0
    assert result(tmp_path / "a")["score"]["episodes"] == 1
    assert result(tmp_path / "a")["updates"] == 160


def test_the_hash_is_that_of_the_trained_network_however_many_games_are_played(tmp_path):
    for games in (0, 1):
        words = ["--noisy", "--eval-noise", "--name", games, "--eval-episodes", games]
        assert dqn(*words, root=tmp_path) == 0
    played, trained = result(tmp_path / "1"), checkpoint.load_latest(tmp_path / "1" / "checkpoints")
    assert result(tmp_path / "0")["parameter_hash"] == played["parameter_hash"]
    network = build_agent(cli.settings("dqn", ["--resume", str(tmp_path / "1")]), (84, 84), 6, seed=1).network
    network.load_state_dict(trained.state["trainer"]["agent"]["network"])
    assert parameter_hash(network) == played["parameter_hash"]


def test_an_agent_plays_on_a_device_whose_generators_have_other_states(tmp_path, monkeypatch, capsys):
    words = ["--noisy", "--plasticity", "redo", "--name", "a", "--eval-episodes", 0]
    assert dqn(*words, root=tmp_path) == 0
    load = checkpoint.load_latest

    def as_on_a_gpu(*args, **kwargs):
        saved = load(*args, **kwargs)
        agent = saved.state["trainer"]["agent"]
        for state in (agent, *agent["methods"]):
            state["generator"] = torch.zeros(16, dtype=torch.uint8)
        return saved

    monkeypatch.setattr(checkpoint, "load_latest", as_on_a_gpu)
    assert evaluate.main([str(tmp_path / "a"), "--episodes", "1"]) == 0
    assert "Pong: mean" in capsys.readouterr().out


def test_a_full_disk_at_the_end_still_tells_the_score(tmp_path, monkeypatch, capsys):
    def full(run, outcome):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunDir, "write_result", full)
    assert dqn("--name", "a", "--eval-episodes", 1, root=tmp_path) == 1
    shown = capsys.readouterr()
    assert "Pong: mean" in shown.out
    assert "No space left" in shown.err


@pytest.mark.parametrize(("module", "words"), [("envpool", ["--backend", "envpool"]), ("wandb", ["--track", "wandb"])])
def test_a_missing_extra_is_named(module, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "envs.envpool_backend", raising=False)
    assert "pip install" in refused(capsys, [*TINY, *words, "--root", tmp_path / "run"])
    assert not (tmp_path / "run").exists()


def test_a_run_in_use_by_another_process_is_refused(tmp_path, stop_at):
    stop_at(150)
    assert dqn("--name", "a", "--eval-episodes", 0, root=tmp_path) == 130  # and this process keeps it
    words = [sys.executable, "-m", "agents.dqn", "--resume", str(tmp_path / "a")]
    other = subprocess.run(words, capture_output=True, text=True)
    assert other.returncode == 2
    (line,) = other.stderr.splitlines()
    assert f"in use by process {os.getpid()}" in line


def refused(capsys, words):
    with pytest.raises(SystemExit) as stop:
        cli.main("dqn", [str(word) for word in words])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env", "Brekout"], "Breakout"),
        (["--utd", "-1"], "--utd"),
        (["--utd", "0"], "--utd"),
        (["--utd", "fast"], "rational"),
        (["--utd", "1/0"], "rational"),
        (["--nup"], "--nap"),
        (["--protocol", "atari10k"], "atari100k"),
        (["--schedule", "cycle"], "cyclic"),
        (["--lr", "nan"], "--lr"),
        (["--lr", "0"], "--lr"),
        (["--nap", "--lr-floor", "1"], "--lr-floor"),
        (["--gamma", "1.5"], "--gamma"),
        (["--num-envs", "0"], "--num-envs"),
        (["--batch-size", "-3"], "--batch-size"),
        (["--steps", "0"], "--steps"),
        (["--frames", "4001"], "--frames"),
        (["--steps", "1000"], "--update-start"),
        (["--replay-capacity", "10"], "replay"),
        (["--n-step", "99999"], "--n-step"),
        (["--batch-size", "1000000000000"], "--batch-size"),
        (["--replay-capacity", "1000000000000", "--steps", "1000000000000"], "--replay-capacity"),
        (["--cycles", "0"], "--cycles"),
        (["--probe-interval", "-1"], "--probe-interval"),
        (["--eval-episodes", "-1"], "--eval-episodes"),
        (["--device", "meta"], "--device"),
        (["--name", "a/b"], "name"),
        (["--name", ""], "name"),
        (["--steps", "100", "--frames", "400"], "--frames"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--device", "gpu"], "gpu"),
        (["--config", "no-such"], "no-such"),
        (["--resume", "nowhere"], "nowhere"),
        (["--plasticity", "nup"], "nap"),
        (["--track", "wand"], "wandb"),
        (["--seed"], "--seed"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(words, said, tmp_path, capsys):
    assert said in refused(capsys, [*words, "--root", tmp_path / "run"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nowhere"],
        ["RUN", "--episodes", "0"],
        ["RUN", "--seed", "-1"],
        ["RUN", "-x"],
        ["RUN", "--out", "scores.txt"],
        ["RUN", "--out", "nowhere/scores.json"],
        ["RUN", "--out", "result.json"],
    ],
)
def test_evaluate_answers_bad_input_in_one_line(words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.main(words)
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_ctrl_c_before_training_ends_in_one_line(capsys, monkeypatch):
    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "settings", pressed)
    with pytest.raises(SystemExit) as stop:
        cli.main("dqn", [])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_misspelt_key_in_a_config_names_the_near_match(tmp_path, capsys):
    (tmp_path / "my.yaml").write_text("env: Pong\nbatch_sise: 32\n")
    line = refused(capsys, ["--config", tmp_path / "my.yaml"])
    assert "batch_sise" in line
    assert "batch_size" in line
    assert "line 2" in line


def test_what_is_not_a_run_cannot_be_resumed(tmp_path, capsys):
    assert "config.yaml" in refused(capsys, ["--resume", tmp_path])


def test_a_finished_run_and_other_settings_are_not_resumed(tmp_path, capsys):
    assert dqn("--name", "a", "--eval-episodes", 0, root=tmp_path) == 0
    again = [*TINY, "--eval-episodes", 0, "--root", tmp_path, "--name", "a"]
    assert "finished" in refused(capsys, ["--resume", tmp_path / "a"])
    assert "finished" in refused(capsys, [*again, "--resume", "auto"])
    assert "other settings" in refused(capsys, [*again, "--resume", "auto", "--lr", "1e-4"])
    assert "--name" in refused(capsys, again)
    (tmp_path / "a" / "result.json").unlink()
    for words in (["--lr", "1e-4"], ["--utd", "2"], ["--name", "b"], ["--root", "nowhere"], ["--env", "Breakout"]):
        assert "--resume" in refused(capsys, ["--resume", tmp_path / "a", *words])


def test_a_truncated_checkpoint_is_named_and_the_one_before_is_used(tmp_path, capsys):
    assert dqn("--name", "a", "--eval-episodes", 0, "--checkpoint-interval", 100, root=tmp_path) == 0
    run = tmp_path / "a"
    (run / "result.json").unlink()
    newest = run / "checkpoints" / f"{260:012d}"
    with (newest / "trainer.pt").open("r+b") as file:
        file.truncate(1000)
    assert cli.main("dqn", ["--resume", str(run)]) == 0
    shown = capsys.readouterr()
    assert "resuming at agent step 200" in shown.out
    (line,) = [line for line in shown.err.splitlines() if "damaged" in line]
    assert line.startswith("warning: ")
    assert str(newest) in line
    assert result(run)["updates"] == 160


def test_a_full_disk_while_saving_does_not_stop_training(tmp_path, monkeypatch, capsys):
    write, calls = checkpoint._write, []

    def full_the_second_time(directory, step, *rest):
        calls.append(step)
        if len(calls) == 2:
            (directory / "trainer.pt").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(directory, step, *rest)

    monkeypatch.setattr(checkpoint, "_write", full_the_second_time)
    assert dqn("--name", "a", "--eval-episodes", 0, "--checkpoint-interval", 100, root=tmp_path) == 0
    assert "No space left" in capsys.readouterr().err
    assert calls == [100, 200, 260]
    assert sorted(path.name for path in (tmp_path / "a" / "checkpoints").iterdir()) == [f"{n:012d}" for n in (100, 260)]
    assert result(tmp_path / "a")["updates"] == 160


@pytest.mark.parametrize("module", ["agents.dqn", "agents.evaluate"])
def test_help_is_answered_without_torch(module):
    words = [sys.executable, "-X", "importtime", "-m", module, "--help-all"]
    shown = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert shown.returncode == 0
    imported = {line.rsplit("|")[-1].strip() for line in shown.stderr.splitlines()}
    assert "dataclasses" in imported
    assert not {"torch", "ale_py", "tensordict"} & imported
    if module == "agents.dqn":
        options = (
            "env backend num-envs steps frames utd nap schedule protocol seed device precision compile config name"
        )
        for option in (*options.split(), "resume", "track", "cycles", "cycle-fraction", "lr", "lr-floor"):
            assert f"--{option}" in shown.stdout
