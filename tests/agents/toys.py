"""Small parts for the agents' tests: a network for little frames, and a trainer on Catch."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import experiment.storage.checkpoint as storage
from agents.build import build_learner, build_probe, build_replay, head_options
from agents.config import DQNConfig
from agents.names import STACK
from agents.networks.convolution import PixelConv2d
from agents.networks.encoders import Encoder, QNetwork, make_network
from agents.training.acting import EpsilonGreedy, FrameStack
from agents.training.trainer import Trainer
from envs.catch import Catch
from experiment.determinism import configure

CATCH = DQNConfig(
    steps=4_000,
    utd=Fraction(1),
    n_step=3,
    lr=1e-3,
    lr_floor=1e-5,
    update_start=200,
    target_period=100,
    epsilon_steps=1_000,
    epsilon_final=0.02,
    replay_capacity=4_000,
    compile="false",
    threads=1,
    log_interval=500,
)


class Little(Encoder, nn.Sequential):
    """One convolution; its 4×4 kernel with stride 2 reaches the last row of 10, where the paddle is."""

    def __init__(self, stack: int, frame_shape: tuple[int, ...], units: int = 64):
        super().__init__(PixelConv2d(stack, 16, 4, 2), nn.ReLU())
        self.hidden = units


def little_network(frame_shape: tuple[int, ...], num_actions: int, units: int = 64, **head: Any) -> QNetwork:
    return QNetwork(Little(STACK, frame_shape, units), STACK, frame_shape, num_actions, **head)


def catch_trainer(
    seed: int = 0,
    num_envs: int = 1,
    enlarged: bool = False,
    units: int = 64,
    joining: Collection[str] = (),
    **settings,
) -> Trainer:
    """A trainer on Catch with the little network, or `enlarged` with the small one; `settings` as in DQNConfig."""
    config = dataclasses.replace(CATCH, seed=seed, num_envs=num_envs, **settings).resolved()
    configure(config.threads, seed)
    env = Catch(num_envs, seed, enlarged)
    make = partial(make_network, "small", STACK) if enlarged else partial(little_network, units=units)
    torch.manual_seed(seed)
    agent = build_learner(config, make(env.frame_shape, env.num_actions, **head_options(config)), joining)
    replay = build_replay(config, env, seed)
    policy = EpsilonGreedy(agent.act, env.num_actions, seed)
    stack = FrameStack(num_envs, STACK, env.frame_shape, replay.device)
    return Trainer(config, env, replay, agent, policy, stack, build_probe(config, agent, seed))


def play(trainer: Trainer, steps: int) -> None:
    """So many steps without updates and metrics, which fill the replay."""
    for _ in range(-(-steps // trainer.env.num_envs)):
        trainer.play(trainer.epsilon)


def run(trainer: Trainer) -> list[dict]:
    """All rows of a run to the end of its budget."""
    trainer.open()
    rows = []
    while not trainer.done:
        rows += trainer.step()
    return rows


def spoil_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints that are loaded from here on hold a NaN in the network's head."""
    load = storage.load_latest

    def spoiled(*args: Any, **options: Any) -> storage.Checkpoint:
        saved = load(*args, **options)
        saved.state["trainer"]["agent"]["network"]["head.weight"][0, 0] = torch.nan
        return saved

    monkeypatch.setattr(storage, "load_latest", spoiled)
