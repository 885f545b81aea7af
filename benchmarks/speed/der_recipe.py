"""DER's update as one careful script: the fastest of several that were tried, for comparison.

Double Q-learning, C51, dueling streams, noisy layers, n-step returns and prioritised replay, in one file and one
minibatch at a time; the loss compiled, Adam fused, the 5×5 convolutions of stride 5 written as products of patches,
priorities in a numpy tree of two levels.
"""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.config import DQNConfig
from agents.names import STACK
from benchmarks.speed.alternate import Run
from benchmarks.speed.replays import EPISODE, POOL, random_frames

GROUP = 256


class Noisy(nn.Module):
    """A layer with factorised noise, drawn by `draw`."""

    noise_in: Tensor
    noise_out: Tensor

    def __init__(self, inputs: int, outputs: int, sigma: float):
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma * bound))
        self.register_buffer("noise_in", torch.zeros(inputs))
        self.register_buffer("noise_out", torch.zeros(outputs))

    def draw(self) -> None:
        for noise in (self.noise_in, self.noise_out):
            noise.normal_()
            noise.copy_(noise.sign() * noise.abs().sqrt())

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight + self.weight_sigma * torch.outer(self.noise_out, self.noise_in)
        return F.linear(x, weight, self.bias + self.bias_sigma * self.noise_out)


class Network(nn.Module):
    """84×84 pixels to logits [B, A, atoms]."""

    def __init__(self, actions: int, atoms: int, sigma: float):
        super().__init__()
        self.actions, self.atoms = actions, atoms
        self.first, self.second = nn.Linear(100, 32), nn.Linear(800, 64)
        self.value = nn.ModuleList([Noisy(576, 256, sigma), Noisy(256, atoms, sigma)])
        self.advantage = nn.ModuleList([Noisy(576, 256, sigma), Noisy(256, actions * atoms, sigma)])

    def draw(self) -> None:
        for part in (*self.value, *self.advantage):
            part.draw()

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels[:, :, :80, :80].float() / 255
        x = x.reshape(-1, 4, 16, 5, 16, 5).permute(0, 2, 4, 1, 3, 5).reshape(-1, 16, 16, 100)
        x = F.relu(self.first(x))[:, :15, :15].reshape(-1, 3, 5, 3, 5, 32).permute(0, 1, 3, 2, 4, 5)
        x = F.relu(self.second(x.reshape(-1, 3, 3, 800))).flatten(1)
        value = self.value[1](F.relu(self.value[0](x))).view(-1, 1, self.atoms)
        advantage = self.advantage[1](F.relu(self.advantage[0](x))).view(-1, self.actions, self.atoms)
        return value + advantage - advantage.mean(1, keepdim=True)


