"""Other libraries' DQN update and replay, with their own defaults; each is left out where it is not installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from agents.config import STACK
from benchmarks.speed.alternate import Contestant, Run, repeated
from benchmarks.speed.learners import BATCH, NUM_ACTIONS, STEPS, TARGET_PERIOD, limit_name
from benchmarks.speed.replays import EPISODE, FRAME_SHAPE, POOL, random_frames
from benchmarks.speed.settings import Settings

Make = Callable[[Settings], Run]


def contestants(settings: Settings) -> tuple[list[Contestant], list[str]]:
    """Those that are installed, and a line for each that is not."""
    found: list[Contestant] = []
    missing = []
    for package, title, update, sample, add in PEERS:
        if find_spec(package) is None:
            missing.append(f"{title} is not installed: pip install -e .[bench]")
            continue
        if "learner" in settings.only and "nature" in settings.networks:
            name, limit = f"{title}, with its sampling", limit_name("fp32")
            found.append(
                Contestant("learner nature", name, "updates/s", partial(update, settings), "peer", limit=limit)
            )
        if "replay" in settings.only:
            found.append(Contestant("replay sample 32", title, "batches/s", partial(sample, settings), "peer"))
            name = f"{title}, 1 environment"
            found.append(Contestant("replay add", name, "steps/s", partial(add, settings), "peer"))
    return found, missing


def _stacks() -> list[np.ndarray]:
    """A pool of observations [STACK, H, W], each one frame on from the one before."""
    frames = random_frames(1)[:, 0]
    return [np.stack([frames[(i + j) % POOL] for j in range(STACK)]) for i in range(POOL)]


def sb3_model(device: str, capacity: int) -> Any:
    """SB3's DQN for pixels; its memory-saving buffer is what its own docs advise for them."""
    import gymnasium as gym
    from stable_baselines3 import DQN
    from stable_baselines3.common.logger import Logger

    class Pixels(gym.Env):
        observation_space = gym.spaces.Box(0, 255, (STACK, *FRAME_SHAPE), np.uint8)
        action_space = gym.spaces.Discrete(NUM_ACTIONS)

    model = DQN(
        "CnnPolicy",
        Pixels(),
        buffer_size=capacity,
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
        device=device,
        seed=0,
    )
    model.set_logger(Logger(None, []))
    return model


def sb3_add_run(buffer: Any) -> Run:
    stacks = [stack[None] for stack in _stacks()]
    action, reward, no, yes = np.zeros((1, 1), np.int64), np.zeros(1, np.float32), np.zeros(1, bool), np.ones(1, bool)
    step = 0

    def run(count: int) -> None:
        nonlocal step
        for _ in range(count):
            step += 1
            done = no if step % EPISODE else yes
            buffer.add(stacks[step % POOL], stacks[(step + 1) % POOL], action, reward, done, [{}])

    return run


def sb3_update(settings: Settings) -> Run:
    model = sb3_model(settings.device, STEPS)
    sb3_add_run(model.replay_buffer)(STEPS)
    return lambda count: model.train(count, BATCH)


@cache
def _sb3_buffer(device: str, capacity: int) -> Any:
    """A full buffer, which serves sampling and adding."""
    buffer = sb3_model(device, capacity).replay_buffer
    sb3_add_run(buffer)(capacity)
    return buffer


def sb3_sample(settings: Settings) -> Run:
    buffer = _sb3_buffer(settings.device, settings.capacity)
    return repeated(lambda: buffer.sample(BATCH))


def sb3_add(settings: Settings) -> Run:
    return sb3_add_run(_sb3_buffer(settings.device, settings.capacity))


def tianshou_buffer(capacity: int) -> Any:
    """Tianshou's buffer as its Atari examples make it: one frame a step, stacks built when sampling."""
    from tianshou.data import ReplayBuffer

    return ReplayBuffer(capacity, stack_num=STACK, ignore_obs_next=True, save_only_last_obs=True)


def tianshou_add_run(buffer: Any) -> Run:
    from tianshou.data import Batch

    stacks = _stacks()
    step = 0

    def run(count: int) -> None:
        nonlocal step
        for _ in range(count):
            step += 1
            obs, end = stacks[step % POOL], step % EPISODE == 0
            buffer.add(Batch(obs=obs, obs_next=obs, act=0, rew=0.0, terminated=end, truncated=False, done=end, info={}))

    return run


def tianshou_update(settings: Settings) -> Run:
    import gymnasium as gym
    from tianshou.algorithm import DQN
    from tianshou.algorithm.algorithm_base import policy_within_training_step
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.env.atari.atari_network import DQNet, ScaledObsInputActionReprNet

    network = ScaledObsInputActionReprNet(DQNet(STACK, *FRAME_SHAPE, NUM_ACTIONS)).to(settings.device)
    policy = DiscreteQLearningPolicy(model=network, action_space=gym.spaces.Discrete(NUM_ACTIONS))
    algorithm = DQN(
        policy=policy, optim=AdamOptimizerFactory(lr=1e-4), target_update_freq=TARGET_PERIOD, is_double=True
    )
    buffer = tianshou_buffer(STEPS)
    tianshou_add_run(buffer)(STEPS)

    def run(count: int) -> None:
        with policy_within_training_step(policy):
            for _ in range(count):
                algorithm.update(buffer=buffer, sample_size=BATCH)

    return run


@cache
def _tianshou_buffer(capacity: int) -> Any:
    """A full buffer, which serves sampling and adding."""
    buffer = tianshou_buffer(capacity)
    tianshou_add_run(buffer)(capacity)
    return buffer


def tianshou_sample(settings: Settings) -> Run:
    buffer = _tianshou_buffer(settings.capacity)
    return repeated(lambda: buffer.sample(BATCH))


def tianshou_add(settings: Settings) -> Run:
    return tianshou_add_run(_tianshou_buffer(settings.capacity))


PEERS: tuple[tuple[str, str, Make, Make, Make], ...] = (
    ("stable_baselines3", "SB3 2 (not double)", sb3_update, sb3_sample, sb3_add),
    ("tianshou", "Tianshou 2", tianshou_update, tianshou_sample, tianshou_add),
)
