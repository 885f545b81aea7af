"""The command: options, costs of an update, table, JSON, and one tiny real run."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.speed import against, learners, limits, measurement, memory, output, playing, settings
from benchmarks.speed.alternate import Round, Series
from benchmarks.speed.measurement import Results
from benchmarks.speed.settings import GROUPS, Settings
from benchmarks.throughput import main
from envs.ale import AleVectorEnv
from experiment.config import ConfigError
from experiment.determinism import device_of
from tests.agents.toys import catch_trainer


def series(name: str, *values: float, task="learner nature", role="ours", unit="updates/s", limit="") -> Series:
    return Series(task, name, unit, role, limit, rounds=[Round(8, 0.5, value) for value in values])


def results() -> Results:
    field = [
        series("fp32, eager, plain", 30.0, 33.0, 36.0, limit="cap"),
        series("fp32, eager, NaP", 25.0, 30.0, 30.0, limit="cap"),
        series("a peer", 20.0, 22.0, 18.0, role="peer", limit="cap"),
        series("cap", 60.0, 66.0, 72.0, role="limit"),
        series("share", 97.0, 98.0, 99.0, task="loop", unit="%"),
    ]
    machine = {"cpu": "a processor", "gpu": None, "torch": "2"}
    return Results(Settings(out="x", only=("learner",)), machine, field, {"syncs": "0"}, ["not there: .[bench]"], 1)


def shown(width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    output.show(results(), console)
    return console.export_text()


def test_table_fits_100_columns_and_shows_medians_ratios_and_who_is_missing():
    text = shown()
    assert max(map(len, text.splitlines())) <= 100
    line = next(line for line in text.splitlines() if "fp32, eager, plain" in line)
    assert line.split()[3:] == ["33", "(30-36)", "30.3", "1.50", "0.50"]
    peer = next(line for line in text.splitlines() if line.strip().startswith("a peer"))
    assert peer.split()[2:] == ["20", "(18-22)", "50", "0.33"]
    assert "98 (97-99)" in text
    assert "syncs: 0" in text
    assert "not there: .[bench]" in text


def test_json_holds_every_round(tmp_path):
    output.write(results(), str(tmp_path / "out"))
    saved = json.loads((tmp_path / "out" / "throughput.json").read_text())
    first = saved["series"][0]
    assert [r["value"] for r in first["rounds"]] == [30.0, 33.0, 36.0]
    assert (first["median"], first["times_best_peer"], first["of_limit"]) == (33.0, 1.5, 0.5)
    assert saved["environment"]["libraries"]["tensordict"]
    assert saved["settings"]["rounds"] == 5


def test_nap_costs_are_pairs_of_rounds():
    assert learners.nap_costs(results().series) == {"NaP adds, learner nature, fp32, eager": "20.0%"}


def test_costs_of_an_update_are_those_of_the_reference():
    nature, small = limits.update_costs("nature"), limits.update_costs("small")
    assert [cost.shape for cost in nature][:4] == [(12800, 256, 32), (2592, 512, 64), (1568, 576, 64), (32, 3136, 512)]
    assert [cost.shape for cost in small][:3] == [(8192, 100, 32), (288, 800, 64), (32, 576, 256)]
    assert [cost.passes for cost in nature] == [4, 5, 5, 5, 5]
    assert sum(cost.gflop for cost in nature) == pytest.approx(2.8, abs=0.05)


def test_learner_limits_follow_from_the_rates_of_each_round():
    settings = Settings(networks=("nature",))
    field = []
    for label, shape in limits.shapes(["nature"]):
        for precision, rate in (("fp32", 100.0), ("bf16", 400.0)):
            name = limits.matmul_name(label, shape, precision)
            field.append(series(name, rate, rate / 2, task="matmul", role="limit", unit="GFLOP/s"))
    gflop = sum(cost.gflop for cost in limits.update_costs("nature"))
    at_peak, at_own, *bf16 = limits.learner_limits(settings, field)
    assert at_peak.name == learners.limit_name("fp32")
    for found, rate in ((at_peak, 100), (at_own, 100), *((each, 400) for each in bf16)):
        assert found.values == pytest.approx([rate / gflop, rate / 2 / gflop])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--only", "learnr"], "did you mean 'learner'"),
        (["--networks", "huge"], "none of nature, small"),
        (["--rounds", "0"], "at least 1"),
        (["--seconds", "0"], "above 0"),
        (["--game", "Brekout"], "Breakout"),
        (["--round", "3"], "--rounds"),
        (["--device", "nowhere"], "--device nowhere"),
    ],
)
def test_mistakes_end_in_one_line(words, complaint, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom benchmarks.throughput import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--rounds" in done.stdout
    assert done.stdout.strip().endswith("False")
    assert time.perf_counter() - began < 5


def test_limits_refuse_what_is_not_there():
    with pytest.raises(ConfigError, match="not-a-device"):
        device_of("not-a-device")


def test_who_takes_part_is_what_was_asked_for():
    field, _ = measurement.contestants(Settings(only=("replay",), peers=False, threads=1))
    assert {each.task for each in field} == {"replay sample 32", "replay add"}
    field, _ = measurement.contestants(
        Settings(only=("learner",), networks=("nature",), peers=False, threads=1).resolved()
    )
    names = [each.name for each in field]
    assert len(names) == len(set(names)) == 2 * 2 * 2 + 2 + 1


def test_a_missing_peer_is_told_and_left_out(monkeypatch):
    from benchmarks.speed import peers

    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    field, missing = peers.contestants(Settings())
    assert field == []
    assert len(missing) == 2
    assert all("pip install -e .[bench]" in line for line in missing)


def test_environments_play_as_often_as_asked(monkeypatch):
    settings = Settings(threads=1).resolved()
    field, _ = playing.environments(settings)
    assert [each.role for each in field][:2] == ["limit", "ours"]
    assert [each.work for each in field if each.name == "ours, ale"] == [1, 8]
    steps: list[int] = []
    step = AleVectorEnv.step
    monkeypatch.setattr(AleVectorEnv, "step", lambda self, actions: steps.append(len(actions)) or step(self, actions))
    run = field[1].setup()
    run(7)
    assert steps == [1] * 7
    playing.emulator_run(settings.game)(3)


def test_the_share_of_a_loop_is_the_time_in_learn(monkeypatch):
    clock = Clock()
    config = catch_trainer(update_start=40).config
    monkeypatch.setattr(playing, "build_trainer", lambda config: slow(catch_trainer(update_start=40), clock))
    monkeypatch.setattr(playing.time, "perf_counter", clock)
    run = playing.loop_run(config)
    assert run(10) == pytest.approx(75.0)
    assert run(3) == pytest.approx(75.0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def slow(trainer, clock: Clock):
    """The trainer, on whose clock playing takes one second and learning three."""
    play, learn = trainer.play, trainer.learn

    def slow_play(*args, **kwargs):
        clock.now += 1
        return play(*args, **kwargs)

    def slow_learn():
        clock.now += 3
        learn()

    trainer.play, trainer.learn = slow_play, slow_learn
    return trainer


@pytest.mark.slow
def test_the_peak_memory_of_a_run_grows_with_its_replay(monkeypatch):
    monkeypatch.setattr(memory, "RUNS", [("der", "small")])
    small, large = (
        memory.peaks(Settings(compile=False, capacity=capacity))["peak memory, der small"] for capacity in (400, 60_000)
    )
    assert 0.3 < float(large.removesuffix(" GB")) - float(small.removesuffix(" GB")) < 0.6  # 7,056 bytes a step


def test_a_tiny_real_run(tmp_path, capsys):
    words = "--rounds 1 --seconds 0.002 --threads 1 --only learner,replay --networks small --no-compile"
    assert main([*words.split(), "--no-peers", "--capacity", "300", "--out", str(tmp_path)]) == 0
    saved = json.loads((tmp_path / "throughput.json").read_text())
    tasks = {each["task"] for each in saved["series"]}
    assert tasks == {"learner small", "replay sample 32", "replay add"}
    assert all(each["median"] > 0 for each in saved["series"])
    assert saved["facts"]["replay, bytes per agent step"] == "7,074"
    assert GROUPS[0] in capsys.readouterr().out


@pytest.mark.slow
def test_another_checkout_is_measured_in_alternation(capsys):
    words = "--rounds 1 --seconds 0.05 --threads 1 --loops minatar-nap --against"
    assert main([*words.split(), str(Path(__file__).parents[2])]) == 0
    title, line = capsys.readouterr().out.splitlines()
    assert title.endswith("1 thread: this checkout and " + str(Path(__file__).parents[2]))
    assert re.fullmatch(r"minatar-nap +[\d.]+ and +[\d.]+ updates/s, ratio [\d.]+; peak memory [\d.]+, [\d.]+ GB", line)


@pytest.mark.slow
def test_a_loop_that_a_checkout_cannot_run_is_skipped_and_the_others_go_on(monkeypatch, capsys):
    here = str(Path(__file__).parents[2])
    loops = {"odd": "dqn --config dreamt-up", "plain": "dqn --env MinAtar/Breakout --compile false"}
    monkeypatch.setattr(settings, "LOOPS", loops)
    monkeypatch.setattr(against, "LOOPS", loops)
    assert main(["--rounds", "1", "--seconds", "0.05", "--loops", "odd,plain", "--against", here]) == 0
    _, odd, plain = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"odd +skipped: {re.escape(here)} cannot run it: .*dreamt-up.*", odd)
    assert re.fullmatch(r"plain +[\d.]+ and .* updates/s, ratio .*", plain)
    with pytest.raises(SystemExit) as stopped:
        main(["--loops", "odd", "--against", here])
    assert stopped.value.code == 2
    assert "no loop can be run by both checkouts" in capsys.readouterr().err


def test_what_is_no_checkout_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--against", str(tmp_path)])
    assert stopped.value.code == 2
    assert "is no checkout of this project" in capsys.readouterr().err
