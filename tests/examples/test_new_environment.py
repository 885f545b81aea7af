"""The example of an environment and one of Gymnasium by their import paths: trained, resumed, swept, reported."""

import json
from pathlib import Path

import pytest

import examples.new_environment
from agents import cli, evaluate
from benchmarks import atari
from benchmarks.report import __main__ as report_command
from envs.testing import check_env
from examples.new_environment import Reach

PATH = "examples.new_environment:Reach:size=8"
GYM = "gym:tests.envs.pixels:Dot-v0"
WORDS = ["--steps=130", "--update-start=100", "--threads=1", "--compile=false", "--batch-size=8", "--n-step=3"]
WORDS += ["--probe-interval=0", "--eval-episodes=2"]


def test_it_is_short_and_keeps_the_contract():
    assert len(Path(examples.new_environment.__file__).read_text().splitlines()) <= 40
    check_env(Reach)


@pytest.mark.parametrize(("path", "network", "exact"), [(PATH, "minatar", True), (GYM, "small", False)])
def test_it_is_trained_resumed_and_played(path, network, exact, tmp_path, capsys):
    words = ["--env", path, *WORDS, "--root", str(tmp_path)]
    assert cli.main("dqn", words) == 0
    shown = capsys.readouterr().out
    assert ("a resume begins new episodes" in shown) == (not exact)
    assert "130 agent steps (130 frames)" in shown
    (directory,) = tmp_path.iterdir()
    outcome = json.loads((directory / "result.json").read_text())
    assert (outcome["game"], outcome["protocol"]["name"], outcome["frames"]) == (path, "own", 130)
    assert outcome["settings"]["network"] == network
    (directory / "result.json").unlink()
    assert cli.main("dqn", ["--resume", str(directory)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("new episodes") == (not exact)
    again = json.loads((directory / "result.json").read_text())
    assert again["parameter_hash"] == outcome["parameter_hash"]
    assert evaluate.main([str(directory), "--episodes=1"]) == 0
    assert f"{path}: mean" in capsys.readouterr().out


def test_two_arms_of_a_sweep_and_their_report(tmp_path, capsys):
    sweep = ["--suite", f"{PATH},examples.new_environment:Reach", "--seeds=1", "--processes=2"]
    arms = ["--arm", "plain:", "--arm", "fast:--lr 1e-3", "--root", str(tmp_path / "root"), "--", *WORDS]
    assert atari.main([*sweep, *arms]) == 0
    assert (tmp_path / "root" / "fast-examples.new_environment_Reach_size_8-s0" / "result.json").is_file()
    assert report_command.main([str(tmp_path / "root"), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.md").read_text()
    for text in ("plain", "fast", PATH, "Protocol: own (", "they have no human reference score"):
        assert text in page
    assert "DER (published)" not in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env=examples.new_environment:Reech"], "did you mean 'Reach'?"),
        (["--env=examples.new_environment:Reach:sise=3"], "has no option 'sise'; did you mean 'size'?"),
        (["--env=examples.new_environment:Reach:size=x"], "size=x: it has to be a whole number"),
        (["--env=examples.no_environment:Reach"], "cannot be imported"),
        (["--env=gym:CartPole-v1"], "it has to be pixels"),
        (["--env=gym:Pendulum-v1"], "have to be Discrete"),
        (["--env=gym:Nothing-v0"], "doesn't exist"),
        (["--env", PATH, "--network=nature"], "--network nature is not for"),
        (["--env", PATH, "--protocol=machado"], "--protocol machado is not for"),
        (["--env", PATH, "--augment=drq", "--network=minatar"], "a side of a frame has 8"),
        (["--env", PATH, "--backend=envpool"], "leave it out"),
        (["--env=Catch", "--protocol=machado"], "leave it out, or --protocol catch"),
        (["--env=Pong", "--protocol=machdo"], "did you mean 'machado'?"),
        (["--env=gym:tests.envs.pixels:Little-v0", "--network=nature"], "frames of 30×32"),
    ],
)
def test_what_does_not_work_is_one_line(words, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main("dqn", [*words, *WORDS, "--root", str(tmp_path)])
    lines = capsys.readouterr().err.splitlines()
    assert (ended.value.code, len(lines)) == (2, 1)
    assert said in lines[0]
    assert not list(tmp_path.iterdir())
