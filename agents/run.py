"""One run from settings to result: build or resume, train with a live view, save, evaluate."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from agents.build import build_agent, build_env, build_probe, build_replay
from agents.config import DQNConfig, command_of
from agents.dqn import DQN
from agents.playing.evaluation import evaluated_policy, format_score, rules_played, score, summary
from agents.playing.games import Games
from agents.training.acting import EpsilonGreedy, FrameStack
from agents.training.compiling import settle_compile
from agents.training.divergence import nonfinite_message
from agents.training.pace import Pace
from agents.training.saver import Saver
from agents.training.trainer import Trainer
from experiment.command_line import shell
from experiment.compiler import ADVICE, is_toolchain_failure, one_line
from experiment.config import as_plain, load_yaml
from experiment.determinism import configure, device_of, environment, parameter_hash, seeds
from experiment.guard import NonFinite, is_out_of_memory
from experiment.interrupt import INTERRUPTED, Interrupt
from experiment.progress import Progress
from experiment.setting import changeable
from experiment.storage import checkpoint
from experiment.storage.run_dir import RunDir, find_resumed, say_kept
from experiment.storage.tracking import Tracker, check_tracker
from experiment.terminal import children_outlive_interrupt
from experiment.values import counted
from nap import effective_lr
from plasticity.method import Method
from plasticity.registry import parse


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
    """All parts of a run at their start; emulators that must begin again at `agent_step` play other games then."""
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
        resumed = find_resumed(config)
        saved = None
        if resumed is not None:
            saved = checkpoint.load_for_resume(resumed)
            stored = load_yaml(DQNConfig, resumed.config)
            if config.resume == "auto":
                say_kept(resumed, config, stored)
            config = dataclasses.replace(stored, **changeable(config))
            if saved is not None:
                checkpoint.check_settings(saved, config, resumed.config)
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

    def _create(self, config: DQNConfig) -> RunDir:
        name = default_name(config) if config.name is None else config.name
        stored = dataclasses.replace(config, name=None, resume=None)
        room = checkpoint.tensor_bytes(self.trainer.agent.state_dict())
        return RunDir.create(config.root, name, stored, explicit=config.name is not None, room=room)

    def _restore(self, saved: checkpoint.Checkpoint) -> bool:
        """Bring the run back; whether the environments go on where they were."""
        exact = self.saver.restore(saved)
        how = "where it was saved" if exact else "with new episodes: these environments cannot be brought back"
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
        except ChildProcessError as error:  # a worker of the environments is gone, killed for memory, say
            return self._lost_worker(str(error))
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

    def _lost_worker(self, found: str) -> int:
        self.tracker.close()
        print(f"error: {found}; go on from the last checkpoint: {self._resume_command()}", file=sys.stderr)
        return 1

    def _not_compiled(self, error: Exception) -> int:
        self.tracker.close()
        where, cause = f"agent step {self.trainer.agent_step:,}", one_line(error)
        print(f"error: the loss cannot be compiled at {where}: {cause}; {ADVICE}", file=sys.stderr)
        return 1

    def _diverged(self, found: str) -> int:
        self.tracker.close()
        resume, last = self._resume_command(), self.directory.newest_checkpoint()
        print(nonfinite_message(self.config, self.trainer.agent_step, found, last, resume), file=sys.stderr)
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
            trained = parameter_hash(self.trainer.agent.network)  # games draw the noise of noisy layers again
            games = None if interrupt.requested else self._evaluate(interrupt)
            if interrupt.requested:
                return self._stop(saved)
        return self._finish(games, trained, saved)

    def _stop(self, saved: bool) -> int:
        self.tracker.close()
        step = self.trainer.agent_step
        command = self._resume_command()
        if saved:
            print(f"stopped at agent step {step:,}, all is saved; go on with: {command}")
        else:
            print("stopped:", self.directory.unsaved(f"agent step {step:,}", command))
        return INTERRUPTED

    def _resume_command(self) -> str:
        return f"{command_of(self.config.agent)} {shell('--resume', self.directory.path)}"

    def _headline(self) -> str:
        config = self.config
        lines = [
            self.trainer.env.describe(),
            f"{config.agent}: {config.network} network, utd {config.utd}, {config.schedule} lr {config.lr:g}, "
            f"{config.precision} on {config.device}, {counted(config.threads, 'thread')}",
            f"plasticity methods: {describe_methods(config, self.trainer.agent.methods)}",
            f"budget: {self._budget()}",
            f"run directory: {self.directory.path}",
        ]
        if not self.trainer.env.exact_resume and not self.trainer.agent_step:
            lines.append("these environments cannot be brought back: a resume begins new episodes")
        if config.compile == "true":
            lines.append("the loss is compiled at the first update: once for a minute or so, later from a cache")
        return "\n".join(lines)

    def _budget(self) -> str:
        """The work of the run: steps, and updates, which take most of the time."""
        steps, trainer = self.config.budget, self.trainer
        frames = steps * self.config.rules.frame_skip
        text = f"{steps:,} agent steps ({frames:,} frames), {trainer.updates + trainer.updates_left:,} updates"
        made = f"{trainer.agent_step:,} steps and {trainer.updates:,} updates are made"
        return f"{text}; {made}" if trainer.agent_step else text

    def _train_until(self, interrupt: Interrupt) -> None:
        trainer, pace, estimate, began = self.trainer, Pace(self.trainer), None, time.monotonic()
        budget, start = self.config.budget, trainer.agent_step
        with Progress(budget, "agent steps", start=start, pace=lambda: str(pace)) as progress, ExitStack() as first:
            trainer.before_updates = lambda: self._before_updates(first, progress, interrupt)
            while not trainer.done and not interrupt.requested:
                self._step()
                pace.note()
                if self.first_update is None and pace.learns:
                    self.first_update = time.monotonic() - began
                    first.close()
                if estimate is None and (estimate := pace.first_estimate()):
                    progress.say(estimate)
                progress.update(trainer.agent_step, lambda: self._figures(pace))

    def _before_updates(self, first: ExitStack, progress: Progress, interrupt: Interrupt) -> None:
        """Before the first update, which compiles: say so, and let no Ctrl-C end the compiler, until `first` closes."""
        if self.first_update is None and self.config.compile == "true":
            progress.busy(lambda: "compiling, then stopping" if interrupt.requested else "compiling")
            first.callback(progress.busy, "")
            first.enter_context(children_outlive_interrupt())

    def _step(self) -> None:
        before = self.trainer.agent_step
        for row in self.trainer.step():
            self.tracker.log(row)
        interval = self.config.checkpoint_interval
        if interval and self.trainer.passes(interval, before):
            self._save()

    def _figures(self, pace: Pace) -> dict[str, str]:
        trainer, agent = self.trainer, self.trainer.agent
        elr = torch.stack(list(effective_lr(agent.network, agent.optimizer).values())).log().mean().exp()
        mean = f"{sum(trainer.returns) / len(trainer.returns):.1f}" if trainer.returns else "-"
        return {
            "frames": f"{trainer.agent_step * self.config.rules.frame_skip:,}",
            "updates": f"{agent.updates:,}",
            "updates/s": f"{pace.updates_per_second:.1f}",
            f"return (last {len(trainer.returns)})": mean,
            "first update": "-" if self.first_update is None else f"{self.first_update:.1f} s",
            "epsilon": f"{trainer.epsilon:.3f}",
            "lr": f"{float(agent.optimizer.param_groups[0]['lr']):.2e}",
            "ELR": f"{float(elr):.2e}",
            **probed(trainer.probe.figures),
        }

    def _evaluate(self, interrupt: Interrupt) -> Games | None:
        episodes = self.config.eval_episodes
        if not episodes:
            return None
        seed = seeds(self.config.seed, "evaluation")["evaluation"]
        policy = evaluated_policy(self.config, self.trainer.agent)
        return score(self.config, policy, episodes, seed, stopped=lambda: interrupt.requested)

    def _finish(self, games: Games | None, trained: str, saved: bool) -> int:
        self.tracker.close()
        if games is not None:
            print(format_score(self.config, games))
        if not saved:  # a result would say that the run is done, and there is no agent
            where = f"agent step {self.trainer.agent_step:,}"
            print(f"error: no result: {self.directory.unsaved(where, self._resume_command())}", file=sys.stderr)
            return 1
        try:
            self.directory.write_result(result(self.config, self.trainer, games, trained))
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


def result(config: DQNConfig, trainer: Trainer, games: Games | None, trained: str) -> dict[str, Any]:
    """What result.json holds: the score, and everything that it stands on; `trained`: the network's hash."""
    return {
        "agent": config.agent,
        "game": config.env,
        "score": None if games is None else summary(config.env, games),
        "protocol": rules_played(config, 0 if games is None else len(games.ended)),
        "settings": as_plain(config),
        "backend": trainer.env.describe(),
        "seed": config.seed,
        "agent_steps": trainer.agent_step,
        "frames": trainer.agent_step * config.rules.frame_skip,
        "updates": trainer.agent.updates,
        "training_score_wraps": trainer.score_wraps,
        "training_seconds": trainer.seconds,
        "parameter_hash": trained,
        "environment": environment(),
    }


def load_agent(config: DQNConfig, directory: RunDir) -> tuple[DQN, int]:
    """The agent of a run as its newest good checkpoint has it, ready to act, and the agent step of that.

    On another kind of device than the run's only the network is brought back: generators are not alike there.
    """
    saved = checkpoint.load_latest(directory.checkpoints, only=("trainer",))
    env = build_env(config, 1, seed=0)
    agent = build_agent(config, env.frame_shape, env.num_actions, seed=0, stack=env.stack)
    env.close()
    state = saved.state["trainer"]["agent"]
    if state["generator"].shape == agent.generator.get_state().shape:
        with checkpoint.checked_restore(saved):
            agent.load_state_dict(state)  # a subclass may have state of its own
    else:
        agent.network.load_state_dict(state["network"])
        agent.replica.refresh()
        agent.updates = state["updates"]
    return agent, saved.step
