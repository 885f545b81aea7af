"""Other libraries' DQN update and replay, with their own defaults; each is left out where it is not installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from agents.names import STACK
from benchmarks.speed.alternate import Contestant, Run, repeated
from benchmarks.speed.learners import BATCH, NUM_ACTIONS, STEPS, TARGET_PERIOD, limit_name
from benchmarks.speed.replays import EPISODE, FRAME_SHAPE, POOL, random_frames
from benchmarks.speed.settings import Settings


@dataclass(frozen=True)
class Peer:
    """A library: what makes its updates, a replay buffer of a device and capacity, and runs that add steps to one."""

    package: str
    title: str
    update: Callable[[Settings], Run]
    buffer: Callable[[str, int], Any]
    add_run: Callable[[Any], Run]


@cache
def _full_buffer(peer: Peer, device: str, capacity: int) -> Any:
    """A full buffer, which serves sampling and adding."""
    buffer = peer.buffer(device, capacity)
    peer.add_run(buffer)(capacity)
    return buffer


def _sample(peer: Peer, settings: Settings) -> Run:
    buffer = _full_buffer(peer, settings.device, settings.capacity)
    return repeated(lambda: buffer.sample(BATCH))


def _add(peer: Peer, settings: Settings) -> Run:
    return peer.add_run(_full_buffer(peer, settings.device, settings.capacity))


def contestants(settings: Settings) -> tuple[list[Contestant], list[str]]:
    """Those that are installed, and a line for each that is not."""
    found: list[Contestant] = []
    missing = []
    for peer in PEERS:
        if find_spec(peer.package) is None:
            missing.append(f"{peer.title} is not installed: pip install -e .[bench]")
            continue
        if "learner" in settings.only and "nature" in settings.networks:
            name, limit, setup = f"{peer.title}, with its sampling", limit_name("fp32"), partial(peer.update, settings)
            found.append(Contestant("learner nature", name, "updates/s", setup, "peer", limit=limit))
        if "replay" in settings.only:
            sample, add = partial(_sample, peer, settings), partial(_add, peer, settings)
            found.append(Contestant("replay sample 32", peer.title, "batches/s", sample, "peer"))
            found.append(Contestant("replay add", f"{peer.title}, 1 environment", "steps/s", add, "peer"))
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


def sb3_buffer(device: str, capacity: int) -> Any:
    return sb3_model(device, capacity).replay_buffer


def tianshou_buffer(device: str, capacity: int) -> Any:
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
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.env.atari.atari_network import DQNet, ScaledObsInputActionReprNet

    network = ScaledObsInputActionReprNet(DQNet(STACK, *FRAME_SHAPE, NUM_ACTIONS)).to(settings.device)
    policy = DiscreteQLearningPolicy(model=network, action_space=gym.spaces.Discrete(NUM_ACTIONS))
    algorithm = DQN(
        policy=policy, optim=AdamOptimizerFactory(lr=1e-4), target_update_freq=TARGET_PERIOD, is_double=True
    )
    buffer = tianshou_buffer("cpu", STEPS)
    tianshou_add_run(buffer)(STEPS)
    return tianshou_update_run(algorithm, policy, buffer, BATCH)


def tianshou_update_run(algorithm: Any, policy: Any, buffer: Any, batch_size: int) -> Run:
    """Updates of one of its algorithms, each with its own sampling."""
    from tianshou.algorithm.algorithm_base import policy_within_training_step

    def run(count: int) -> None:
        with policy_within_training_step(policy):
            for _ in range(count):
                algorithm.update(buffer=buffer, sample_size=batch_size)

    return run


PEERS = (
    Peer("stable_baselines3", "SB3 2 (not double)", sb3_update, sb3_buffer, sb3_add_run),
    Peer("tianshou", "Tianshou 2", tianshou_update, tianshou_buffer, tianshou_add_run),
)
