"""Environment contestants against the bare emulator, and the share of a training loop's time that is updates."""

from __future__ import annotations

import math
import time
from fractions import Fraction
from importlib.util import find_spec
from typing import Literal

import ale_py
import ale_py.roms
import numpy as np
import torch

import envs
from agents.config import DQNConfig
from agents.run import build_trainer
from benchmarks.speed.alternate import Contestant, Run
from benchmarks.speed.learners import PRECISIONS
from benchmarks.speed.settings import Settings
from envs.games import rom_id
from experiment.values import counted

PROTOCOL: Literal["atari100k"] = "atari100k"
STRETCH = 300  # updates of a loop in a round of one second


def environments(settings: Settings) -> tuple[list[Contestant], list[str]]:
    """Agent steps per second with random play, new episodes included; and a line if envpool is not installed."""
    backends = ["ale", "envpool"] if find_spec("envpool") else ["ale"]
    found = []
    for num_envs in (1, 8):
        task, threads = f"environment, {num_envs} at once", min(num_envs, settings.threads)
        name = f"bare emulator, 4 frames a step, × {counted(threads, 'thread')}"
        raw = lambda: emulator_run(settings.game)  # noqa: E731
        found.append(Contestant(task, name, "steps/s", raw, "limit", work=threads))
        for backend in backends:
            run = lambda backend=backend, n=num_envs: environment_run(settings, backend, n)  # noqa: E731
            found.append(Contestant(task, f"ours, {backend}", "steps/s", run, work=num_envs))
    missing = [] if find_spec("envpool") else ["envpool is not installed: pip install -e .[envpool]"]
    return found, missing


def emulator_run(game: str) -> Run:
    """Agent steps of ALE alone: no screen, no resizing."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", 0)
    rom = ale_py.roms.get_rom_path(rom_id(game))
    assert rom is not None, "resolve_game knows only games that ale-py ships"
    ale.loadROM(rom)
    actions = ale.getMinimalActionSet()
    rng = np.random.default_rng(0)

    def run(count: int) -> None:
        for choice in rng.integers(len(actions), size=count):
            for _ in range(4):
                ale.act(actions[choice])
            if ale.game_over():
                ale.reset_game()

    return run


def environment_run(settings: Settings, backend: str, num_envs: int) -> Run:
    threads = min(num_envs, settings.threads)
    env = envs.make(settings.game, PROTOCOL, num_envs, 0, backend=backend, num_threads=threads)
    env.reset()
    rng = np.random.default_rng(0)

    def run(count: int) -> None:
        for actions in rng.integers(env.num_actions, size=(count, num_envs)):
            env.step(actions)

    return run


def loops(settings: Settings) -> list[Contestant]:
    """The training loop with the default network at UTD 1 and 8, in each precision."""
    found = []
    for utd in (1, 8):
        for precision in PRECISIONS:
            config = DQNConfig(
                env=settings.game,
                protocol=PROTOCOL,
                utd=Fraction(utd),
                precision=precision,
                compile="true" if settings.compile else "false",
                device=settings.device,
                threads=settings.threads,
                update_start=100,
                epsilon_steps=1,
            ).resolved()
            run = lambda config=config: loop_run(config)  # noqa: E731
            least = math.ceil(STRETCH * settings.seconds / utd)
            name = f"{precision}, " + ("compiled" if settings.compile else "eager")
            found.append(Contestant(f"loop, share of time in updates, utd {utd}", name, "%", run, least=least))
    return found


def loop_run(config: DQNConfig) -> Run:
    """Agent steps of a trainer; its value is the percentage of their time inside `learn`."""
    trainer = build_trainer(config)
    learn, spent = trainer.learn, 0.0

    def timed() -> None:
        nonlocal spent
        began = time.perf_counter()
        learn()
        if config.device.startswith("cuda"):
            torch.cuda.synchronize()
        spent += time.perf_counter() - began

    trainer.learn = timed  # type: ignore[method-assign]
    trainer.open()
    while trainer.agent.updates == 0:
        trainer.step()

    def run(count: int) -> float:
        nonlocal spent
        spent, began = 0.0, time.perf_counter()
        for _ in range(count):
            trainer.step()
        return 100 * spent / (time.perf_counter() - began)

    return run