class Tree:
    """Priorities and their sums over groups, in numpy."""

    def __init__(self, capacity: int):
        self.leaves = np.zeros((-(-capacity // GROUP), GROUP))
        self.sums = self.leaves.sum(1)

    def set(self, index: np.ndarray, values: np.ndarray) -> None:
        self.leaves.reshape(-1)[index] = values
        groups = index // GROUP
        self.sums[groups] = self.leaves[groups].sum(1)

    def draw(self, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Stratified: indices and their probabilities."""
        ends = self.sums.cumsum()
        mass = (np.arange(count) + random.random(count)) * ends[-1] / count
        groups = np.searchsorted(ends, mass, side="right").clip(max=len(ends) - 1)
        inside = self.leaves[groups].cumsum(1)
        mass -= ends[groups] - self.sums[groups]
        offsets = (inside <= mass[:, None]).sum(1).clip(max=GROUP - 1)
        return groups * GROUP + offsets, self.leaves[groups, offsets] / ends[-1]


class Memory:
    """Frames, rewards and ends of steps in episodes of EPISODE, with priorities."""

    def __init__(self, steps: int, n_step: int, gamma: float, alpha: float):
        frames = random_frames(1)[:, 0]
        self.steps, self.n_step, self.alpha = steps, n_step, alpha
        self.frames = torch.from_numpy(frames[np.arange(steps) % POOL])
        self.rewards = np.zeros(steps, np.float32)
        self.ends = np.arange(steps) % EPISODE == EPISODE - 1
        self.powers = gamma ** np.arange(n_step, dtype=np.float32)
        self.discount = gamma**n_step
        self.tree = Tree(steps)
        self.tree.set(np.arange(STACK, steps - n_step - 1), np.ones(steps - n_step - 1 - STACK))
        self.random = np.random.default_rng(0)

    def stacks(self, last: np.ndarray) -> Tensor:
        """The frames of each observation, black before its episode."""
        index = last[:, None] + np.arange(1 - STACK, 1)
        ended = self.ends[index[:, :-1]]
        alive = np.concatenate(
            [~np.logical_or.accumulate(ended[:, ::-1], 1)[:, ::-1], np.ones((len(last), 1), bool)], 1
        )
        return self.frames[torch.from_numpy(index)] * torch.from_numpy(alive)[:, :, None, None]

    def sample(self, size: int, beta: float) -> tuple[np.ndarray, list[Tensor]]:
        index, probability = self.tree.draw(size, self.random)
        window = index[:, None] + np.arange(self.n_step)
        ended = self.ends[window]
        alive = np.concatenate([np.ones((size, 1), bool), ~np.logical_or.accumulate(ended, 1)[:, :-1]], 1)
        reward = (self.rewards[window].clip(-1, 1) * self.powers * alive).sum(1)
        discount = np.where(ended.any(1), 0, self.discount).astype(np.float32)
        weight = (self.steps * probability) ** -beta
        small = [np.zeros(size, np.int64), reward, discount, (weight / weight.max()).astype(np.float32)]
        following = np.minimum(index + self.n_step, self.steps - 1)
        return index, [self.stacks(index), self.stacks(following), *map(torch.from_numpy, small)]

    def set_priorities(self, index: np.ndarray, losses: Tensor) -> None:
        self.tree.set(index, losses.numpy().astype(float) ** self.alpha)


def recipe_run(config: DQNConfig, actions: int, steps: int, compile: bool) -> Run:
    """Updates with their sampling, one at a time, by the values of `config`."""
    torch.manual_seed(0)
    network = Network(actions, config.atoms, config.noisy_sigma)
    target = deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr, eps=config.adam_eps, fused=True)
    memory = Memory(steps, config.n_step, config.gamma, config.priority_alpha)
    support = torch.linspace(config.v_min, config.v_max, config.atoms)
    width = (config.v_max - config.v_min) / (config.atoms - 1)

    def losses(obs: Tensor, next_obs: Tensor, action: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        rows = torch.arange(len(obs))
        with torch.no_grad():
            best = (network(next_obs).softmax(-1) * support).sum(-1).argmax(1)
            following = target(next_obs)[rows, best].softmax(-1)
            moved = (reward[:, None] + discount[:, None] * support).clamp(config.v_min, config.v_max)
            positions = (moved - config.v_min) / width
            low = positions.floor().clamp(max=config.atoms - 2)
            wanted = torch.zeros_like(following)
            wanted.scatter_add_(1, low.long(), following * (low + 1 - positions))
            wanted.scatter_add_(1, low.long() + 1, following * (positions - low))
        return -(wanted * network(obs)[rows, action].log_softmax(-1)).sum(-1)

    loss_of = torch.compile(losses, fullgraph=True, dynamic=False) if compile else losses
    updates = 0

    def run(count: int) -> None:
        nonlocal updates
        for _ in range(count):
            index, (obs, next_obs, action, reward, discount, weight) = memory.sample(config.batch_size, 0.5)
            network.draw()
            target.draw()
            each = loss_of(obs, next_obs, action, reward, discount)
            optimizer.zero_grad()
            (each * weight).mean().backward()
            if config.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
            optimizer.step()
            memory.set_priorities(index, each.detach())
            updates += 1
            if updates % config.target_period == 0:
                target.load_state_dict(network.state_dict())

    return run
