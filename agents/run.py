"""One run of an agent: its parts, its progress line and its score."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import torch

from agents.build import build_agent, build_env, build_trainer
from agents.config import DQNConfig
from agents.dqn import DQN
from agents.names import command_of
from agents.playing.evaluation import evaluated_policy, evaluation_seed, format_score, rules_played, score, summary
from agents.playing.games import Games
from agents.training.compiling import settle_compile
from agents.training.divergence import advice
from agents.training.pace import Pace
from agents.training.saver import Saver
from agents.training.trainer import Trainer
from experiment.fork_state import Source, check_fits
from experiment.interrupt import Interrupt
from experiment.part import as_mistake
from experiment.progress import Progress
from experiment.run import Run
from experiment.storage import checkpoint
from experiment.storage.run_dir import RunDir
from experiment.tables import aligned_table
from experiment.terminal import children_outlive_interrupt
from experiment.values import counted
from nap import effective_lr
from plasticity.joining import compare
from plasticity.method import Method
from plasticity.registry import ordered


def default_name(config: DQNConfig) -> str:
    """The default name: agent, environment, UTD, methods and the time, in letters, digits, dots, dashes, underscores.

    A long list of methods is cut, since a run's name may have at most 200 bytes.
    """
    methods = (*config.plasticity, "nap") if config.nap else config.plasticity
    parts = [str(config.agent), config.env, f"utd{config.utd}", *methods]
    clean = "-".join(re.sub(r"[^\w.-]+", "_", part, flags=re.ASCII) for part in parts)
    return "-".join([clean[:160], f"s{config.seed}", time.strftime("%Y%m%d-%H%M%S")])


def describe_methods(config: DQNConfig, methods: Sequence[Method]) -> str:
    """The methods against loss of plasticity in their order, each with all its options but the seed."""
    named = []
    for spec, method in zip(ordered(config.plasticity), methods, strict=False):
        defaults = {name: option.default for name, option in inspect.signature(type(method)).parameters.items()}
        options = {name: value for name, value in (defaults | spec.options).items() if name != "seed"}
        values = ", ".join(f"{name}={value}" for name, value in options.items())
        named.append(f"{spec.name} ({values})" if values else spec.name)
    if config.nap:
        named.append(f"NaP ({config.nap_norm} norm, {config.nap_affine} scale and offset)")
    return ", ".join(named) or "none"


class AgentRun(Run[DQNConfig]):
    """A run of an agent, ready to train."""

    unit = "agent step"
    rows_end = "metrics"
    memory_options = "--batch-size, --block, --replay-capacity or --num-envs"
    default_name = staticmethod(default_name)

    def build(self, saved: checkpoint.Checkpoint | None) -> None:
        """Settle whether the loss is compiled, then build every part."""
        if saved is None or saved.step < self.config.budget:
            self.config = settle_compile(self.config, self.resumed)
        self.methods = None if self.source is None else compare(self.source.settings, self.config)
        self.trainer = build_trainer(
            self.config, saved.step if saved else 0, self.methods.fresh if self.methods else ()
        )
        self.command, self.remedies = command_of(self.config.agent), advice(self.config)
        self.skipping = "--on-nonfinite skip" if self.config.on_nonfinite == "stop" else ""
        self.learner, self.network = self.trainer.agent, self.trainer.agent.network
        self.saver = Saver(self.config, self.trainer)
        self.segments = self.saver.rows
        self.trainer.after_cut = lambda: self.saver.rows.forget(self.trainer.replay.head - 1)
        self.playing = False
        self.first_update: float | None = None
        self.games: Games | None = None

    @property
    def step(self) -> int:
        return self.trainer.agent_step

    def state_dict(self) -> dict[str, dict[str, Any]]:
        return self.saver.state_dict()

    def adapted(self, source: Source[DQNConfig]) -> tuple[dict[str, Any], dict[str, Any]]:
        assert self.methods is not None
        agent, trainer = self.trainer.agent, source.saved.state["trainer"]
        saved = trainer["agent"]
        check_fits(agent.network, saved["network"], self.methods.reason())
        self.methods.check_to_come(agent.methods, saved["updates"], self.config.tasks.goes_on(source.saved.step))
        trainer = trainer | {
            "agent": saved | source.learner_state(agent, saved, self.config) | self.methods.states(saved)
        }
        began = trainer.get("began", [0] * len(saved["methods"]))
        trainer["began"] = [began[place] if place is not None else saved["updates"] for place in self.methods.places]
        if {"utd", "task_replay"} & set(source.changed):
            trainer["earning"] = [source.saved.step, saved["updates"]]
        return source.saved.state | {"trainer": trainer}, self.methods.facts()

    def restore(self, saved: checkpoint.Checkpoint) -> str:
        self.playing = self.saver.restore(saved)
        if self.playing:
            return "where it was saved"
        return "with new episodes: these environments cannot be brought back"

    def check(self) -> None:
        self.trainer.monitor.check()

    def save(self) -> bool:
        """Save as every run does; what trains alone is then no more of the fleet that it began in."""
        before, saved = self.saved_at, super().save()
        if self.saved_at != before and self.made_by["trained"] == "alone":
            self.directory.fleet.unlink(missing_ok=True)
        return saved

    def headline(self) -> str:
        config = self.config
        lines = [
            self.trainer.env.describe(),
            *self._sequence(),
            f"{config.agent}: {config.network} network, utd {config.utd}, {config.schedule} lr {config.lr:g}, "
            f"{config.precision} on {config.device}, {counted(config.threads, 'thread')}",
            f"plasticity methods: {describe_methods(config, self.trainer.agent.methods)}",
            f"budget: {self._budget()}",
        ]
        if not self.trainer.env.exact_resume and not self.trainer.agent_step:
            lines.append("these environments cannot be brought back: a resume begins new episodes")
        if config.compile == "true":
            lines.append("the loss is compiled at the first update: once for half a minute or so, later from a cache")
        return "\n".join(lines)

    def _sequence(self) -> list[str]:
        """The games in sequence, and what happens at a change."""
        config = self.config
        if not config.is_sequence:
            return []
        tasks, kept = config.tasks, {"keep": "kept", "clear": "cleared", "fresh": "fresh"}
        later = f"epsilon {config.task_epsilon}s, replay {kept[config.task_replay]}"
        games = f"games in sequence: {', '.join(tasks.games)}; {counted(tasks.visits, 'visit')} of "
        return [
            f"{games}{tasks.task_steps:,} agent steps to each",
            f"at a change of game: {later}, optimiser {kept[config.task_optimizer]}, schedule {config.task_schedule}s",
        ]

    def _budget(self) -> str:
        """The work of the run: steps, and updates, which take most of the time."""
        steps, trainer = self.config.budget, self.trainer
        frames = steps * self.config.rules.frame_skip
        text = f"{steps:,} agent steps ({frames:,} frames), {trainer.updates + trainer.updates_left:,} updates"
        made = f"{trainer.agent_step:,} steps and {trainer.updates:,} updates are made"
        return f"{text}; {made}" if trainer.agent_step else text

    @contextmanager
    def live_view(self, interrupt: Interrupt) -> Iterator[Progress]:
        """Progress with the pace of play and of updates; episodes begin in environments that are not playing yet."""
        self.interrupt = interrupt
        self.open()
        self.pace, self.began, self.estimated = Pace(self.trainer), time.monotonic(), False
        pace, start = (lambda: str(self.pace)), self.step
        with Progress(self.config.budget, "agent steps", start=start, pace=pace) as progress, ExitStack() as self.first:
            self.trainer.before_updates = lambda: self._before_updates(progress, interrupt)
            yield progress

    def open(self) -> None:
        """Begin episodes in environments that are not playing yet."""
        if not self.playing:
            self.trainer.open()
            if self.trainer.env.exact_resume:
                with as_mistake(f"{self.config.env}, what a checkpoint would hold"):
                    checkpoint.check_plain(self.trainer.env.state_dict(), "env")

    def _before_updates(self, progress: Progress, interrupt: Interrupt) -> None:
        """The first update compiles: say so before it, and keep Ctrl-C away from the compiler until it is made."""
        if self.first_update is None and self.config.compile == "true":
            progress.busy(lambda: "compiling, then stopping" if interrupt.requested else "compiling")
            self.first.callback(progress.busy, "")
            self.first.enter_context(children_outlive_interrupt())

    def advance(self, progress: Progress) -> None:
        if self.awaits_score:
            progress.busy("evaluating")
            scored = self.score_visit(self.interrupt)
            progress.busy("")
            self.pace.go_on()
            if not scored:
                return
        for row in self.trainer.step():
            self.tracker.log(row)
        self.pace.note()
        if self.first_update is None and self.pace.learns:
            self.first_update = time.monotonic() - self.began
            self.first.close()
        if not self.estimated and (estimate := self.pace.first_estimate()):
            self.estimated = True
            progress.say(estimate)

    def live_metrics(self) -> dict[str, str]:
        trainer, agent = self.trainer, self.trainer.agent
        elr = torch.stack(list(effective_lr(agent.network, agent.optimizer).values())).log().mean().exp()
        mean = f"{sum(trainer.returns) / len(trainer.returns):.1f}" if trainer.returns else "-"
        return {
            "frames": f"{trainer.agent_step * self.config.rules.frame_skip:,}",
            "updates": f"{agent.updates:,}",
            "updates/s": f"{self.pace.updates_per_second:.1f}",
            f"return (last {len(trainer.returns)})": mean,
            "first update": "-" if self.first_update is None else f"{self.first_update:.1f} s",
            "epsilon": f"{trainer.epsilon:.3f}",
            "lr": f"{float(agent.optimizer.param_groups[0]['lr']):.2e}",
            "ELR": f"{float(elr):.2e}",
            **probed(trainer.probe.metrics),
        }

    @property
    def awaits_score(self) -> bool:
        """Whether a visit of a sequence is over and its games of the score are not played yet."""
        trainer, config = self.trainer, self.config
        wanted = config.is_sequence and bool(config.eval_episodes)
        return wanted and trainer.visit_over and not trainer.visits.account.scores

    def score_visit(self, interrupt: Interrupt, show: bool = False) -> bool:
        """Play the games of the score of a visit that is over. False, and nothing kept, if Ctrl-C interrupts them."""
        config, agent, visit = self.config, self.trainer.agent, self.trainer.visits.now
        assert config.eval_episodes
        found, drawn = {}, agent.generator.get_state()
        for game in config.games if config.eval_all else (visit.game,):
            seed, stopped = evaluation_seed(config, visit, game), lambda: interrupt.requested
            policy = evaluated_policy(config, agent)
            games = score(config, policy, config.eval_episodes, seed, stopped, game=game, show=show)
            if interrupt.requested:
                return False
            found[game] = summary(game, games)
        agent.generator.set_state(drawn)  # training goes on as without an evaluation
        self.trainer.visits.account.scores = found
        where = {"agent_step": self.step, "task": visit.game, "visit": visit.visit}
        self.tracker.log(where | {f"score/{game}": each["mean"] for game, each in found.items()})
        return True

    def evaluate(self, interrupt: Interrupt) -> bool:
        """Play the games of the score, unless Ctrl-C was pressed before. False if Ctrl-C interrupts them."""
        if self.config.is_sequence:
            return not interrupt.requested and (not self.awaits_score or self.score_visit(interrupt, show=True))
        config, episodes = self.config, self.config.eval_episodes
        if episodes and not interrupt.requested:
            seed = evaluation_seed(config, self.trainer.visits.now, config.env)
            policy = evaluated_policy(config, self.trainer.agent)
            self.games = score(config, policy, episodes, seed, stopped=lambda: interrupt.requested)
        return not interrupt.requested

    def conclude(self) -> dict[str, Any]:
        if self.games is not None:
            print(format_score(self.config, self.config.env, self.games))
        if self.config.is_sequence:
            print(visit_table(self.trainer.visits.rows(self.trainer.updates, self.trainer.seconds)), end="")
        return result(self.config, self.trainer, self.games)


def probed(metrics: dict[str, float]) -> dict[str, str]:
    """The probe's last metrics for the progress line: dormant units, rank of the last hidden layer, policy churn."""
    if not metrics:
        return {}
    rank = [value for name, value in metrics.items() if name.startswith("erank_roy/")][-1]
    shown = {"dormant": f"{metrics['dormant_sokar_0.025']:.1%}", "erank": f"{rank:.1f}"}
    return shown | ({"churn": f"{metrics['policy_churn']:.1%}"} if "policy_churn" in metrics else {})


