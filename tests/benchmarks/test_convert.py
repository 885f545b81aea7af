"""The command: what it writes, what it says, and what it refuses in one line."""

import csv
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from benchmarks import convert
from benchmarks.formats.point import COLUMNS
from benchmarks.formats.registry import FORMATS
from benchmarks.report.scores import read_scores
from benchmarks.report.tables import arms
from experiment.config import ConfigError

BBF = ",seed,game,GameScoreAverage,GameScoreNormalized\n0,7,pong,1.0,0.5\n1,8,pong,3.0,0.6\n2,9,upndown,2.0,0.1\n"


@pytest.fixture
def bbf(tmp_path):
    path = tmp_path / "RR2_BBF.csv"
    path.write_text(BBF)
    return path


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def refused(capsys, *argv):
    """The one line with which the command ends."""
    with pytest.raises(SystemExit) as stopped:
        convert.main([str(word) for word in argv])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_the_report_reads_what_is_written(bbf, tmp_path, capsys):
    out = tmp_path / "scores.csv"
    assert convert.main(["bbf", str(bbf), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n"
    assert "runs: 3 (agents: 1, games: 2, runs of a game: 1 to 2)" in printed.err
    read = [(run.arm, run.game, run.run, run.score) for run in read_scores([str(out)]).runs]
    assert read == [("RR2_BBF", "Pong", "7", 1.0), ("RR2_BBF", "Pong", "8", 3.0), ("RR2_BBF", "UpNDown", "9", 2.0)]


def test_without_a_file_the_scores_are_printed(bbf, capsys):
    assert convert.main(["bbf", str(bbf), "--agent", "BBF"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "agent,game,run,score,kind,steps,frames,frame_skip,protocol,games"
    assert lines[1] == "BBF,Pong,7,1.0,evaluation,100000,400000,4,atari100k,100"


def test_a_curve_has_a_line_for_each_measurement_and_reads_back(tmp_path, capsys):
    path, curves, again = tmp_path / "results.csv", tmp_path / "curves.csv", tmp_path / "again.csv"
    path.write_text("Pong,Krull\n1.0,10.0\n2.0,20.0\n3.0,60.0\n")
    convert.main(["btr", str(path), "--curves", str(curves), "--out", str(again), "--last", "2"])
    assert [(row["game"], row["steps"], row["score"]) for row in table(curves)][:3] == [
        ("Pong", "250000", "1.0"), ("Krull", "250000", "10.0"), ("Pong", "500000", "2.0"),
    ]  # fmt: skip
    assert [(row["score"], row["games"]) for row in table(again)] == [("2.5", "200"), ("40.0", "200")]
    convert.main(["curves", str(curves), "--last", "2", "--out", str(again), "--overwrite"])
    capsys.readouterr()
    convert.main(["curves", str(curves), "--kind", "evaluation"])
    assert [row["score"] for row in csv.DictReader(capsys.readouterr().out.splitlines())] == ["3.0", "60.0"]


def test_last_counts_measurements_in_training(tmp_path, capsys):
    curves = tmp_path / "curves.csv"
    lines = [f"A,Pong,1,{step},{step}.0,training" for step in (4, 1, 3, 2)] + ["A,Pong,2,1,7.0,training"]
    curves.write_text("agent,game,run,steps,score,kind\n" + "\n".join(lines))
    convert.main(["curves", str(curves), "--last", "3"])
    printed = capsys.readouterr()
    assert [row["score"] for row in csv.DictReader(printed.out.splitlines())] == ["3.0", "7.0"]
    assert "the mean of the last 3 measurements in training" in printed.err
    assert "fewer than 3 measurements, whose score is the mean of all of them: 1" in printed.err


def test_kinds_are_never_mixed(tmp_path, capsys):
    curves = tmp_path / "curves.csv"
    curves.write_text("agent,game,run,steps,score,kind\nA,Pong,1,1,1.0,training\nA,Pong,1,1,5.0,evaluation\n")
    for kind, score in (("training", "1.0"), ("evaluation", "5.0")):
        convert.main(["curves", str(curves), "--kind", kind])
        assert [row["score"] for row in csv.DictReader(capsys.readouterr().out.splitlines())] == [score]
    convert.main(["curves", str(curves)])
    printed = capsys.readouterr()
    assert "A,Pong,1,5.0,evaluation" in printed.out
    assert "of the other kind, ignored (see --kind): 1" in printed.err


def test_what_the_user_states_fills_gaps_alone(tmp_path, bbf, capsys):
    array = tmp_path / "scores.npy"
    np.save(array, np.array([[1.0, 2.0]]))
    states = ["--steps", "100000", "--frame-skip", "4", "--protocol", "atari100k"]
    convert.main(["scores", str(array), "--agent", "A", "--game", "Pong,Krull", *states])
    assert "A,Krull,1,2.0,evaluation,100000,4,atari100k" in capsys.readouterr().out
    assert "has 100000 agent steps in its file" in refused(capsys, "bbf", bbf, "--steps", "5000")
    convert.main(["bbf", str(bbf), "--protocol", "mine", "--frame-skip", "1"])
    assert "RR2_BBF,Pong,7,1.0,evaluation,100000,400000,4,atari100k,100" in capsys.readouterr().out


def monitor_files(tmp_path, env_id, lengths):
    """A run's folder for each length of its last game."""
    for run, length in enumerate(lengths):
        folder = tmp_path / f"seed_{run}"
        folder.mkdir()
        header = json.dumps({"t_start": 0.0, "env_id": env_id})
        (folder / "monitor.csv").write_text(f"#{header}\nr,l,t\n1.0,36000,1.0\n2.0,{length},2.0\n")
    return [str(tmp_path / f"seed_{run}") for run in range(len(lengths))]


def test_runs_whose_last_games_end_at_different_steps_are_one_arm(tmp_path, capsys):
    out, files = tmp_path / "scores.csv", monitor_files(tmp_path, "PongNoFrameskip-v4", (3000, 3960))
    assert convert.main(["sb3-monitor", *files, "--agent", "DQN", "--out", str(out)]) == 0
    scores = read_scores([str(out)])
    assert [run.steps for run in scores.runs] == [9750, 9990]
    assert arms(scores).rows[0][6] == "9,750 to 9,990"
    states = ["--steps", "10000", "--overwrite"]
    assert convert.main(["sb3-monitor", *files, "--agent", "DQN", "--out", str(out), *states]) == 0
    assert [(row["steps"], row["frames"]) for row in table(out)] == [("10000", "40000")] * 2
    assert arms(read_scores([str(out)])).rows[0][6] == "10,000"
    text = out.read_text().replace("10000,40000", "8000,32000", 1)
    out.write_text(text)
    with pytest.raises(ConfigError, match="has a budget of 8,000 agent steps"):
        read_scores([str(out)])


def test_cleanrls_steps_end_with_the_last_game_and_a_budget_is_more(tmp_path, capsys):
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    folder = tmp_path / "PongNoFrameskip-v4__dqn__1__1"
    log = writer(str(folder))
    log.add_scalar("charts/episodic_return", 1.0, 4950)
    log.close()
    assert convert.main(["cleanrl", str(folder), "--steps", "5000"]) == 0
    assert "dqn,Pong,1,1.0,training,5000,20000,4,1" in capsys.readouterr().out
    assert "has 4950 agent steps" in refused(capsys, "cleanrl", folder, "--steps", "4000")


def test_an_action_of_sb3_on_v5_is_16_frames_in_the_report_too(tmp_path, capsys):
    out, files = tmp_path / "scores.csv", monitor_files(tmp_path, "ALE/Pong-v5", (4000,))
    assert convert.main(["sb3-monitor", *files, "--agent", "DQN", "--out", str(out)]) == 0
    (run,) = read_scores([str(out)]).runs
    assert (run.steps, run.skip) == (10_000, 16)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed,game,GameScoreAverage\n,Pong,1\n", "it has no run"),
        ("seed,game,GameScoreAverage\n1,,1\n", "it has no game"),
        ("seed,game,GameScoreAverage\n1\x1b[1m,Pong,1\n", "has a control character"),
        ("seed,game,GameScoreAverage\n1,Pong,1\n1,pong,2\n", "run '1' of b in Pong has two scores at one step"),
        ("seed,game,GameScoreAverage\n1,Pong,1_000\n", "'1_000' is not a finite number"),
        ("seed,game,GameScoreAverage\n1,Pong,\u0663\n", "is not a finite number"),
    ],
)
def test_names_and_scores_that_cannot_be_used_are_refused(text, said, tmp_path, capsys):
    (tmp_path / "b.csv").write_text(text, encoding="utf-8")
    assert said in refused(capsys, "bbf", tmp_path / "b.csv")


def test_every_format_is_in_the_help_and_the_docs(capsys):
    with pytest.raises(SystemExit):
        convert.main(["--help"])
    text = capsys.readouterr().out
    docs = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    assert [name for name in FORMATS if name not in text or f"\n### {name}\n" not in docs + "\n### curves\n"] == []
    assert [name for name in COLUMNS if f"`{name}`" not in docs] == []


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "name a format and a file of it"),
        (["bff", "x"], "no format 'bff'; did you mean 'bbf'? (formats: sb3-monitor"),
        (["bbf"], "name a format and a file of it"),
        (["bbf", "missing.csv"], "cannot read 'missing.csv': No such file or directory"),
        (["bbf", "x.csv", "--kind", "training"], "--kind training: files of format bbf hold returns of evaluation"),
        (["bbf", "x.csv", "--game", "Pong"], "--game has no use here: files of format bbf state it"),
        (["bbf", "x.csv", "--last", "0"], "--last is 0: it has to be at least 1"),
        (["btr", "x.csv", "y.csv", "--run", "1"], "--run names the run of one path, and 2 are given"),
        (["bbf", "x.csv", "--out", "s.csv", "--curves", "s.csv"], "--out and --curves are the same file"),
        (["bbf", "x.csv", "--out", "./x.csv", "--overwrite"], "cannot write 'x.csv': it is read"),
        (["bbf", "x.csv", "--out", "none/s.csv"], "there is no folder 'none'"),
        (["cleanrl", "missing"], "missing: there is no such file or folder"),
    ],
)
def test_a_mistake_gets_one_line(argv, line, capsys):
    assert line in refused(capsys, *argv)


