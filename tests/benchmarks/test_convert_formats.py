"""Each format on a small file of its layout. The numbers are invented."""

import json

import numpy as np
import pytest

from benchmarks.formats.point import EVALUATION, TRAINING, Given
from benchmarks.formats.registry import FORMATS
from experiment.config import ConfigError


def read(name, path, **given):
    return FORMATS[name].read(path, Given(**given))


def rows(table, *columns):
    return [tuple(getattr(point, column) for column in columns) for point in table.points]


def refused(name, path, text, line, **given):
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read(name, path, **given)
    assert line in str(error.value)
    assert str(path) in str(error.value)


# --- Stable-Baselines3


def monitor(path, env_id, lines, start=100.0):
    path.parent.mkdir(exist_ok=True)
    header = json.dumps({"t_start": start, "env_id": env_id})
    path.write_text(f"#{header}\nr,l,t\n" + "".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("env_id", "monitor_frames", "expected"),
    [
        ("BreakoutNoFrameskip-v4", None, [(None, 10), (None, 30)]),
        ("ALE/Breakout-v5", None, [(None, 40), (None, 120)]),
        ("ALE/Breakout-v5", 1, [(None, 10), (None, 30)]),
        ("Breakout-v4", None, [(None, None), (None, None)]),  # its frame skip is random
        ("CartPole-v1", None, [(10, None), (30, None)]),
        ("MinAtar/Breakout-v1", None, [(10, None), (30, None)]),
        ("BreakoutNoFrameskip-v4", 0, [(10, None), (30, None)]),  # Monitor outside the Atari wrapper
    ],
)
def test_monitor_gives_frames_or_steps_by_what_it_wraps(tmp_path, env_id, monitor_frames, expected):
    path = monitor(tmp_path / "monitor.csv", env_id, ["1.0,10,0.5", "2.0,20,0.9"])
    table = read("sb3-monitor", path, agent="DQN", monitor_frames=monitor_frames)
    assert rows(table, "steps", "frames") == expected
    assert rows(table, "agent", "game", "score", "kind") == [
        ("DQN", env_id, 1.0, TRAINING), ("DQN", env_id, 2.0, TRAINING),
    ]  # fmt: skip


def test_monitor_says_what_it_cannot_know(tmp_path):
    path = monitor(tmp_path / "monitor.csv", "ALE/Breakout-v5", ["1.0,10,0.5"])
    assert "and 16 for each of AtariWrapper's" in read("sb3-monitor", path, agent="DQN").notes[0]
    path = monitor(tmp_path / "monitor.csv", "None", ["1.0,10,0.5"])
    assert "give --monitor-frames" in read("sb3-monitor", path, agent="DQN", game=("Breakout",)).notes[0]
    with pytest.raises(ConfigError, match="does not name its game: give --game"):
        read("sb3-monitor", path, agent="DQN")


def test_the_environments_of_a_run_are_merged_by_time(tmp_path):
    folder = tmp_path / "run_3"
    monitor(folder / "0.monitor.csv", "CartPole-v1", ["1.0,10,5.0", "3.0,10,9.0"], start=100.0)
    monitor(folder / "1.monitor.csv", "CartPole-v1", ["2.0,10,5.0"], start=101.0)
    table = read("sb3-monitor", folder, agent="A2C")
    assert rows(table, "run", "steps", "score") == [("run_3", 10, 1.0), ("run_3", 20, 2.0), ("run_3", 30, 3.0)]
    monitor(folder / "2.monitor.csv", "Acrobot-v1", ["2.0,10,5.0"])
    with pytest.raises(ConfigError, match="several environments: Acrobot-v1, CartPole-v1"):
        read("sb3-monitor", folder, agent="A2C")