def visit_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The visits of a sequence, a line each, for the end of a run."""

    def cells(row: Mapping[str, Any]) -> Iterator[str]:
        yield f"{row['number']}. {row['game']}"
        score = None if row["score"] is None else row["score"]["mean"]
        for value in (row["area"], row["last_tenth"], score):
            yield "-" if value is None else f"{value:.2f}"
        yield f"{row['episodes']:,}"

    return aligned_table(("visit", "mean return", "its last tenth", "score", "games"), map(tuple, map(cells, rows)))


def result(config: DQNConfig, trainer: Trainer, games: Games | None) -> dict[str, Any]:
    """What the result of an agent adds to every run's result: the score, or the visits of a sequence, and the rules."""
    visits = {"visits": trainer.visits.rows(trainer.updates, trainer.seconds)} if config.is_sequence else {}
    alarms = getattr(trainer.agent.schedule, "alarms", None)
    return {
        "agent": config.agent,
        "game": config.env,
        "score": None if games is None else summary(config.env, games),
        "protocol": rules_played(config, _games_played(config, games), trainer.env.time_limit),
        "backend": trainer.env.describe(),
        "agent_steps": trainer.agent_step,
        "frames": trainer.agent_step * config.rules.frame_skip,
        "training_score_wraps": trainer.score_wraps,
        "seconds": {"training": trainer.seconds},
        **({} if alarms is None else {"alarms": [step + config.update_start for step in alarms]}),
        **visits,
    }


