"""The definition of replay, written literally over lists of episodes: slow, and obviously right."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Step:
    row: int
    action: int
    reward: float
    terminated: bool
    truncated: bool
    life_lost: bool


@dataclass
class Episode:
    frames: list[np.ndarray]  # one more than steps: the last is what the last action led to
    steps: list[Step] = field(default_factory=list)

    def stack(self, position: int, size: int) -> np.ndarray:
        older = [np.zeros_like(self.frames[0])] * size
        return np.stack((older + self.frames[: position + 1])[-size:])


@dataclass
class Transition:
    obs: np.ndarray
    next_obs: np.ndarray
    action: int
    reward: float
    discount: float


class ReferenceReplay:
    def __init__(self, num_envs: int, stack: int) -> None:
        self.stack, self.head = stack, 0
        self.episodes: list[list[Episode]] = [[] for _ in range(num_envs)]

    def start(self, frames: np.ndarray) -> None:
        for episodes, frame in zip(self.episodes, frames, strict=True):
            episodes.append(Episode([frame.copy()]))

    def add(self, action, reward, terminated, truncated, life_lost, frame, next_frame) -> None:
        for env, episodes in enumerate(self.episodes):
            flags = bool(terminated[env]), bool(truncated[env]), bool(life_lost[env])
            episodes[-1].steps.append(Step(self.head, int(action[env]), float(reward[env]), *flags))
            episodes[-1].frames.append(frame[env].copy())
            if terminated[env] or truncated[env]:
                episodes.append(Episode([next_frame[env].copy()]))
        self.head += 1

    def transition(self, row, env, *, n_step, gamma, cut_at_life_loss, clip_reward) -> Transition:
        episode = next(e for e in self.episodes[env] if any(step.row == row for step in e.steps))
        position = next(i for i, step in enumerate(episode.steps) if step.row == row)
        total, used, discount = 0.0, 0, None
        for step in episode.steps[position : position + n_step]:
            clip = np.inf if clip_reward is None else clip_reward
            reward = min(max(step.reward, -clip), clip)
            total += gamma**used * reward
            used += 1
            if step.terminated or (cut_at_life_loss and step.life_lost):
                discount = 0.0
                break
        return Transition(
            obs=episode.stack(position, self.stack),
            next_obs=episode.stack(position + used, self.stack),
            action=episode.steps[position].action,
            reward=total,
            discount=gamma**used if discount is None else discount,
        )
