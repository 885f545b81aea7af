from itertools import pairwise

import numpy as np
import pytest
import torch

from agents.training.acting import EpsilonGreedy, FrameStack, linear_epsilon


def test_epsilon_falls_from_one_to_its_final_value():
    values = [linear_epsilon(step, 0.01, 5000) for step in range(0, 8000, 100)]
    assert values[0] == 1
    assert values[25] == pytest.approx((1 + 0.01) / 2)
    assert all(a >= b for a, b in pairwise(values))
    assert set(values[50:]) == {0.01}
    assert linear_epsilon(0, 0.3, 0) == 0.3


def test_a_stack_holds_the_newest_frames_of_one_episode_only():
    stack = FrameStack(2, 3, (1, 1), torch.device("cpu"))
    stack.push(np.array([[[1]], [[11]]], np.uint8), np.array([True, True]))
    stack.push(np.array([[[2]], [[12]]], np.uint8), np.array([False, False]))
    frames = stack.push(np.array([[[3]], [[13]]], np.uint8), np.array([False, True]))
    assert frames.flatten(1).tolist() == [[1, 2, 3], [0, 0, 13]]


def test_pushing_does_not_change_a_stack_that_was_handed_out():
    stack = FrameStack(1, 2, (1, 1), torch.device("cpu"))
    old = stack.push(np.array([[[1]]], np.uint8), np.array([True]))
    stack.push(np.array([[[2]]], np.uint8), np.array([True]))
    assert old.flatten().tolist() == [0, 1]


def test_a_stack_of_one_frame_is_a_copy_of_it():
    stack, frame = FrameStack(2, 1, (1, 1), torch.device("cpu")), np.array([[[1]], [[11]]], np.uint8)
    frames = stack.push(frame, np.array([False, True]))
    frame[:] = 0
    assert frames.tolist() == [[[[1]]], [[[11]]]]
    assert frames is stack.frames


def test_the_share_of_random_actions_is_epsilon():
    policy = EpsilonGreedy(lambda obs: torch.zeros(len(obs), dtype=torch.long), num_actions=4, seed=0)
    obs = torch.zeros(20_000, 1)
    actions = policy(obs, 0.2)
    assert (actions != 0).mean() == pytest.approx(0.2 * 3 / 4, abs=0.01)
    assert (policy(obs, 0.0) == 0).all()


def test_a_wholly_random_step_does_not_ask_the_policy():
    def policy(obs):
        raise AssertionError

    actions = EpsilonGreedy(policy, num_actions=3, seed=0)(torch.zeros(1000, 1), 1.0)
    assert set(actions.tolist()) == {0, 1, 2}


def test_exploration_goes_on_from_its_state():
    first, second = (EpsilonGreedy(lambda obs: obs[:, 0].long(), 5, seed) for seed in (0, 1))
    obs = torch.zeros(50, 1)
    first(obs, 0.5)
    second.load_state_dict(first.state_dict())
    assert (first(obs, 0.5) == second(obs, 0.5)).all()