def _games_played(config: DQNConfig, games: Games | None) -> int:
    """Games of an evaluation; of a sequence, of each."""
    return config.eval_episodes or 0 if config.is_sequence else 0 if games is None else len(games.ended)


def load_agent(config: DQNConfig, directory: RunDir) -> tuple[DQN, int]:
    """The agent from the newest good checkpoint of a run, ready to act, and the checkpoint's agent step.

    On another kind of device than the run's only the network is loaded, since generators differ between devices.
    """
    saved = checkpoint.load_latest(directory.checkpoints, only=("trainer",))
    agent = bare_agent(config)
    restore_agent(agent, saved)
    return agent, saved.step


def bare_agent(config: DQNConfig, seed: int = 0) -> DQN:
    """The agent of the settings before its first update, its network drawn from `seed`."""
    with closing(build_env(config, 1, seed=0)) as env:
        return build_agent(config, env.frame_shape, env.num_actions, seed, stack=env.stack)


def restore_agent(agent: DQN, saved: checkpoint.Checkpoint) -> None:
    """Load the agent of a checkpoint; on another kind of device than the run's only its network."""
    state = saved.state["trainer"]["agent"]
    if state["generator"].shape == agent.generator.get_state().shape:
        with checkpoint.checked_restore(saved):
            agent.load_state_dict(state)  # a subclass may have state of its own
    else:
        agent.network.load_state_dict(state["network"])
        agent.low_precision.refresh()
        agent.updates = state["updates"]
