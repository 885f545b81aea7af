"""One run from settings to result: build or resume, train with a live view, save, evaluate."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from agents.acting import EpsilonGreedy, FrameStack
from agents.build import build_agent, build_env, build_probe, build_replay
from agents.compiling import settle_compile
from agents.config import DQNConfig, command_of
from agents.divergence import farewell
from agents.dqn import DQN
from agents.evaluation import evaluated_policy, rules_played, score, summary, verdict
from agents.saver import Saver
from agents.trainer import Trainer
from experiment import checkpoint
from experiment.compiler import ADVICE, is_toolchain_failure, one_line
from experiment.config import as_plain, load_yaml
from experiment.determinism import configure, device_of, environment, parameter_hash, seeds
from experiment.guard import NonFinite, is_out_of_memory
from experiment.interrupt import INTERRUPTED, Interrupt
from experiment.progress import Progress, Rate
from experiment.run_dir import RunDir, find_resumed
from experiment.tracking import Tracker, check_tracker
from nap import effective_lr
from plasticity.method import Method
from plasticity.registry import parse

MACHINE = {
    "name": None, "root": "", "resume": None, "track": "none", "threads": 0, "compile": "auto", "on_nonfinite": "stop",
}  # fmt: skip
"""Settings that name a run or come from the machine, with one value for all: they do not tell runs apart."""


def default_name(config: DQNConfig) -> str:
    """What tells the run from others, and the time: letters, digits, dots, dashes and underscores.

    Many methods are cut short, since a run's name may have 200 bytes.
    """
    methods = (*config.plasticity, "nap") if config.nap else config.plasticity
    words = [str(config.agent), config.env, f"utd{config.utd}", *methods]
    clean = "-".join(re.sub(r"[^\w.-]+", "_", word, flags=re.ASCII) for word in words)
    return "-".join([clean[:160], f"s{config.seed}", time.strftime("%Y%m%d-%H%M%S")])


def describe_methods(config: DQNConfig, methods: Sequence[Method]) -> str:
    """The methods against loss of plasticity in their order, each with all its options but the seed."""
    named = []
    for spec, method in zip(map(parse, config.plasticity), methods, strict=False):
        defaults = {name: option.default for name, option in inspect.signature(type(method)).parameters.items()}
        options = {name: value for name, value in (defaults | spec.options).items() if name != "seed"}
        values = ", ".join(f"{name}={value}" for name, value in options.items())
        named.append(f"{spec.name} ({values})" if values else spec.name)
    if config.nap:
        named.append(f"NaP ({config.nap_norm} norm, {config.nap_affine} scale and offset)")
    return ", ".join(named) or "none"


def build_trainer(config: DQNConfig, agent_step: int = 0) -> Trainer:
    """All parts of a run at their start; emulators that must begin anew at `agent_step` play other games then."""
    first, later = "play from 0", f"play from {agent_step}"
    seed = seeds(config.seed, "network", "exploration", "replay", "probe", first, later)
    env = build_env(config, config.num_envs, seed[first])
    if agent_step and not env.exact_resume:
        env.close()
        env = build_env(config, config.num_envs, seed[later])
    agent = build_agent(config, env.frame_shape, env.num_actions, seed["network"], env.stack)
    replay = build_replay(config, env, seed["replay"])
    policy = EpsilonGreedy(agent.act, env.num_actions, seed["exploration"])
    stack = FrameStack(env.num_envs, env.stack, env.frame_shape, replay.device)
    return Trainer(config, env, replay, agent, policy, stack, build_probe(config, agent, seed["probe"]))


class Run:
    """A run that is ready to train: whatever bad input could spoil has been tried by then."""

    def __init__(self, config: DQNConfig):
        """Build every part, or load the run to go on with; ConfigError before anything is written."""
        check_tracker(config.track)
        resumed = find_resumed(config, MACHINE)
        saved = None
        if resumed is not None:
            saved = checkpoint.take_up(resumed)
            stored = load_yaml(DQNConfig, resumed.config)
            config = dataclasses.replace(stored, track=config.track, on_nonfinite=config.on_nonfinite)
            if saved is not None:
                checkpoint.check_settings(saved, as_plain(config), resumed.config, MACHINE)
        elif config.resume == "auto":
            print(f"no unfinished run of these settings in {config.root!r}: a new one begins")
        device_of(config.device)
        configure(config.threads, config.seed)
        if saved is None or saved.step < config.budget:
            config = settle_compile(config, resumed)
        self.config = config
        self.first_update: float | None = None
        self.trainer = build_trainer(config, saved.step if saved else 0)
        self.saver = Saver(config, self.trainer)
        self.playing = saved is not None and self._restore(saved)
        self.directory = resumed or self._create(config)
        self.tracker = Tracker(self.directory.metrics, config.track, config=as_plain(config))
        self.tracker.cut_to(saved.state["run"]["metrics"] if saved is not None else 0)

    @staticmethod
    def _create(config: DQNConfig) -> RunDir:
        name = default_name(config) if config.name is None else config.name
        stored = dataclasses.replace(config, name=None, resume=None)
        return RunDir.create(config.root, name, stored, explicit=config.name is not None)

    def _restore(self, saved: checkpoint.Checkpoint) -> bool:
        """Bring the run back; whether the environments go on where they were."""
        exact = self.saver.restore(saved)
        how = "where it was saved" if exact else "with new episodes: this backend's emulators cannot be brought back"
        print(f"resuming at agent step {saved.step:,}, {how}")
        if differs := checkpoint.changes(saved.state["run"]["made_by"], self.saver.made_by):
            print(f"saved elsewhere ({differs}): the run goes on, but its bits may be others than there")
        return exact

    def _save(self) -> bool:
        self.trainer.monitor.check()
        return self.saver.save(self.directory.checkpoints, self.tracker.offset())

    def train(self) -> int:
        """Train to the end of the budget, save, evaluate; the exit code."""
        try:
            return self._train()
        except NonFinite as error:
            return self._diverged(str(error))
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                return self._out_of_memory()
            if is_toolchain_failure(error):
                return self._not_compiled(error)
            raise

    def _out_of_memory(self) -> int:
        self.tracker.close()
        less = "--batch-size, --block, --replay-capacity or --num-envs"
        print(
            f"error: out of memory at agent step {self.trainer.agent_step:,}: a smaller {less} helps", file=sys.stderr
        )
        return 1

    def _not_compiled(self, error: Exception) -> int:
        self.tracker.close()
        where, cause = f"agent step {self.trainer.agent_step:,}", one_line(error)
        print(f"error: the loss cannot be compiled at {where}: {cause}; {ADVICE}", file=sys.stderr)
        return 1

    def _diverged(self, found: str) -> int:
        self.tracker.close()
        resume, last = self._resume_command(), self.directory.newest_checkpoint()
        print(farewell(self.config, self.trainer.agent_step, found, last, resume), file=sys.stderr)
        return 1

    def _train(self) -> int:
        print(self._headline())
        saved = True
        with Interrupt() as interrupt:
            if not self.trainer.done:
                if not self.playing:
                    self.trainer.open()
                self._train_until(interrupt)
                saved = self._save()
            trained = parameter_hash(self.trainer.agent.network)  # games draw the noise of noisy layers anew
            scores = [] if interrupt.requested else self._evaluate(interrupt)
            if interrupt.requested:
                return self._stop(saved)
        return self._finish(scores, trained)

    def _stop(self, saved: bool) -> int:
        self.tracker.close()
        step = self.trainer.agent_step
        command = self._resume_command()
        if saved:
            print(f"stopped at agent step {step:,}, all is saved; go on with: {command}")
        else:
            print(f"stopped at agent step {step:,}, which could not be saved; from the checkpoint before: {command}")
        return INTERRUPTED

    def _resume_command(self) -> str:
        return f"{command_of(self.config.agent)} --resume {self.directory.path}"

    def _headline(self) -> str:
        config = self.config
        lines = [
            self.trainer.env.describe(),
            f"{config.agent}: {config.network} network, utd {config.utd}, {config.schedule} lr {config.lr:g}, "
            f"{config.precision} on {config.device}, {config.threads} threads",
            f"plasticity methods: {describe_methods(config, self.trainer.agent.methods)}",
            f"run directory: {self.directory.path}",
        ]
        if not self.trainer.env.exact_resume:
            lines.append("this backend's emulators cannot be brought back: a resume begins new episodes (ale's can)")
        if config.compile == "true":
            lines.append("the loss is compiled at the first update: once for a minute or so, later from a cache")
        return "\n".join(lines)

    def _train_until(self, interrupt: Interrupt) -> None:
        trainer, rate, began = self.trainer, Rate(), time.monotonic()
        updates = trainer.agent.updates
        with Progress(self.config.budget, "agent steps", start=trainer.agent_step) as progress:
            while not trainer.done and not interrupt.requested:
                self._step()
                progress.update(trainer.agent_step, lambda: self._figures(rate))
                if self.first_update is None and trainer.agent.updates > updates:
                    self.first_update = time.monotonic() - began

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
            "first update": "-" if self.first_update is None else f"{self.first_update:.1f} s",
            "epsilon": f"{trainer.epsilon:.3f}",
            "lr": f"{float(agent.optimizer.param_groups[0]['lr']):.2e}",
            "ELR": f"{float(elr):.2e}",
            **probed(trainer.probe.figures),
        }

    def _evaluate(self, interrupt: Interrupt) -> list[float]:
        episodes = self.config.eval_episodes
        if not episodes:
            return []
        seed = seeds(self.config.seed, "evaluation")["evaluation"]
        policy = evaluated_policy(self.config, self.trainer.agent)
        return score(self.config, policy, episodes, seed, stopped=lambda: interrupt.requested)

    def _finish(self, scores: list[float], trained: str) -> int:
        self.tracker.close()
        if scores:
            print(verdict(self.config, scores))
        try:
            self.directory.write_result(result(self.config, self.trainer, scores, trained))
        except OSError as error:
            print(f"warning: {self.directory.result} could not be written: {error.strerror}", file=sys.stderr)
            return 1
        print(f"result: {self.directory.result}")
        return 0


def probed(figures: dict[str, float]) -> dict[str, str]:
    """The probe's last figures for the progress line: dormant units, rank of the last hidden layer, policy churn."""
    if not figures:
        return {}
    rank = [value for name, value in figures.items() if name.startswith("erank_roy/")][-1]
    shown = {"dormant": f"{figures['dormant_sokar_0.025']:.1%}", "erank": f"{rank:.1f}"}
    return shown | ({"churn": f"{figures['policy_churn']:.1%}"} if "policy_churn" in figures else {})


