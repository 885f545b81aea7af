"""check_env accepts what keeps the contract, and names each rule that a class breaks on purpose."""

import numpy as np
import pytest

from envs.catch import Catch
from envs.testing import check_env
from examples.new_environment import Reach


class Cut(Catch):
    """Catch whose episodes a time limit ends after 5 steps."""

    time_limit = 5

    def recv(self):
        step, alive = super().recv(), np.zeros(self.num_envs, bool)
        truncated = step.episode_steps == 5
        self.row[truncated], self.paddle[truncated] = 0, 5
        self.ball[truncated] = self.rng.integers(10, size=self.num_envs)[truncated]
        first = np.where(truncated[:, None, None], self._draw(), step.first_frame)
        return step._replace(terminated=alive, truncated=truncated, first_frame=first)


@pytest.mark.parametrize("kind", [Catch, Cut, Reach])
def test_what_keeps_the_contract_passes(kind):
    check_env(kind)


def changed(base=Catch, **fields):
    """A class whose steps have other fields: each a function of the step."""

    class Changed(base):
        def recv(self):
            step = super().recv()
            return step._replace(**{name: change(step) for name, change in fields.items()})

    return Changed


class LateLimit(Cut):
    time_limit = 7


class NoLimit(Cut):
    time_limit = None


class LongLimit(Catch):
    time_limit = 3


class Unseeded(Catch):
    def __init__(self, num_envs, seed):
        super().__init__(num_envs, None)


class Forgetful(Catch):
    """Its saved state lacks the generator's."""

    def load_state_dict(self, state, progress=None):
        return super().load_state_dict(state | {"rng": np.random.default_rng(0).bit_generator.state})


class Shy(Catch):
    """Its load_state_dict does not return the frames."""

    def load_state_dict(self, state, progress=None):
        super().load_state_dict(state)


class Live(Catch):
    """Its saved state is the running one."""

    def state_dict(self):
        return {name: getattr(self, name) for name in ("row", "ball", "paddle")} | {"rng": super().state_dict()["rng"]}


class Silent(Catch):
    exact_resume = False


class Deaf(Catch):
    """Has one environment, however many were asked for."""

    def __init__(self, num_envs, seed):
        super().__init__(1, seed)


class Reused(Catch):
    """Returns one array again and again."""

    def _draw(self):
        self.shown = getattr(self, "shown", np.zeros((self.num_envs, 84, 84), np.uint8))
        self.shown[:] = super()._draw()
        return self.shown


class Greedy(Catch):
    """Writes into the actions."""

    def send(self, actions):
        actions += 0 * actions
        super().send(actions)
        actions[:] = 0


class Rising(Catch):
    """A reset goes on counting."""

    def reset(self):
        row = getattr(self, "row", 0)
        frames = super().reset()
        self.row = self.row + row
        return frames


class Odd(Catch):
    stack, num_actions, rules = 0, 500, "mine"

    def describe(self):
        return "two\nlines"

    def send(self, actions):
        super().send(actions % 3)


class Raises(Catch):
    def recv(self):
        raise KeyError("score")


BROKEN = {
    "a reward of another type": (changed(reward=lambda step: step.reward.astype(float)), r"reward is float64 \[2\]"),
    "a frame of another shape": (
        changed(frame=lambda step: step.frame[:, :9]),
        r"frame is uint8 \[2, 9, 84\]: it has to be uint8 \[2, 84, 84\]",
    ),
    "a clipped return": (changed(episode_return=lambda step: 0 * step.episode_return), "episode_return is .* sum to"),
    "frames for steps": (changed(episode_steps=lambda step: 4 * step.episode_steps), "episode_steps is .* agent steps"),
    "both ends at once": (changed(Cut, terminated=lambda step: step.truncated), "only terminated may be"),
    "the next frame for the last": (changed(frame=lambda step: step.first_frame), "at each end of an episode"),
    "the next frame too early": (changed(first_frame=lambda step: 0 * step.frame), "first_frame is another than frame"),
    "cut before its time": (LateLimit, "truncated after 5 agent steps, and none may be before 7"),
    "cut although never": (NoLimit, "truncated after 5 agent steps, and time_limit None"),
    "not cut in time": (LongLimit, "goes on after 8 agent steps, and time_limit is 3"),
    "no seed": (Unseeded, "one seed"),
    "a state without its generator": (Forgetful, "exact_resume is True, and .* steps after a resume"),
    "a resume that returns nothing": (Shy, r"load_state_dict.. returns other frames .* saved \(it returned None\)"),
    "a state that goes on": (Live, "state_dict.. holds int64|holds ndarray"),
    "a state that nobody asked for": (Silent, "exact_resume is False"),
    "one environment for two": (Deaf, "num_envs is 1, and 2 were asked for"),
    "arrays used again": (Reused, "arrays that were returned change"),
    "actions written into": (Greedy, "the actions that are sent are changed"),
    "a reset that goes on": (Rising, "reset.. does not begin new episodes"),
    "an exception": (Raises, "it raised KeyError: 'score'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_rule_is_named(name):
    kind, said = BROKEN[name]
    with pytest.raises(AssertionError, match=said):
        check_env(kind)


def test_every_violation_has_a_line_of_its_own():
    with pytest.raises(AssertionError) as found:
        check_env(Odd)
    lines = str(found.value).splitlines()
    assert [line.partition(" is ")[0] for line in lines] == ["num_actions", "stack", "rules", "describe()"]


def test_a_class_its_path_and_a_function_take_options():
    check_env(Reach, size=7)
    check_env("examples.new_environment:Reach:size=9", steps=50)
    check_env("examples.new_environment:Reach", num_envs=3, steps=50, size=9)
    check_env(lambda num_envs, seed, size: Reach(num_envs, seed, size), steps=50, size=9)


@pytest.mark.parametrize(
    ("make", "options", "error", "said"),
    [
        (Reach, {"siz": 7}, ValueError, "Reach has no option 'siz'; did you mean 'size'"),
        ("examples.new_environment:Reach", {"siz": 7}, ValueError, "did you mean 'size'"),
        ("examples.new_environment:Reach:siz=7", {}, ValueError, "did you mean 'size'"),
        ("examples.new_environment:Reech", {}, ValueError, "did you mean 'Reach'"),
        (dict, {}, AssertionError, "is no subclass of VectorEnv"),
    ],
)
def test_what_cannot_be_checked_is_one_line(make, options, error, said):
    with pytest.raises(error, match=said):
        check_env(make, **options)
