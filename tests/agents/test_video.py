"""The filmed games are the scored ones; what cannot be filmed is reported in one line before anything is played."""

import dataclasses
import sys

import numpy as np
import pytest
import torch

import agents.playing.evaluation
import agents.playing.video
from agents import cli, evaluate
from agents.playing.evaluation import play_episodes
from agents.playing.games import Games
from agents.playing.video import Recorder, colored
from envs.ale import AleVectorEnv
from envs.catch import Catch
from envs.protocol import PROTOCOLS

CPU = torch.device("cpu")


def film_of(path):
    """The pictures of a video, uint8 [N, H, W, 3], and how many of them make a second."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]), stream.average_rate


def wander(obs):
    """Actions that follow from the pixels, and differ."""
    return obs.flatten(1).long().sum(1) % 4


def played(env, episodes, recorder=None):
    games = Games(env.num_envs, episodes, env.time_limit)
    list(play_episodes(wander, env, games, 0.3, 0, CPU, recorder))
    if recorder is not None:
        recorder.close()
    env.close()
    return [game.score for game in games.ended]


def test_the_screen_of_the_scored_games_is_filmed_in_colour(tmp_path):
    pytest.importorskip("av")
    rules = dataclasses.replace(PROTOCOLS["machado"], max_frames=4 * 40)
    recorder = Recorder(tmp_path / "a.mp4", episodes=2)
    scores = played(AleVectorEnv("Breakout", rules, 2, seed=3), 3, recorder)
    pictures, rate = film_of(tmp_path / "a.mp4")
    assert rate == 15
    assert pictures.shape == (2 + recorder.steps, 420, 320, 3)
    assert recorder.steps == 80
    assert recorder.returns == [scores[0], scores[2]]
    middle = pictures[5, 2 * 57 : 2 * 93, 40:280].astype(int)
    assert (middle.max(-1) - middle.min(-1)).max() > 100  # the bricks are red to blue


def test_another_game_than_the_scored_one_is_noticed(tmp_path, monkeypatch):
    pytest.importorskip("av")
    other = lambda env: AleVectorEnv(env.game, env.protocol, seed=env.seed + 1, color=True)  # noqa: E731
    monkeypatch.setattr(agents.playing.video, "color_twin", other)
    with pytest.raises(RuntimeError, match="the filmed game is not the one that is scored"):
        played(AleVectorEnv("Breakout", PROTOCOLS["atari100k"], 1, seed=3), 1, Recorder(tmp_path / "a.mp4"))


def test_a_film_changes_no_score_and_shows_each_step(tmp_path):
    pytest.importorskip("av")
    recorder = Recorder(tmp_path / "a.mp4", episodes=3)
    scores = played(Catch(4, seed=1), 16, recorder)
    assert scores == played(Catch(4, seed=1), 16)
    pictures, _ = film_of(tmp_path / "a.mp4")
    assert pictures.shape == (3 * 10, 336, 336, 3)
    env = Catch(4, seed=1)
    balls = [frame[0] for frame in (env.reset(), *(env.step(np.ones(4, int)).first_frame for _ in range(8)))]
    for picture, frame in zip(pictures, balls, strict=False):  # the paddle, in the last lines, may be elsewhere
        assert np.array_equal(picture[2:268:4, 2::4, 0] > 127, frame[:67] > 127)


@pytest.mark.parametrize("channels", [4, 6, 7, 10])
def test_channels_are_told_apart_by_colour(channels):
    frame = np.zeros((channels, 10, 10), np.uint8)
    for i in range(channels):
        frame[i, 0, i] = 255
    picture = colored(frame).astype(int)
    shown = np.concatenate([picture[0, :channels], picture[2, :1]])  # with the background
    distances = np.abs(shown[:, None] - shown).max(-1)
    assert distances[~np.eye(channels + 1, dtype=bool)].min() > 100


@pytest.mark.parametrize("bricks", [6, 1])
def test_a_ball_among_the_bricks_is_seen(bricks):
    minatar = pytest.importorskip("envs.minatar", reason="MinAtar is an extra and is not installed")
    env = minatar.MinAtarVectorEnv("MinAtar/Breakout", PROTOCOLS["minatar"], 1, seed=1)
    env.reset()
    game = env._games[0].env
    game.brick_map[:] = 0
    game.brick_map[2, 4 : 4 + bricks] = 1
    game.ball_x, game.ball_y, game.last_x, game.last_y = 4, 2, 3, 3
    (frame,) = minatar._frames(env._games)
    ball = colored(np.eye(4, dtype=np.uint8)[1].reshape(4, 1, 1) * np.uint8(255))[0, 0]
    picture = colored(frame)
    assert (frame[[1, 3], 2, 4] == 255).all()
    assert (picture[2, 4] == ball).all()
    assert (picture == ball).all(-1).sum() == 1
    if bricks > 1:
        assert (picture[2, 5] != ball).any()


def test_games_of_channels_are_filmed_in_their_colours(tmp_path):
    pytest.importorskip("av")
    minatar = pytest.importorskip("envs.minatar", reason="MinAtar is an extra and is not installed")
    env = minatar.MinAtarVectorEnv("MinAtar/Seaquest", PROTOCOLS["minatar"], 2, seed=1)
    first = colored(env.reset()[0])
    recorder = Recorder(tmp_path / "a.mp4")
    played(minatar.MinAtarVectorEnv("MinAtar/Seaquest", PROTOCOLS["minatar"], 2, seed=1), 2, recorder)
    pictures, rate = film_of(tmp_path / "a.mp4")
    assert (pictures.shape, rate) == ((1 + recorder.steps, 320, 320, 3), 15)
    seen = pictures[0, 16::32, 16::32].astype(int)
    assert first.any()
    assert np.abs(seen - first).max() < 40


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    words = ["--env=Catch", "--steps=70", "--update-start=66", "--compile=false", "--threads=1", "--probe-interval=0"]
    assert cli.main("dqn", [*words, "--eval-episodes=0", "--root", str(root), "--name=a"]) == 0
    return root / "a"


def test_a_video_from_the_command_line(saved, tmp_path, capsys):
    pytest.importorskip("av")
    assert evaluate.main([str(saved), "--episodes=11", "--video", str(tmp_path), "--video-episodes=2"]) == 0
    path = tmp_path / "Catch-70.mp4"
    assert f"video: {path} (18 agent steps; returns of its games: " in capsys.readouterr().out
    assert len(film_of(path)[0]) == 20


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--video=no/such/folder/a.mp4"], "cannot be written: No such file"),
        (["--video=a.avi"], ".mp4"),
        (["--video=a.mp4", "--video-episodes=0"], "--video-episodes"),
        (["--video-episodes=2"], "--video-episodes 2 needs --video"),
        (["--video=a.mp4", "--video-episodes=2", "--episodes=10"], "first environment plays 1"),
        (["--video=a.mp4"], "pip install 'rewarm[video]'"),
    ],
)
def test_what_cannot_be_filmed_is_told_before_anything_is_played(words, said, saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(agents.playing.evaluation, "score", None)
    if "install" in said:
        monkeypatch.setitem(sys.modules, "av", None)
    else:
        pytest.importorskip("av")
    with pytest.raises(SystemExit) as stop:
        evaluate.main([str(saved), *words])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert said in line
    assert not list(tmp_path.iterdir())


def test_a_full_disk_ends_the_film_and_not_the_evaluation(saved, tmp_path, capsys):
    pytest.importorskip("av")
    (tmp_path / "a.mp4").symlink_to("/dev/full")
    assert evaluate.main([str(saved), "--episodes=2", "--video", str(tmp_path / "a.mp4")]) == 0
    shown = capsys.readouterr()
    assert "Catch: mean" in shown.out
    assert "warning: the video ends early, the evaluation goes on" in shown.err
