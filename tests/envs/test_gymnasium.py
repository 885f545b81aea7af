"""Environments of Gymnasium: each way of resetting gives the same episodes, and what shows no pixels is refused."""

import numpy as np
import pytest

import envs
from envs.gymnasium_env import GymnasiumVectorEnv
from envs.testing import check_env, random_actions
from tests.envs.pixels import Dot

WAYS = ("Dot-v0", "NextStepDot-v0", "SameStepDot-v0", "DisabledDot-v0")
MODULE = "tests.envs.pixels"


def make(way: str, num_envs: int = 2, seed: int = 0) -> GymnasiumVectorEnv:
    return envs.make(f"gym:{MODULE}:{way}", "own", num_envs, seed)


@pytest.mark.parametrize("way", [*WAYS, "Little-v0"])
def test_the_contract_holds(way):
    check_env(lambda num_envs, seed: make(way, num_envs, seed), steps=60)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_resetting_gives_the_episodes_of_one_environment_stepped_by_hand(way):
    env = make(way, 3)
    grey = env.reset()
    actions = random_actions(env, 60)
    steps = [env.step(row) for row in actions]
    for i in range(3):
        single = Dot()
        single.reset()
        assert level(grey[i]) == single.value
        total = length = 0
        for step, action in zip(steps, actions[:, i], strict=True):
            _, reward, over, _, _ = single.step(action + 1)
            total, length = total + reward, length + 1
            cut = length == 6 and not over
            seen = (step.reward[i], step.terminated[i], step.truncated[i], step.episode_return[i])
            assert seen == (reward, over, cut, total)
            assert level(step.frame[i]) == single.value
            if over or cut:
                single.reset()
                total = length = 0
            assert level(step.first_frame[i]) == single.value
    assert any(step.terminated.any() for step in steps)
    assert any(step.truncated.any() for step in steps)


def level(frame: np.ndarray) -> int:
    """The value that a frame shows."""
    return round(frame.max() / 20)


def test_colours_turn_grey_and_large_sides_are_resized_by_area():
    env = make("Dot-v0", 1)
    assert env.frame_shape == (84, 84)
    env.reset()
    frame = env.step(np.array([1])).frame[0].astype(float)  # the first 2 of 96 lines have the grey of 40
    assert frame[0].tolist() == [40] * 84
    assert frame.sum() == pytest.approx(40 * 2 * 84 / 96 * 84, abs=84)
    assert make("Little-v0", 1).frame_shape == (30, 32)


def test_shares_of_the_colours():
    env = make("Dot-v0", 1)
    picture = np.zeros((1, 96, 100, 3), np.uint8)
    picture[..., 1] = 200
    assert (env._frames(picture) == round(0.587 * 200)).all()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"gym:{MODULE}:Floats-v0", r"shows Box.*it has to be pixels, uint8"),
        (f"gym:{MODULE}:Steered-v0", r"has actions Box.*have to be Discrete"),
        (f"gym:{MODULE}:Dott-v0", "gym:tests.envs.pixels:Dott-v0: Environment `Dott` doesn't exist"),
        ("gym:no.module:Dot-v0", "No module named 'no'"),
        ("gym:CartPole-v1", "it has to be pixels"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(name, said):
    with pytest.raises(ValueError, match=said) as found:
        envs.make(name, "own")
    assert len(str(found.value).splitlines()) == 1


def test_a_vector_that_does_not_say_how_it_resets_is_refused(monkeypatch):
    import gymnasium

    class Quiet(gymnasium.vector.SyncVectorEnv):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.metadata = {}

    monkeypatch.setattr("tests.envs.pixels.SyncVectorEnv", Quiet)
    with pytest.warns(UserWarning, match="AutoresetMode"), pytest.raises(ValueError, match="no autoreset_mode"):
        make("SameStepDot-v0")
