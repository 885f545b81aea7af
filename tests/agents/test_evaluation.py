import io
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from rich.console import Console

import agents.playing.evaluation
from agents.config import DQNConfig
from agents.playing.evaluation import (
    describe_games,
    format_score,
    live_metrics,
    play_episodes,
    rules_played,
    score,
    summary,
    time_left,
)
from agents.playing.games import Game, Games, different, effective_number
from envs.ale import AleVectorEnv
from envs.catch import Catch
from envs.protocol import PROTOCOLS
from envs.vector_env import Step
from experiment.progress import Progress

CPU = torch.device("cpu")


def play(policy, env, episodes, epsilon=0.0):
    games = Games(env.num_envs, episodes, env.time_limit)
    list(play_episodes(policy, env, games, epsilon, 0, CPU))
    return games


def always(action):
    return lambda obs: torch.full((len(obs),), action)


class Uneven(Catch):
    """Environment i plays episodes of i + 1 steps, each of which returns i."""

    def recv(self):
        self.row += 1
        ended = self.row > np.arange(self.num_envs)
        frame, never, steps = self._draw_nothing(), np.zeros(self.num_envs, bool), self.row.copy()
        self.row[ended] = 0
        return Step(frame, np.zeros(self.num_envs), ended, never, never, np.arange(self.num_envs) * 1.0, steps, frame)

    def _draw_nothing(self):
        return np.zeros((self.num_envs, *self.frame_shape), np.uint8)


@pytest.mark.parametrize(("num_envs", "episodes"), [(3, 7), (4, 4), (1, 5), (3, 100)])
def test_short_games_are_not_favoured(num_envs, episodes):
    games = play(always(0), Uneven(num_envs), episodes)
    scores = [game.score for game in games.ended]
    assert len(scores) == episodes
    counts = [scores.count(float(i)) for i in range(num_envs)]
    assert max(counts) - min(counts) <= 1
    assert [game.steps for game in games.ended] == [int(value) + 1 for value in scores]


def test_a_good_policy_is_told_from_a_bad_one():
    def follow(obs):
        newest = obs[:, -1]
        ball = newest[:, :-1].flatten(1).int().argmax(1) % newest.shape[-1]
        paddle = newest[:, -1].int().argmax(1)
        return (ball > paddle).long() - (ball < paddle).long() + 1

    good = play(follow, Catch(4, enlarged=False), 20)
    bad = play(lambda obs: 2 - follow(obs), Catch(4, enlarged=False), 20)
    assert [game.score for game in good.ended] == [1.0] * 20
    assert np.mean([game.score for game in bad.ended]) < -0.5


# --- what a score stands on


class Scripted(Uneven):
    """Each environment plays the games of a list over and over, as (length, return); 6 steps are the limit."""

    time_limit = 6

    def __init__(self, *lists):
        super().__init__(len(lists))
        self.lists, self.number = lists, np.zeros(len(lists), int)

    def recv(self):
        self.row += 1
        games = [games[number % len(games)] for games, number in zip(self.lists, self.number, strict=True)]
        terminated = self.row == [length for length, _ in games]
        truncated = (self.row == self.time_limit) & ~terminated
        frame, never, steps = self._draw_nothing(), np.zeros(self.num_envs, bool), self.row.copy()
        self.row[terminated | truncated] = 0
        self.number += terminated | truncated
        returns = np.array([value for _, value in games], float)
        return Step(frame, np.zeros(self.num_envs), terminated, truncated, never, returns, steps, frame)


def test_lengths_cuts_and_different_games_are_counted():
    env = Scripted([(2, 1.0), (3, 1.0)], [(99, 0.0)])
    found = summary("Breakout", play(always(1), env, 8))
    assert sorted(zip(found["steps"], found["cut"], found["scores"], strict=True)) == sorted(
        [(2, False, 1.0), (3, False, 1.0)] * 2 + [(6, True, 0.0)] * 4
    )
    assert (found["episodes"], found["limit_steps"], found["cut_games"]) == (8, 6, 4)
    assert found["different_games"] == 3
    assert found["effective_games"] == pytest.approx(8**2 / (2**2 + 2**2 + 4**2))
    assert describe_games(found) == (
        "8 games, 4 of 8 cut at the limit of 6 steps, 3 different games (effective number 2.67)"
    )


