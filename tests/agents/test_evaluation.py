from dataclasses import asdict

import numpy as np
import pytest
import torch

from agents.config import DQNConfig
from agents.evaluation import play_episodes, rules_played, summary, verdict
from envs.catch import Catch
from envs.protocol import PROTOCOLS
from envs.vector_env import Step


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
    env = Uneven(num_envs)
    played = play_episodes(
        lambda obs: torch.zeros(len(obs), dtype=torch.long), env, episodes, 0.0, 0, torch.device("cpu")
    )
    scores = [score for score in played if score is not None]
    assert len(scores) == episodes
    counts = [scores.count(float(i)) for i in range(num_envs)]
    assert max(counts) - min(counts) <= 1


def test_a_good_policy_is_told_from_a_bad_one():
    def follow(obs):
        newest = obs[:, -1]
        ball = newest[:, :-1].flatten(1).int().argmax(1) % newest.shape[-1]
        paddle = newest[:, -1].int().argmax(1)
        return (ball > paddle).long() - (ball < paddle).long() + 1

    device = torch.device("cpu")
    good = [score for score in play_episodes(follow, Catch(4, enlarged=False), 20, 0.0, 0, device) if score is not None]
    bad = [
        score
        for score in play_episodes(lambda obs: 2 - follow(obs), Catch(4, enlarged=False), 20, 0.0, 0, device)
        if score
    ]
    assert good == [1.0] * 20
    assert np.mean(bad) < -0.5


def test_the_summary_is_normalised_by_the_reference_scores():
    figures = summary("Breakout", [1.7, 30.5])
    assert figures["mean"] == pytest.approx(16.1)
    assert figures["human_normalized"] == pytest.approx(0.5)
    assert summary("Adventure", [1.0])["human_normalized"] is None


def test_the_verdict_names_the_rules():
    line = verdict(DQNConfig(env="Pong", protocol="machado").resolved(), [-21.0, -19.0])
    assert "mean -20.0" in line
    assert "2 whole games" in line
    assert "machado" in line
    assert "epsilon 0.001" in line


def test_a_result_states_the_rules_that_were_played():
    own = DQNConfig(env="Pong", eval_epsilon=0.0, eval_episodes=3).resolved()
    usual = rules_played(DQNConfig(env="Pong").resolved(), 100)
    assert usual == asdict(PROTOCOLS["atari100k"])
    assert rules_played(own, 3) == usual | {"evaluation_epsilon": 0.0, "evaluation_episodes": 3}
