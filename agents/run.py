"""One run from settings to result: build or resume, train with a live view, save, evaluate."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from agents.acting import EpsilonGreedy, FrameStack
from agents.build import STACK, build_agent, build_env, build_replay, device_of
from agents.config import DQNConfig
from agents.dqn import DQN
from agents.evaluation import score, summary, verdict
from agents.trainer import Trainer
from experiment import checkpoint
from experiment.config import ConfigError, load_yaml
from experiment.determinism import configure, environment, parameter_hash, seeds
from experiment.interrupt import Interrupt
from experiment.progress import Progress, Rate
from experiment.run_dir import RunDir
from experiment.tracking import Tracker
from nap import effective_lr

INTERRUPTED = 130  # the shell's code for a program that SIGINT ended
SEED_NAMES = ("network", "play", "exploration", "replay", "evaluation")


def same_settings(a: DQNConfig, b: DQNConfig) -> bool:
    """Whether two settings give the same run: all but its name, place and tracker."""
    elsewhere = {"name": None, "root": "", "resume": None, "track": "none"}
    return dataclasses.replace(a, **elsewhere) == dataclasses.replace(b, **elsewhere)  # type: ignore[arg-type]


def find_resumed(config: DQNConfig) -> RunDir | None:
    """The run to go on with: the one named, with `auto` the newest unfinished one of the same settings, or None."""
    if config.resume is None:
        return None
    if config.resume != "auto":
        run = RunDir.open(config.resume)
        allowed = (DQNConfig().resolved(), load_yaml(DQNConfig, run.config))
        if not any(same_settings(config, settings) for settings in allowed):
            raise ConfigError(f"--resume {config.resume} goes on with the settings of that run: leave the others out")
        if run.result.is_file():
            raise ConfigError(f"run {config.resume} is finished: its score is in {run.result}")
        return run
    root = Path(config.root)
    runs = [RunDir(path) for path in root.iterdir()] if root.is_dir() else []
    runs = [run for run in runs if run.config.is_file() and run.has_checkpoint() and not run.result.is_file()]
    runs = [run for run in runs if same_settings(config, load_yaml(DQNConfig, run.config))]
    return max(runs, key=lambda run: run.checkpoints.stat().st_mtime_ns, default=None)


def default_name(config: DQNConfig) -> str:
    """What tells the run from others, and the time."""
    utd = "utd" + str(config.utd).replace("/", "_")
    methods = (*config.plasticity, "nap") if config.nap else config.plasticity
    return "-".join([config.agent, config.env, utd, *methods, f"s{config.seed}", time.strftime("%Y%m%d-%H%M%S")])


def build_trainer(config: DQNConfig, seed: dict[str, int]) -> Trainer:
    env = build_env(config, config.num_envs, seed["play"])
    agent = build_agent(config, env.frame_shape, env.num_actions, seed["network"])
    replay = build_replay(config, env, seed["replay"])
    policy = EpsilonGreedy(agent.act, env.num_actions, seed["exploration"])
    return Trainer(config, env, replay, agent, policy, FrameStack(env.num_envs, STACK, env.frame_shape, replay.device))


class Run:
    """A run that is ready to train: whatever bad input could spoil has been tried by then."""

    def __init__(self, config: DQNConfig):
        """Build every part, or load the run to go on with; ConfigError before anything is written."""
        resumed = find_resumed(config)
        saved = checkpoint.load_latest(resumed.checkpoints) if resumed else None
        config = load_yaml(DQNConfig, resumed.config) if resumed else dataclasses.replace(config, resume=None)
        device_of(config)
        configure(config.threads, config.seed)
        self.config = config
        self.seeds = seeds(config.seed, *SEED_NAMES)
        self.trainer = build_trainer(config, self.seeds)
        self.directory = resumed or RunDir.create(
            config.root, config.name or default_name(config), config, explicit=config.name is not None
        )
        self.directory.lock()
        self.tracker = Tracker(self.directory.metrics, config.track, config=dataclasses.asdict(config))
        if saved:
            self._restore(saved.state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.trainer.load_state_dict(state["trainer"])
        checkpoint.set_rng_state(state["rng"])
        self.tracker.cut_to(state["metrics"]["offset"])

    def _save(self) -> bool:
        state = {
            "trainer": self.trainer.state_dict(),
            "rng": checkpoint.rng_state(),
            "metrics": {"offset": self.tracker.offset()},
        }
        return checkpoint.save_or_warn(self.directory.checkpoints, self.trainer.agent_step, state)

    def train(self) -> int:
        """Train to the end of the budget, save, evaluate; the exit code."""
        print(self._headline())
        with Interrupt() as interrupt:
            if not self.trainer.done:
                self._open()
                self._train_until(interrupt)
                saved = self._save()
                if interrupt.requested:
                    return self._stop(saved)
            scores = self._evaluate(interrupt)
            if interrupt.requested:
                return self._stop(saved=True)
        self._finish(scores)
        return 0

    def _stop(self, saved: bool) -> int:
        self.tracker.close()
        step = self.trainer.agent_step
        command = f"python -m agents.{self.config.agent} --resume {self.directory.path}"
        if saved:
            print(f"stopped at agent step {step:,}, all is saved; go on with: {command}")
        else:
            print(f"stopped at agent step {step:,}, which could not be saved; from the checkpoint before: {command}")
        return INTERRUPTED

    def _headline(self) -> str:
        config = self.config
        nap = f"NaP ({config.nap_norm} norm, {config.nap_affine} scale and offset)" if config.nap else "no NaP"
        lines = [
            self.trainer.env.describe(),
            f"{config.agent}: {config.network} network, utd {config.utd}, {nap}, {config.schedule} lr {config.lr:g}, "
            f"{config.precision} on {config.device}, {config.threads} threads",
            f"run directory: {self.directory.path}",
        ]
        if config.compile == "true":
            lines.append("the loss is compiled at the first update: once for a minute or so, later from a cache")
        return "\n".join(lines)

    def _open(self) -> None:
        trainer = self.trainer
        trainer.open()
        if trainer.agent_step:
            steps = min(trainer.agent_step, max(self.config.update_start, self.config.batch_size + self.config.n_step))
            print(f"resuming at agent step {trainer.agent_step:,}: new episodes, and a replay refilled with {steps:,}")
            print("steps of the present policy, which count neither as agent steps nor as episodes")
            trainer.refill(steps)

    def _train_until(self, interrupt: Interrupt) -> None:
        trainer, began = self.trainer, time.monotonic()
        updates = trainer.agent.updates
        while trainer.agent.updates == updates and not trainer.done and not interrupt.requested:
            self._step()
        if trainer.agent.updates > updates:
            print(f"first update after {time.monotonic() - began:.1f} s")
        rate = Rate()
        with Progress(self.config.budget, "agent steps", start=trainer.agent_step) as progress:
            while not trainer.done and not interrupt.requested:
                self._step()
                progress.update(trainer.agent_step, lambda: self._figures(rate))

    def _step(self) -> None:
        before = self.trainer.agent_step
        for row in self.trainer.step():
            self.tracker.log(row)
        interval = self.config.checkpoint_interval
        if interval and self.trainer.passes(interval, before):
            self._save()

    def _figures(self, rate: Rate) -> dict[str, str]:
        trainer, agent = self.trainer, self.trainer.agent
        rate.add(time.monotonic(), agent.updates)
        elr = torch.stack(list(effective_lr(agent.network, agent.optimizer).values())).log().mean().exp()
        mean = f"{sum(trainer.returns) / len(trainer.returns):.1f}" if trainer.returns else "-"
        return {
            "frames": f"{trainer.agent_step * self.config.rules.frame_skip:,}",
            "updates": f"{agent.updates:,}",
            "updates/s": f"{rate.value():.1f}",
            f"return (last {len(trainer.returns)})": mean,
            "epsilon": f"{trainer.epsilon:.3f}",
            "lr": f"{float(agent.optimizer.param_groups[0]['lr']):.2e}",
            "ELR": f"{float(elr):.2e}",
        }

    def _evaluate(self, interrupt: Interrupt) -> list[float]:
        episodes = self.config.eval_episodes
        if not episodes:
            return []
        seed = self.seeds["evaluation"]
        return score(self.config, self.trainer.agent.act, episodes, seed, stopped=lambda: interrupt.requested)

    def _finish(self, scores: list[float]) -> None:
        self.tracker.close()
        self.directory.write_result(result(self.config, self.trainer, scores))
        if scores:
            print(verdict(self.config, scores))
        print(f"result: {self.directory.result}")


def result(config: DQNConfig, trainer: Trainer, scores: list[float]) -> dict[str, Any]:
    """What result.json holds: the score, and everything that it stands on."""
    return {
        "agent": config.agent,
        "game": config.env,
        "score": summary(config.env, scores) if scores else None,
        "protocol": dataclasses.asdict(config.rules),
        "backend": trainer.env.describe(),
        "seed": config.seed,
        "agent_steps": trainer.agent_step,
        "frames": trainer.agent_step * config.rules.frame_skip,
        "updates": trainer.agent.updates,
        "training_seconds": trainer.seconds,
        "parameter_hash": parameter_hash(trainer.agent.network),
        "environment": environment(),
    }


def load_agent(config: DQNConfig, directory: RunDir) -> tuple[DQN, int]:
    """The agent of a run as its newest good checkpoint has it, and the agent step of that."""
    saved = checkpoint.load_latest(directory.checkpoints)
    env = build_env(config, 1, seed=0)
    agent = build_agent(config, env.frame_shape, env.num_actions, seed=0)
    env.close()
    agent.load_state_dict(saved.state["trainer"]["agent"])
    return agent, saved.step