def test_a_score_counter_that_wraps_is_counted_in_its_own_game():
    class Wrapping(Scripted):
        def recv(self):
            step = super().recv()  # the first environment wraps in the second of its two steps, the other one never
            return step._replace(score_wrapped=np.array([step.episode_steps[0] == 2, False]))

    games = play(always(1), Wrapping([(2, 1.0), (1, 1.0)], [(3, 1.0)]), 6)
    assert sorted((game.steps, game.score_wraps) for game in games.ended) == [(1, 0), (2, 1), (2, 1), *[(3, 0)] * 3]
    found = summary("Breakout", games)
    assert found["score_wraps"] == 2
    assert describe_games(found).endswith("score counters wrapped 2 times, so the scores are too low")


def test_a_game_that_ends_by_itself_in_the_step_of_the_limit_was_not_cut():
    games = play(always(1), Scripted([(6, 1.0)]), 1)
    assert games.ended[0][:3] == (1.0, 6, False)


def test_other_actions_or_another_return_make_another_game():
    ended = iter(range(100))
    different_actions = play(lambda obs: torch.tensor([next(ended) % 3]), Scripted([(2, 0.0)]), 9)
    assert len(different(different_actions.ended)) == 3  # 01, 20, 12
    assert len(different(play(always(1), Scripted([(2, 0.0), (2, 5.0)]), 9).ended)) == 2  # sticky actions
    assert len(different(play(always(1), Scripted([(2, 0.0)]), 9).ended)) == 1


def test_what_follows_the_last_counted_game_does_not_count():
    games = play(always(1), Scripted([(1, 1.0)], [(6, 1.0)]), 2)
    assert [game.steps for game in games.ended] == [1, 6]
    assert games.steps == 7
    assert (len(games.ended), games.begun()) == (2, 0.0)


def test_the_effective_number_is_between_one_and_all():
    games = [Game(float(i), 1, False, b"") for i in range(5)]
    assert effective_number(games) == pytest.approx(5)
    assert effective_number(games * 4) == pytest.approx(5)
    assert effective_number(games + [games[0]] * 95) == pytest.approx(100**2 / (96**2 + 4))
    assert effective_number([]) == 0.0


def test_real_games_are_cut_and_are_repeated():
    """A policy that never launches Breakout's ball: the same game each time, cut at the limit."""
    env = AleVectorEnv("Breakout", replace(PROTOCOLS["atari100k"], max_frames=160), 2)
    found = summary("Breakout", play(always(0), env, 5))
    env.close()
    assert found["steps"] == [40] * 5
    assert (found["cut_games"], found["different_games"], found["effective_games"]) == (5, 1, 1.0)


def games_of(scores, limit=27_000, cut=0):
    games = Games(1, 0, limit)
    games.ended = [Game(value, 100 + i, i < cut, bytes([i])) for i, value in enumerate(scores)]
    return games


def test_the_summary_is_normalised_by_the_reference_scores():
    found = summary("Breakout", games_of([1.7, 30.5]))
    assert found["mean"] == pytest.approx(16.1)
    assert found["human_normalized"] == pytest.approx(0.5)
    assert summary("Adventure", games_of([1.0]))["human_normalized"] is None


def test_the_verdict_names_the_rules_and_says_whole_of_whole_games_only():
    config = DQNConfig(env="Pong", protocol="machado").resolved()
    line = format_score(config, config.env, games_of([-21.0, -19.0]))
    assert line == (
        "Pong: mean -20.0, median -20.0 over 2 whole games, all different (machado, epsilon 0.001), "
        "human-normalised 0.020"
    )
    line = format_score(config, config.env, games_of([-21.0, -19.0], cut=1))
    assert "over 2 games, 1 of 2 cut at the limit of 27,000 steps, all different (machado" in line


def test_a_result_states_the_rules_that_were_played():
    own = DQNConfig(env="Pong", eval_epsilon=0.0, eval_episodes=3).resolved()
    usual = rules_played(DQNConfig(env="Pong").resolved(), 100, 27_000)
    assert usual == asdict(PROTOCOLS["atari100k"])
    assert rules_played(own, 3, 27_000) == usual | {"evaluation_epsilon": 0.0, "evaluation_episodes": 3}


