import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import envs
from envs.catch import SIZE, Catch
from envs.games import rom_id
from envs.registry import resolve_game


@given(st.integers(0, 50), st.lists(st.integers(0, 2), min_size=1, max_size=40))
def test_the_enlarged_game_is_the_small_one_seen_through_a_lens(seed, actions):
    small, large = Catch(2, seed, enlarged=False), envs.make("catch", "atari100k", 2, seed)
    shown = [(small.reset(), large.reset())]
    for action in actions:
        steps = [env.step(np.full(2, action)) for env in (small, large)]
        np.testing.assert_array_equal(steps[0].reward, steps[1].reward)
        shown += [(steps[0].frame, steps[1].frame), (steps[0].first_frame, steps[1].first_frame)]
    for little, big in shown:
        assert big.shape == (2, 84, 84)
        np.testing.assert_array_equal(big[:, 7:74:7, 7:74:7], little)
        assert big.sum() == 49 * little.sum(dtype=np.int64)


def test_the_ball_takes_nine_steps_and_a_follower_catches_it():
    env = Catch(1, 3, enlarged=False)
    frame = env.reset()[0]
    for count in range(1, SIZE):
        ball, paddle = frame[:-1].any(0).argmax(), frame[-1].argmax()
        step = env.step(np.array([np.sign(ball - paddle) + 1]))
        frame = step.frame[0]
        assert step.terminated[0] == (count == SIZE - 1)
    assert step.reward[0] == 1
    assert step.episode_return[0] == 1


def test_catch_has_a_name_and_no_rom():
    assert resolve_game("catch") == "Catch"
    with pytest.raises(ValueError, match="no game of the emulator"):
        rom_id("Catch")