def test_a_damaged_monitor_file_is_refused(tmp_path):
    path, header = tmp_path / "monitor.csv", '#{"t_start": 1.0, "env_id": "CartPole-v1"}\n'
    refused("sb3-monitor", path, "r,l,t\n1.0,2,3.0\n", "its first line is not Monitor's", agent="A")
    refused("sb3-monitor", path, header + "r,l,t\n", "it holds no scores", agent="A")
    refused("sb3-monitor", path, header + "r,l\n1.0,2\n", "it has no column 't'", agent="A")
    refused("sb3-monitor", path, header + "r,l,t\n1.0,2,3.0\n1.0,2\n", "line 4: it has 2 fields", agent="A")
    refused("sb3-monitor", path, header + "r,l,t\n1.0,2.5,3.0\n", "line 3: '2.5' is not a whole number", agent="A")
    refused("sb3-monitor", path, header + "r,l,t\n1.0,2,3.0\n", "does not name its agent: give --agent")


def test_evaluations_are_means_over_their_games(tmp_path):
    path = tmp_path / "dqn_1" / "evaluations.npz"
    path.parent.mkdir()
    np.savez(path, timesteps=[100, 200], results=[[1.0, 3.0], [4.0, 6.0]], ep_lengths=[[9, 9], [9, 9]])
    table = read("sb3-evaluations", path, agent="DQN", game=("Pong",))
    assert rows(table, "run", "steps", "score", "games", "kind") == [
        ("dqn_1", 100, 2.0, 2, EVALUATION), ("dqn_1", 200, 5.0, 2, EVALUATION),
    ]  # fmt: skip
    np.savez(path, timesteps=[100], results=[[1.0, 3.0], [4.0, 6.0]])
    with pytest.raises(ConfigError, match="are not evaluations x games"):
        read("sb3-evaluations", path, agent="DQN", game=("Pong",))
    np.savez(path, timesteps=[100], results=[["1.0"]])
    with pytest.raises(ConfigError, match="array 'results' is of <U3, not of numbers"):
        read("sb3-evaluations", path, agent="DQN", game=("Pong",))
    np.savez(path, timesteps=[100])
    with pytest.raises(ConfigError, match="it has no array 'results'"):
        read("sb3-evaluations", path, agent="DQN", game=("Pong",))


def test_files_that_sb3_writes(tmp_path):
    pytest.importorskip("stable_baselines3")
    from stable_baselines3 import A2C
    from stable_baselines3.common.callbacks import EvalCallback
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env("CartPole-v1", n_envs=2, seed=0, monitor_dir=str(tmp_path / "a2c"))
    test = EvalCallback(
        make_vec_env("CartPole-v1"), log_path=str(tmp_path), eval_freq=200, n_eval_episodes=3, verbose=0
    )
    A2C("MlpPolicy", env, seed=0, device="cpu").learn(800, callback=test)
    table = read("sb3-monitor", tmp_path / "a2c", agent="A2C")
    assert 0 < table.points[-1].steps <= 800
    assert rows(table, "game", "run") == [("CartPole-v1", "a2c")] * len(table.points)
    table = read("sb3-evaluations", tmp_path / "evaluations.npz", agent="A2C", game=("CartPole-v1",))
    assert rows(table, "steps", "games") == [(400, 3), (800, 3)]


# --- TensorBoard


def log(folder, scalars):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    with tensorboard.SummaryWriter(str(folder)) as writer:
        for tag, value, step in scalars:
            writer.add_scalar(tag, value, step)
    return folder


def test_cleanrl_has_training_and_evaluation(tmp_path):
    folder = log(
        tmp_path / "BreakoutNoFrameskip-v4__dqn_atari__3__1700000000",
        [("charts/episodic_return", 1.0, 50), ("losses/td_loss", 9.0, 60), ("charts/episodic_return", 2.0, 90)]
        + [("eval/episodic_return", score, index) for index, score in enumerate([4.0, 6.0])],
    )
    table = read("cleanrl", folder)
    assert rows(table, "game", "agent", "run", "frame_skip") == [("BreakoutNoFrameskip-v4", "dqn_atari", "3", 4)] * 3
    assert rows(table, "score", "kind", "steps", "frames", "games") == [
        (1.0, TRAINING, 50, 200, 1), (2.0, TRAINING, 90, 360, 1), (5.0, EVALUATION, 90, 360, 2),
    ]  # fmt: skip


