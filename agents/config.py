"""What follows from the settings of an agent. Light on purpose: the command line reads it before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from agents.checks import check
from agents.names import is_own
from agents.settings import Settings
from agents.tasks import Tasks
from envs.protocol import PROTOCOLS, Protocol
from envs.registry import Registration, is_sequence, registered, resolve_game
from envs.sequences import joined, named, split
from experiment.config import ConfigError
from experiment.intervals import default_interval
from experiment.part import join_options
from experiment.processor import available_cores, best_precision


@dataclass(frozen=True)
class DQNConfig(Settings):
    """Settings of one run, with what follows from them, also before they are `resolved`."""

    @property
    def environment(self) -> Registration:
        """What is known of the environment; ConfigError if there is none of that name."""
        option, name = ("--env", self.env) if self.sequence is None else ("--sequence", joined(self.games))
        try:
            return registered(name)
        except ValueError as error:
            raise ConfigError(f"{option}: {error}") from None

    @property
    def rules(self) -> Protocol:
        """The environment's own rules, or the protocol that is chosen; games in sequence have all actions."""
        rules = self.environment.rules or PROTOCOLS[self.protocol]
        return replace(rules, full_action_set=True) if self.is_sequence else rules

    @property
    def clips_rewards(self) -> bool:
        """Whether it is clipped rewards that the agent learns from."""
        return self.rules.clip_rewards if self.clip_rewards is None else self.clip_rewards

    @property
    def is_sequence(self) -> bool:
        """Whether games are played one after another."""
        return self.sequence is not None or is_sequence(self.env)

    @property
    def played(self) -> str:
        """What is played, as it was asked for."""
        return self.sequence or self.env

    @property
    def games(self) -> tuple[str, ...]:
        """The games of the run, resolved; ConfigError for a sequence that is not known."""
        if self.sequence is None:
            return split(self.env) if is_sequence(self.env) else (self.env,)
        try:
            return named(self.sequence)
        except ValueError as error:
            raise ConfigError(f"--sequence: {error}") from None

    @property
    def tasks(self) -> Tasks:
        """Which game is played when. Raises ConfigError if steps are missing, or cannot be divided by the visits."""
        if not self.is_sequence:
            return Tasks(self.games, self.budget)
        visits = len(self.games) * self.visits
        if self.task_steps is not None:
            return Tasks(self.games, self.task_steps, self.visits)
        if self.steps is None:
            raise ConfigError("--task-steps is missing: games in sequence need the agent steps of a visit")
        if self.steps % visits:
            whole = f"{len(self.games)} games and --visits {self.visits}"
            raise ConfigError(f"--steps {self.steps} cannot be divided by {whole}: give --task-steps instead")
        return Tasks(self.games, self.steps // visits, self.visits)

    @property
    def budget(self) -> int:
        """Agent steps of the whole run."""
        if self.is_sequence:
            return self.tasks.steps
        if self.frames is not None:
            return self.frames // self.rules.frame_skip
        return 100_000 if self.steps is None else self.steps

    @property
    def replay_steps(self) -> int:
        """Agent steps that the replay holds: at most the whole run; a fork keeps the replay that it takes over."""
        if self.fork_step is not None:
            return self.replay_capacity
        return min(self.replay_capacity, self.tasks.task_steps if self.task_replay == "clear" else self.budget)

    @property
    def update_period(self) -> int | None:
        """Agent steps after which the replay is empty, and updates wait, again; None: never."""
        return self.tasks.task_steps if self.is_sequence and self.task_replay == "clear" else None

    @property
    def learning_steps(self) -> int:
        """Agent steps of the run in which updates are made."""
        return self.budget - self.update_start

    @property
    def schedule_steps(self) -> int:
        """Agent steps over which the schedule runs: those of the run, or of a visit, in which updates are made."""
        whole = self.tasks.task_steps if self.task_schedule == "restart" else self.budget
        return whole - self.update_start

    @property
    def uses_nap(self) -> bool:
        """Whether NaP is among the methods, by either of its names."""
        return self.nap or "nap" in self.methods

    @property
    def projects(self) -> bool:
        """Whether a method keeps the weights' norms, so that re-warming the learning rate moves them as at first."""
        return self.uses_nap or any(method.partition(":")[0] == "hyperball" for method in self.methods)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods as they were given, each with its options; lists are split at commas, and options have some."""
        return join_options(self.plasticity)

    @property
    def resolved_schedule(self) -> str:
        """The schedule, with auto decided."""
        if self.schedule != "auto":
            return self.schedule
        return "early-cycle" if self.projects else "constant"

    @property
    def resolved_network(self) -> Any:
        """The named network that the frames need, or the chosen one; an import path stands in any case."""
        return self.network if is_own(self.network) else self.environment.network or self.network

    @property
    def steps_per_row(self) -> int:
        """Agent steps between rows of metrics."""
        return default_interval(self.budget, 100, 10, 1_000) if self.log_interval is None else self.log_interval

    @property
    def steps_per_probe(self) -> int:
        """Agent steps between measurements of the probe; 0: there are none."""
        return default_interval(self.budget, 10, 100, 10_000) if self.probe_interval is None else self.probe_interval

    def _precision(self) -> Literal["fp32", "bf16", "auto"]:
        if self.precision != "auto":
            return self.precision
        return "fp32" if self.environment.network == "minatar" else best_precision(self.device)

    def resolved(self) -> DQNConfig:
        """These settings with nothing left to one another or to the machine; a fault raises ConfigError.

        Only `compile` may still be "auto": it costs time to try, and `agents.training.compiling` does.
        """
        check(self)
        return replace(
            self,
            agent=self.agent or "dqn",
            env=resolve_game(joined(self.games)),
            sequence=None,
            task_steps=self.tasks.task_steps if self.is_sequence else None,
            protocol=self.rules.name,
            network=self.resolved_network,
            clip_rewards=self.clips_rewards,
            steps=None if self.is_sequence else self.budget,
            frames=None,
            nap=self.uses_nap,
            plasticity=tuple(method for method in self.methods if method != "nap"),
            schedule=self.resolved_schedule,
            threads=self.threads or available_cores(),
            precision=self._precision(),
            log_interval=self.steps_per_row,
            probe_interval=self.steps_per_probe,
            eval_episodes=self.rules.evaluation_episodes if self.eval_episodes is None else self.eval_episodes,
            eval_epsilon=self.rules.evaluation_epsilon if self.eval_epsilon is None else self.eval_epsilon,
        )
