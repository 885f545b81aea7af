"""Runs of agents, as a sweep sees them: their settings, score, and what they take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from agents.cli import settings
from agents.config import DQNConfig
from agents.names import STACK
from envs.games import human_normalized, reference_scores
from experiment.command_line import shell
from experiment.config import ConfigError
from experiment.fork_settings import Planned
from experiment.storage.run_dir import RunDir
from experiment.sweeps.gpus import FIXED
from experiment.sweeps.manifest import Entry
from experiment.sweeps.workload import RunKind, Workload

UPDATE = 10
"""About how many agent steps take as long as one update. Only for arms that were not measured yet."""
FRAME = 84 * 84
PER_TRANSITION = 2**20
"""Bytes of a transition's activations in a block, both passes."""


class AgentRuns(RunKind[DQNConfig]):
    """Runs of `python -m agents.dqn` and its kin."""

    command, report, config_class = "benchmarks.atari", "benchmarks.report", DQNConfig
    axes = frozenset({"env", "seed"})
    lengths = frozenset({"steps", "frames", "update_start", "task_steps", "visits"})
    step, metric, score, scale = "agent_step", "mean_return", "return", "human-normalised"

    def settings(self, entry: Entry) -> DQNConfig:
        argv = entry.command[3:]
        if "--agent" not in argv[:1]:
            raise ConfigError(f"run {entry.name!r} is of another version: its command is {shell(*entry.command)}")
        if entry.source is None or entry.fork_step is None:
            return settings(argv[1], argv)
        return settings(argv[1], argv, Planned(self.settings(entry.source), entry.fork_step))

    def check_start(self, entry: Entry, here: bool) -> None:
        super().check_start(entry, here)
        from agents.start import check_start  # with torch

        check_start(self.settings(entry), None if entry.source is None else self.settings(entry.source), here)

    def workload(self, config: DQNConfig) -> Workload:
        replay = config.replay_steps * FRAME * 1.05
        need = FIXED + replay + config.block * config.batch_size * PER_TRANSITION
        cost = UPDATE * float(config.utd)
        return Workload(config.budget, config.update_start, cost, need, config.fork_step or 0)

    def outcome(self, result: Mapping[str, Any]) -> tuple[float | None, int, float]:
        score = float(result["score"]["mean"]) if result["score"] else mean_area(result)
        return score, int(result["agent_steps"]), float(result["seconds"]["training"])

    def columns(self, result: Mapping[str, Any], run: RunDir) -> dict[str, str]:
        rules = {"protocol": str(result["protocol"]["name"])}
        if "visits" in result:
            from benchmarks.report.visits import cells, visits_of  # with numpy

            games = {"games": str(result["protocol"]["evaluation_episodes"]), "kind": "visits"}
            return rules | games | cells(visits_of(result, run), result.get("alarms"))
        return rules | {"games": str(result["score"]["episodes"]), "kind": "evaluation"}

    def short(self, config: DQNConfig, updates: int) -> list[str]:
        part = part_length(config, updates)
        steps = {"task-steps": 4 * part, "visits": 1} if config.is_sequence else {"steps": 4 * part, "frames": "none"}
        options = steps | {
            "update-start": 2 * part, "log-interval": part,
            "schedule": "constant", "probe-interval": 0, "checkpoint-interval": 0, "eval-episodes": 0,
            "epsilon-steps": 0,  # the network acts as in most of a run, and what computes that is compiled at once
        }  # fmt: skip
        return [arg for name, value in options.items() for arg in (f"--{name}", str(value))]

    def is_timed(self, config: DQNConfig, row: Mapping[str, Any]) -> bool:
        """Of games in sequence the first one alone: the others begin with updates."""
        return super().is_timed(config, row) and row.get("task", config.games[0]) == config.games[0]

    def fleet_refusal(self, config: DQNConfig) -> str:
        from agents.fleet.run import refusal  # torch is imported for arms that may train in fleets alone

        return refusal(config)

    def fleet_rule(self, config: DQNConfig) -> tuple[bool, str]:
        if config.network.partition(":")[0] == "minatar":
            return True, "MinAtar's network is faster so on a CPU"
        return False, "of the networks only MinAtar's is known to be faster in fleets"

    def rank(self, entry: Entry, score: float) -> float | None:
        return human_normalized(entry.task, score) if entry.task in reference_scores() else None


class SequenceRuns(AgentRuns):
    """The same of games in sequence, whose score is the mean return in training."""

    command, report = "benchmarks.continual", "benchmarks.continual --figure"
    score = "mean return"


class ScheduleRuns(AgentRuns):
    """Runs of the study of schedules; a list of them holds their curves too."""

    command, report = "benchmarks.high_utd", "benchmarks.high_utd --figure"

    def columns(self, result: Mapping[str, Any], run: RunDir) -> dict[str, str]:
        from benchmarks.report.recorded import cells  # with numpy

        return super().columns(result, run) | cells(run)


def mean_area(result: Mapping[str, Any]) -> float | None:
    """The mean of the visits' areas in a result of games in sequence, over those that have one; None if none has."""
    areas = [float(visit["area"]) for visit in result.get("visits", ()) if visit["area"] is not None]
    return math.fsum(areas) / len(areas) if areas else None


def part_length(config: DQNConfig, updates: int) -> int:
    """Agent steps in each quarter of a short run: two of play alone, and two that share the updates."""
    window = max(config.n_step, config.n_step_final or 0) + STACK + 1
    rows = math.ceil(updates / 2 / config.utd / config.num_envs)
    ready = math.ceil((window + math.ceil(config.batch_size / config.num_envs)) / 2)
    return config.num_envs * max(rows, ready)


KIND = AgentRuns()
SEQUENCES = SequenceRuns()
SCHEDULES = ScheduleRuns()