def test_a_cleanrl_run_under_another_name(tmp_path):
    folder = log(tmp_path / "mine", [("charts/episodic_return", 1.0, 50)])
    with pytest.raises(ConfigError, match="does not name its game: give --game"):
        read("cleanrl", folder)
    [file] = folder.iterdir()
    table = read("cleanrl", file, game=("CartPole-v1",), agent="dqn", run="7")
    assert rows(table, "game", "agent", "run", "frames") == [("CartPole-v1", "dqn", "7", None)]


def test_tianshou_has_test_and_training(tmp_path):
    scalars = [("training/returns_stat/mean", 1.0, 1000), ("training/n_collected_episodes", 2, 1000)]
    scalars += [("test/returns_stat/mean", 3.0, 1500), ("test/n_collected_episodes", 10, 1500), ("train/eps", 0.1, 1)]
    table = read("tianshou", log(tmp_path / "5", scalars), agent="DQN", game=("Pong",))
    assert rows(table, "run", "score", "kind", "steps", "games") == [
        ("5", 3.0, EVALUATION, 1500, 10), ("5", 1.0, TRAINING, 1000, 2),
    ]  # fmt: skip


def test_the_tags_there_are_stand_in_the_message(tmp_path):
    folder = log(tmp_path / "run", [("train/reward", 1.0, 10)])
    with pytest.raises(ConfigError, match=r"no tag 'test/returns_stat/mean'; its tags are train/reward"):
        read("tianshou", folder, agent="DQN", game=("Pong",))
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match="no event file of TensorBoard in it"):
        read("tianshou", tmp_path / "none", agent="DQN", game=("Pong",))


