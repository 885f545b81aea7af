"""The contract of an environment, as a check that you can run on your own class.

from envs.testing import check_env
check_env(MyEnv, size=8)    # or its import path, or any function of num_envs and seed that makes one
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from envs.registry import own_class, own_options
from envs.vector_env import Step, VectorEnv, nothing_returned, wrong_declarations
from experiment.part import check_known

Make = Callable[..., VectorEnv]
ENOUGH_ENDS = 3
"""Ends of episodes after which last frames that all equal first frames are no accident."""
PLAIN = (bool, int, float, str, bytes, type(None))
"""What a saved state is made of, in lists and dicts."""


class Walk(NamedTuple):
    """First frames and the steps of random actions: as returned, and as copied when they were returned."""

    env: VectorEnv
    first: np.ndarray
    first_copy: np.ndarray
    steps: list[Step]
    copies: list[Step]


def check_env(make: str | Make, num_envs: int = 2, steps: int = 300, **options: Any) -> None:
    """Plays random actions and raises AssertionError with a line for each rule that is broken.

    Args:
        make: a class, its import path with or without options, or a function. It is called with `num_envs`, `seed` and
            the options by name, as the program calls an environment of an import path.
        num_envs: environments in the vector; one alone is tried too.
        steps: agent steps played in each. Ends of episodes are checked only if some occur within them.
        options: further arguments of the class or function.

    Raises ValueError for a path or an option that does not exist.
    """
    make = _maker(make, options)
    for count in dict.fromkeys((num_envs, 1)):
        found: list[str] = []
        with _raised(found):
            walk = _walk(make, count, steps)
            for check in (_declares, _returns_arrays, _counts, _ends, _keeps_what_it_returned):
                found += check(walk)
        for check_made in (_begins_again, _follows_its_seed, _resumes):
            with _raised(found):
                found += check_made(partial(make, num_envs=count, seed=0), walk)
        if found:
            raise AssertionError("\n".join(found))


def _maker(make: str | Make, options: dict[str, Any]) -> Make:
    if isinstance(make, str):
        kind, written = own_class(make)
        return _maker(kind, written | options)
    if isinstance(make, type):
        if not issubclass(make, VectorEnv):
            raise AssertionError(f"{make!r} is no subclass of VectorEnv")
        check_known(make.__name__, options, own_options(make))
    return partial(make, **options)


@contextmanager
def _raised(found: list[str]) -> Iterator[None]:
    """Turns whatever the class raises into a line of the report."""
    try:
        yield
    except Exception as error:
        found.append(f"it raised {type(error).__name__}: {' '.join(str(error).split())}")


def random_actions(env: VectorEnv, steps: int, seed: int = 0) -> np.ndarray:
    """int64 [steps, N]; column i does not depend on N."""
    columns = [np.random.default_rng([seed, i]).integers(env.num_actions, size=steps) for i in range(env.num_envs)]
    return np.stack(columns, axis=1)


def play(env: VectorEnv, actions: np.ndarray) -> list[Step]:
    """What each row of actions [T, N] leads to."""
    return [env.step(row) for row in actions]


def differences(a: Step, b: Step) -> str:
    """The names of the fields in which two steps differ."""
    return ", ".join(name for name, x, y in zip(Step._fields, a, b, strict=True) if not np.array_equal(x, y))


def _walk(make: Make, num_envs: int, steps: int) -> Walk:
    with closing(make(num_envs=num_envs, seed=0)) as env:
        if env.num_envs != num_envs:
            raise ValueError(f"num_envs is {env.num_envs}, and {num_envs} were asked for")
        first, walked, copies = env.reset(), [], []
        first_copy = first.copy()
        for row in random_actions(env, steps):
            walked.append(env.step(row))
            copies.append(Step(*map(np.copy, walked[-1])))
        return Walk(env, first, first_copy, walked, copies)


def _declares(walk: Walk) -> Iterator[str]:
    yield from wrong_declarations(walk.env)
    line = walk.env.describe()
    if len(line.splitlines()) != 1:
        yield f"describe() is {line!r}: it has to be one line"


def _returns_arrays(walk: Walk) -> Iterator[str]:
    envs = (walk.env.num_envs,)
    frames = (*envs, *walk.env.frame_shape)
    kinds: dict[str, tuple[str, tuple[int, ...]]] = dict.fromkeys(Step._fields, ("bool", envs))
    kinds |= {"frame": ("uint8", frames), "first_frame": ("uint8", frames), "reward": ("float32", envs)}
    kinds |= {"episode_return": ("float64", envs), "episode_steps": ("int64", envs)}
    if (found := _kind(walk.first)) != _text("uint8", frames):
        yield f"reset() returns {found}: it has to be {_text('uint8', frames)}"
    for name, kind in kinds.items():
        for found in dict.fromkeys(_kind(getattr(step, name)) for step in walk.steps):
            if found != _text(*kind) and (name, found) != ("score_wrapped", "bool []"):
                yield f"{name} is {found}: it has to be {_text(*kind)}"


def _kind(array: np.ndarray) -> str:
    return _text(str(np.asarray(array).dtype), np.shape(array))


def _text(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {list(shape)}"


def _counts(walk: Walk) -> Iterator[str]:
    """Returns are sums of raw rewards and lengths are agent steps, both over whole episodes."""
    total, length = np.zeros(walk.env.num_envs), np.zeros(walk.env.num_envs, np.int64)
    for time, step in enumerate(walk.copies, 1):
        total, length = total + step.reward, length + 1
        if not np.allclose(step.episode_return, total, rtol=1e-5):
            yield f"step {time}: episode_return is {step.episode_return}, and the rewards of the episode sum to {total}"
            return
        if not np.array_equal(step.episode_steps, length):
            yield f"step {time}: episode_steps is {step.episode_steps}, and the episode has {length} agent steps"
            return
        total[step.ended], length[step.ended] = 0, 0


def _ends(walk: Walk) -> Iterator[str]:
    """Ends of episodes: terminated or truncated, and the frames shown then."""
    earliest, limit = walk.env.earliest_truncation, walk.env.time_limit
    if any((step.terminated & step.truncated).any() for step in walk.copies):
        yield "terminated and truncated are both true in a step: only terminated may be"
    cut = [int(length) for step in walk.copies for length in step.episode_steps[step.truncated]]
    if cut and (earliest is None or min(cut) < earliest):
        says = "time_limit None says that none ever is" if earliest is None else f"none may be before {earliest}"
        yield f"an episode is truncated after {min(cut)} agent steps, and {says}"
    longest = max(int(step.episode_steps[~step.ended].max(initial=0)) for step in walk.copies)
    if limit is not None and longest >= limit:
        yield f"an episode goes on after {longest} agent steps, and time_limit is {limit}"
    if any((step.first_frame != step.frame)[~step.ended].any() for step in walk.copies):
        yield "first_frame is another than frame where no episode ended"
    same = [(step.first_frame == step.frame)[i].all() for step in walk.copies for i in np.flatnonzero(step.ended)]
    if len(same) >= ENOUGH_ENDS and all(same):
        yield "frame is first_frame at each end of an episode: it has to be what the last action led to"


def _keeps_what_it_returned(walk: Walk) -> Iterator[str]:
    if not np.array_equal(walk.first, walk.first_copy):
        yield "the frames that reset() returned change in later steps"
    changed = [found for pair in zip(walk.copies, walk.steps, strict=True) if (found := differences(*pair))]
    if changed:
        yield f"arrays that were returned change in later steps: {changed[0]}"


def _begins_again(make: Make, walk: Walk) -> Iterator[str]:
    """A reset amid an episode begins new ones; actions that are sent are left as they are."""
    with closing(make()) as env:
        env.reset()
        sent = random_actions(env, 5)
        kept = sent.copy()
        play(env, sent)
        if not np.array_equal(sent, kept):
            yield "the actions that are sent are changed"
        env.reset()
        step = env.step(kept[0])
        if not (step.episode_steps == 1).all() or not np.allclose(step.episode_return, step.reward):
            yield "reset() does not begin new episodes: episode_steps or episode_return goes on"


def _follows_its_seed(make: Make, walk: Walk) -> Iterator[str]:
    with closing(make()) as env:
        if not np.array_equal(env.reset(), walk.first_copy):
            yield "one seed gives two first frames"
        for time, (row, before) in enumerate(zip(random_actions(env, len(walk.copies)), walk.copies, strict=True), 1):
            if found := differences(before, env.step(row)):
                yield f"one seed and the same actions give two episodes: {found} of step {time} differ"
                return


def _resumes(make: Make, walk: Walk) -> Iterator[str]:
    """With exact_resume, another environment continues from a saved state; without it, there is no state."""
    half = len(walk.copies) // 2
    with closing(make()) as env, closing(make()) as other:
        shown, actions = env.reset(), random_actions(env, 2 * half)
        if not env.exact_resume:
            try:
                env.state_dict()
            except RuntimeError:
                return
            yield "exact_resume is False, and state_dict() does not raise RuntimeError"
            return
        for row in actions[:half]:
            shown = env.step(row).first_frame
        state = env.state_dict()
        if bad := sorted({type(part).__name__ for part in _parts(state) if not isinstance(part, PLAIN)}):
            yield f"state_dict() holds {', '.join(bad)}: it has to be numbers, text, bytes, lists and dicts"
        expected = play(env, actions[half:])  # what is saved must not change with it
        if not np.array_equal(frames := other.load_state_dict(state), shown):
            again = "load_state_dict() returns other frames than were shown when the state was saved"
            yield again + nothing_returned(frames)
        for time, (row, before) in enumerate(zip(actions[half:], expected, strict=True), 1):
            if found := differences(before, other.step(row)):
                yield f"exact_resume is True, and {found} differ {time} steps after a resume"
                return


def _parts(state: Any) -> Iterator[Any]:
    """The values in a state's nested lists and dicts."""
    if isinstance(state, dict):
        for key, value in state.items():
            yield key
            yield from _parts(value)
    elif isinstance(state, list):
        for value in state:
            yield from _parts(value)
    else:
        yield state