def test_an_existing_file_is_replaced_on_demand_only(bbf, tmp_path, capsys):
    out = tmp_path / "scores.csv"
    out.write_text("mine")
    assert "scores.csv exists: choose another name, or give --overwrite" in refused(capsys, "bbf", bbf, "--out", out)
    bbf.write_text(BBF.replace("2.0", "nan"))
    assert "line 4: 'nan' is not a finite number" in refused(capsys, "bbf", bbf, "--out", out, "--overwrite")
    assert out.read_text() == "mine"
    bbf.write_text(BBF)
    convert.main(["bbf", str(bbf), "--out", str(out), "--overwrite"])
    assert len(table(out)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["RR2_BBF.csv", "scores.csv"]


def test_one_run_twice_is_refused(bbf, capsys):
    assert "both hold run '7' of BBF in Pong" in refused(capsys, "bbf", bbf, bbf, "--agent", "BBF")


@pytest.mark.parametrize("name", ["scores.pkl", "scores.npz", "scores.npy", "scores.json"])
def test_nothing_is_unpickled(tmp_path, name, capsys):
    ran = tmp_path / "ran"

    class Marker:
        def __reduce__(self):
            return (ran.write_text, ("unpickled",))

    path = tmp_path / name
    if name == "scores.npz":
        np.savez(path, DQN=np.array([Marker()], dtype=object))
    elif name == "scores.npy":
        np.save(path, np.array([Marker()], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(Marker()))
    refused(capsys, "scores", path, "--agent", "A", "--game", "Pong")
    assert not ran.exists()


def test_games_that_the_report_does_not_know_are_named(tmp_path, capsys):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"CartPole-v1": [1.0], "ALE/Pong-v5": [2.0]}))
    convert.main(["scores", str(path), "--agent", "A"])
    printed = capsys.readouterr()
    assert "games that the report does not know: CartPole-v1\n" in printed.err
    assert "A,Pong,1,2.0" in printed.out