def test_a_file_that_is_no_event_file(tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    refused("cleanrl", path, "not events at all" * 20, "it has no tags at all", agent="A", game=("Pong",))


# --- published results


def record(agent, iteration, value):
    return {"Iteration": iteration, "Value": value, "Agent": agent}


@pytest.mark.parametrize("by_run", [True, False])
def test_dopamine_in_both_orders(tmp_path, by_run):
    path = tmp_path / ("pong.json" if by_run else "pong_Impala.json")
    order = [(run, it) for run in (1, 2) for it in (0, 1)] if by_run else [(r, it) for it in (0, 1) for r in (1, 2)]
    path.write_text(json.dumps([record("DQN", it, 10.0 * run + it) for run, it in order]))
    table = read("dopamine", path)
    name = "DQN" if by_run else "DQN (Impala)"
    assert rows(table, "agent", "game", "run", "steps", "frames", "score", "kind") == [
        (name, "pong", run, 250_000 * count, 1_000_000 * count, score, TRAINING)
        for run, count, score in (("1", 1, 10.0), ("1", 2, 11.0), ("2", 1, 20.0), ("2", 2, 21.0))
    ]


def test_dopamine_leaves_out_iterations_that_lack_runs(tmp_path):
    path = tmp_path / "pong_CNN.json"
    path.write_text(json.dumps([record("C51", 0, 1.0), record("C51", 0, 2.0), record("C51", 1, 3.0)]))
    table = read("dopamine", path)
    assert rows(table, "run", "score") == [("1", 1.0), ("2", 2.0)]
    assert table.notes == [f"{path}: C51: 1 of 2 iterations have fewer runs and are left out; the last is 0"]


def test_dopamine_elsewhere_than_on_atari_has_no_frames(tmp_path):
    path = tmp_path / "ant.json"
    path.write_text(json.dumps([record("SAC", 10.0, 1.0)]))
    assert rows(read("dopamine", path), "steps", "frames", "protocol") == [(None, None, None)]


def test_a_damaged_dopamine_file_is_refused(tmp_path):
    path = tmp_path / "pong.json"
    refused("dopamine", path, '{"$schema": "x"}', "it is a plot")
    refused("dopamine", path, "[]", "no list of records")
    refused("dopamine", path, '[{"Agent": "DQN"}]', "record 1: it has not Agent, Iteration and Value")
    refused("dopamine", path, '[{"Agent": "DQN", "Iteration": 0, "Value": NaN}]', "record 1: 'nan' is not a finite")
    refused("dopamine", path, '[{"Agent": "DQN", "Agent": "C51"}]', "key 'Agent' stands twice")
    refused("dopamine", path, "[" * 100, "it is not JSON")


MRQ = """--------------------
Env: Atari-Pong-v5
Timestep\tSeed 0\t\tSeed 1
0\t\t-1.000\t\t-2.000
100000\t\t1.000\t\t2.000
--------------------
Env: Gym-Ant-v4
Timestep\tSeed 0\t\tSeed 1
5000\t\t1000.000\t2000.000
"""


def test_mrq_blocks(tmp_path):
    path = tmp_path / "atari_results.txt"
    path.write_text(MRQ)
    table = read("mrq", path)
    assert rows(table, "game", "run", "score", "steps", "frames", "protocol", "games") == [
        ("Pong-v5", "0", -1.0, 0, 0, "mrq", 10), ("Pong-v5", "1", -2.0, 0, 0, "mrq", 10),
        ("Pong-v5", "0", 1.0, 100_000, 400_000, "mrq", 10), ("Pong-v5", "1", 2.0, 100_000, 400_000, "mrq", 10),
        ("Gym-Ant-v4", "0", 1000.0, 5000, None, None, 10), ("Gym-Ant-v4", "1", 2000.0, 5000, None, None, 10),
    ]  # fmt: skip
    refused("mrq", path, MRQ.replace("1.000\t\t2.000", "1.000"), "line 5: expected 'Env:'")
    refused("mrq", path, "0\t1.0\n", "line 1: expected 'Env:'")
    refused("mrq", path, "----\n", "it holds no scores")


def test_bbf_reads_budget_and_sticky_actions_off_the_name(tmp_path):
    path = tmp_path / "RR2_BBF+sticky_20k.csv"
    path.write_text(",GameScoreAverage,GameScoreNormalized,game,seed\n0,1.0,0.1,pong,0\n1,2.0,0.2,krull,1\n")
    assert rows(read("bbf", path), "agent", "game", "run", "score", "steps", "protocol") == [
        ("RR2_BBF+sticky_20k", "pong", "0", 1.0, 20_000, "atari100k+sticky"),
        ("RR2_BBF+sticky_20k", "krull", "1", 2.0, 20_000, "atari100k+sticky"),
    ]  # fmt: skip
    refused("bbf", path, "seed,game\n1,pong\n", "it has no column 'GameScoreAverage'; its columns are seed, game")
    refused("bbf", path, "seed,game,seed\n1,pong,2\n", "column 'seed' stands twice")


def test_btr_has_a_line_for_each_million_frames(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("Pong,Krull\n1.0,2.0\n3.0,4.0\n")
    assert rows(read("btr", path), "agent", "game", "run", "score", "steps", "frames")[1:3] == [
        ("BTR", "Krull", "1", 2.0, 250_000, 1_000_000), ("BTR", "Pong", "1", 3.0, 500_000, 2_000_000),
    ]  # fmt: skip
    refused("btr", path, "Pong,Krull\n1.0\n", "line 2: it has 1 fields, and the header 2")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", ",PPO ({}),DQN ({'tag': ['x']})\nPong-v5,1.00 ± 0.50,nan ± nan\nKrull-v5,2.00 ± 0.10,3.00 ± 0.20\n"),
        (
            "a.md",
            "|  | PPO ({}) | DQN ({'tag': ['x']}) |\n|:---|:---|:---|\n| Pong-v5 | 1.00 ± 0.50 | nan ± nan |\n"
            "| Krull-v5 | 2.00 ± 0.10 | 3.00 ± 0.20 |\n",
        ),
    ],
)
def test_openrlbenchmark_has_a_mean_and_a_deviation(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    table = read("openrlbenchmark", path)
    assert rows(table, "agent", "game", "run", "score", "deviation") == [
        ("PPO", "Pong-v5", "mean", 1.0, 0.5), ("PPO", "Krull-v5", "mean", 2.0, 0.1),
        ("DQN ({'tag': ['x']})", "Krull-v5", "mean", 3.0, 0.2),
    ]  # fmt: skip
    assert table.notes == [f"{path}: left out since they have no runs (nan): 1 cell"]


def test_openrlbenchmark_tables_of_other_things_are_refused(tmp_path):
    refused("openrlbenchmark", tmp_path / "a_hns.csv", ",PPO\nPong-v5,0.10 ± 0.20\n", "human-normalised")
    refused("openrlbenchmark", tmp_path / "a_runtimes.csv", ",PPO\nPong-v5,12.5\n", "'12.5' is not mean ± deviation")
    refused("openrlbenchmark", tmp_path / "a.csv", ",PPO\nPong-v5,nan ± nan\n", "it holds no scores")
    refused("openrlbenchmark", tmp_path / "a.md", "no table\n", "it is no table in Markdown")


# --- arrays and our own table


@pytest.mark.parametrize("ending", [".npy", ".json"])
def test_an_array_is_runs_by_games(tmp_path, ending):
    path, scores = tmp_path / f"scores{ending}", [[1.0, 2.0], [3.0, 4.0]]
    path.write_text(json.dumps(scores)) if ending == ".json" else np.save(path, np.array(scores))
    table = read("scores", path, agent="DQN", game=("Pong", "Krull"))
    assert rows(table, "agent", "game", "run", "score") == [
        ("DQN", "Pong", "1", 1.0), ("DQN", "Krull", "1", 2.0), ("DQN", "Pong", "2", 3.0), ("DQN", "Krull", "2", 4.0),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="run 1 has 2 scores, and --game names 1 games"):
        read("scores", path, agent="DQN", game=("Pong",))
    with pytest.raises(ConfigError, match="does not name its agent"):
        read("scores", path, game=("Pong", "Krull"))


def test_an_array_for_each_agent(tmp_path):
    path = tmp_path / "scores.npz"
    np.savez(path, DQN=[[1.0]], C51=[[2.0]])
    assert rows(read("scores", path, game=("Pong",)), "agent", "score") == [("DQN", 1.0), ("C51", 2.0)]
    with pytest.raises(ConfigError, match="names its agents: DQN, C51"):
        read("scores", path, game=("Pong",), agent="A")
    np.savez(path, DQN=[[[1.0]]])
    with pytest.raises(ConfigError, match="two dimensions"):
        read("scores", path, game=("Pong",))


def test_json_may_name_games_and_agents(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"Pong": [1.0, 2.0], "Krull": [3.0]}))
    expected = [("Pong", "1", 1.0), ("Pong", "2", 2.0), ("Krull", "1", 3.0)]
    assert rows(read("scores", path, agent="DQN"), "game", "run", "score") == expected
    path.write_text(json.dumps({"DQN": {"Pong": [1.0]}, "C51": {"Pong": [2.0]}}))
    assert rows(read("scores", path), "agent", "game", "score") == [("DQN", "Pong", 1.0), ("C51", "Pong", 2.0)]
    refused("scores", path, '{"Pong": [true]}', "'True' is not a finite number", agent="A")
    refused("scores", path, '{"Pong": [1.0, null]}', "A, Pong, run 2: 'None' is not a finite number", agent="A")
    refused("scores", path, "3", "not an array of two dimensions", agent="A")
    refused("scores", path, "[]", "it holds no scores", agent="A", game=("Pong",))


def test_a_long_table_needs_an_axis(tmp_path):
    path = tmp_path / "curves.csv"
    refused("curves", path, "agent,game,run,score\nA,Pong,1,1.0\n", "it has neither column steps nor frames")
    refused("curves", path, "agent,game,run,steps,score\nA,,1,5,1.0\n", "line 2: it has no game")
    refused("curves", path, "agent,game,run,steps,score,kind\nA,Pong,1,5,1.0,test\n", "kind 'test' is neither")
    path.write_text("agent,game,run,steps,score,protocol,other\nA,Pong,1,100000.0,1.0,mine,x\n")
    assert rows(read("curves", path), "steps", "protocol", "kind") == [(100_000, "mine", EVALUATION)]