# --- how long it takes


def test_the_time_left_is_at_most_what_the_limit_allows():
    env, games = Scripted([(99, 0.0)], [(99, 0.0)]), Games(2, 5, 6)
    for _ in play_episodes(always(0), env, games, 0.0, 0, CPU):
        assert games.most_left() == 18 - games.time  # environment 0 plays three games, each cut
        if games.ended:
            assert games.likely_left() == 18 - games.time
    assert games.time == 18


def test_the_mean_length_counts_games_that_still_run():
    games = Games(2, 4, 1000)
    assert (games.most_left(), games.likely_left()) == (2000, None)
    games.ended = [Game(0.0, 100, False, b"")]
    games.left, games.running = np.array([1, 2]), np.array([0, 500])
    assert games.most_left() == 1500
    assert games.likely_left() == 700  # 600 steps a game: 100 are left of environment 1's, and there is one more
    games.left, games.running = np.array([1, 1]), np.array([0, 900])
    assert games.likely_left() == 1000  # a mean of 1,000 in environment 0
    games.ended = [Game(0.0, 100, False, b"")] * 9
    assert games.likely_left() == 200  # environment 0; the game that outlasts the mean has 100 left at most


def test_the_time_left_in_words():
    games = Games(1, 2, 6000)
    assert time_left(games, 0.0) == "time left unknown"
    assert time_left(games, 100.0) == "at most 0:02:00 left"
    games.ended, games.left = [Game(0.0, 600, False, b"")], np.array([1])
    assert time_left(games, 100.0) == "about 0:00:06 left, at most 0:01:00"
    assert time_left(Games(1, 2, None), 100.0) == "time left unknown"
    games.left = np.array([0])
    assert time_left(games, 0.0) == "0:00:00 left"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_view_moves_while_no_game_ends(terminal, monkeypatch):
    """Two games of 6 steps at most; a line is drawn after each step."""
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=120, _environ={"TERM": "xterm"}, color_system=None
    )
    now, drawn = 0.0, []

    class Slow(Progress):
        def __init__(self, total, unit, **options):
            super().__init__(total, unit, console, clock=lambda: now, interval=1.0, ticking=False, **options)

        def _draw(self, moment):
            super()._draw(moment)
            if terminal:
                text = Console(file=io.StringIO(), width=120)
                text.print(self._live.get_renderable())
                drawn.append(text.file.getvalue())

    class Timed(Scripted):
        def recv(self):
            nonlocal now
            now += 10.0
            return super().recv()

    monkeypatch.setattr(agents.playing.evaluation, "Progress", Slow)
    monkeypatch.setattr(agents.playing.evaluation.time, "monotonic", lambda: now)
    monkeypatch.setattr(agents.playing.evaluation, "build_env", lambda *_: Timed([(99, 0.0)]))
    games = score(DQNConfig(env="Catch").resolved(), always(0), 2, 0)
    assert len(games.ended) == 2
    lines = drawn if terminal else console.file.getvalue().splitlines()
    assert "steps played 1, longest running 1, limit of a game 6" in lines[0] or terminal
    for step in range(1, 6):
        for part in (
            f"{100 * step // 12}% 0/2 evaluation games",
            f"0:{step * 10 // 60:02}:{step * 10 % 60:02} elapsed",
        ):
            assert part in lines[step - 1]
        left = (12 - step) * 10
        words = "time left unknown" if step == 1 else f"at most 0:{left // 60:02}:{left % 60:02} left"
        assert words in lines[step - 1]
    assert "50% 1/2" in lines[5]
    assert "0:01:00 elapsed, at most 0:01:00 left" in lines[5]
    if terminal:
        bars = [line.splitlines()[0].count("━") for line in lines[:5]]
        assert bars == sorted(set(bars))
        assert bars[0] > 0


def test_the_figures_of_an_evaluation_without_a_limit():
    shown = live_metrics(play(always(1), Catch(2), 2))
    assert shown["limit of a game"] == "none"
    assert shown["steps played"] == "18"