def result(config: DQNConfig, trainer: Trainer, scores: list[float], trained: str) -> dict[str, Any]:
    """What result.json holds: the score, and everything that it stands on; `trained`: the network's hash."""
    return {
        "agent": config.agent,
        "game": config.env,
        "score": summary(config.env, scores) if scores else None,
        "protocol": rules_played(config, len(scores)),
        "settings": as_plain(config),
        "backend": trainer.env.describe(),
        "seed": config.seed,
        "agent_steps": trainer.agent_step,
        "frames": trainer.agent_step * config.rules.frame_skip,
        "updates": trainer.agent.updates,
        "training_seconds": trainer.seconds,
        "parameter_hash": trained,
        "environment": environment(),
    }


def load_agent(config: DQNConfig, directory: RunDir) -> tuple[DQN, int]:
    """The agent of a run as its newest good checkpoint has it, ready to act, and the agent step of that.

    On another device than the run's its noise is drawn afresh: generators are not alike.
    """
    saved = checkpoint.load_latest(directory.checkpoints, only=("trainer",))
    env = build_env(config, 1, seed=0)
    agent = build_agent(config, env.frame_shape, env.num_actions, seed=0, stack=env.stack)
    env.close()
    state = saved.state["trainer"]["agent"]
    agent.network.load_state_dict(state["network"])
    agent.replica.refresh()
    agent.updates = state["updates"]
    if state["generator"].shape == agent.generator.get_state().shape:
        agent.generator.set_state(state["generator"].cpu())
    return agent, saved.step
