"""A fleet's run from settings to results: its members are ordinary runs, with directories of their own."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.config import DQNConfig
from agents.fleet.seeds import as_text
from agents.fleet.trainer import FleetTrainer
from agents.run import AgentRun, build_trainer
from agents.training.pace import Pace
from agents.training.trainer import Trainer
from experiment.config import ConfigError
from experiment.guard import NonFinite
from experiment.interrupt import Interrupt
from experiment.progress import Progress
from experiment.run import FAILURES
from experiment.storage import checkpoint
from experiment.storage.files import to_json, write_atomic
from experiment.storage.run_dir import RunDir, find_resumed, load_settings

KEPT = 2
"""Checkpoints that a run keeps: one with fewer has its beginning to go back to."""


class FleetRun:
    """Runs of the same settings with the given seeds, ready to train together.

    Every member is an `AgentRun`: built, saved, evaluated and concluded as if it were alone. A fleet is resumed from
    the newest step of which most of its members have a checkpoint. A member that is finished, or that stopped before
    that step because it diverged, keeps its place in the stack, but not its work.
    """

    def __init__(self, config: DQNConfig, seeds: Sequence[int]) -> None:
        self.seeds = list(seeds)
        found = None if config.resume is None else find_fleet(config, self.seeds)
        if config.resume is not None and found is None:
            print(f"no unfinished fleet of these settings in {config.root!r}: a new one begins")
        directories: list[RunDir | None] = [None] * len(seeds) if found is None else list(found)
        at = common_step([directory for directory in directories if directory is not None])
        self.members = [self._member(config, *pair, at) for pair in zip(self.seeds, directories, strict=True)]
        if not (living := [member for member in self.members if member is not None]):
            raise ConfigError("every run of this fleet is finished")
        self.config = living[0].config
        if found is None:
            for member in living:
                write_atomic(member.directory.path / FILE, to_json([m.directory.path.name for m in living]) + "\n")
        trainers = [
            self._spare(seed) if member is None else member.trainer
            for seed, member in zip(self.seeds, self.members, strict=True)
        ]
        self.trainer = FleetTrainer(trainers, [member is not None for member in self.members])
        self.codes: list[int] = []

    def _member(self, config: DQNConfig, seed: int, directory: RunDir | None, at: int | None) -> AgentRun | None:
        """The run of a seed, or None if it has nothing left to do with the others."""
        trained = f"in a fleet of {len(self.seeds)}"
        if directory is None:
            name = None if config.name is None else f"{config.name}-s{seed}"
            return AgentRun(replace(config, seed=seed, name=name, resume=None), trained=trained)
        if directory.finished:
            print(f"seed {seed} is finished: {directory.result}")
            return None
        if at and at not in checkpoint.whole_steps(directory.checkpoints):
            print(f"seed {seed} stopped before agent step {at:,}, where the others are: {directory.path} is left alone")
            return None
        return AgentRun(replace(config, seed=seed, resume=str(directory.path)), at, trained)

    def _spare(self, seed: int) -> Trainer:
        """What stands in the place of a member that does not go on."""
        trainer = build_trainer(replace(self.config, seed=seed))
        trainer.open()
        return trainer

    @property
    def living(self) -> list[tuple[int, AgentRun]]:
        """The members that go on, with their places."""
        alive = zip(self.members, self.trainer.alive, strict=True)
        return [(place, member) for place, (member, lives) in enumerate(alive) if lives and member is not None]

    def train(self) -> int:
        """Train all members to the end of the budget, then evaluate each; the largest of their exit codes."""
        _, first = self.living[0]
        print(f"{first.headline()}\na fleet of the seeds {as_text(self.seeds)}, in the directories")
        print("\n".join(f"  {member.directory.path}" for _, member in self.living), flush=True)
        ends: list[Callable[[], int]] = []
        with Interrupt() as interrupt:
            if not first.finished():
                try:
                    self._train_until(interrupt)
                except FAILURES as error:  # of all members
                    return max([member.fail(error) for _, member in self.living])
            for place, member in self.living:
                self._guarded(place, lambda member=member: ends.append(self._last(member, interrupt)))  # type: ignore[misc]
        self.codes += [end() for end in ends]
        return max(self.codes)

    @staticmethod
    def _last(member: AgentRun, interrupt: Interrupt) -> Callable[[], int]:
        """Save and evaluate a member; what ends its run."""
        saved = member.save()
        whole = member.evaluated(interrupt)
        return lambda: member.end(saved, whole)

    def _train_until(self, interrupt: Interrupt) -> None:
        first = self.trainer.first
        for _, member in self.living:
            member.open()
        self.pace, pace = Pace(first), lambda: str(self.pace)
        with Progress(self.config.budget, "agent steps", start=first.agent_step, pace=pace) as progress:
            first.before_updates = lambda: None
            while self.living and not self.trainer.first.done and not interrupt.requested:
                before = self.trainer.first.agent_step
                self.trainer.step()
                for place, member in self.living:
                    self._guarded(place, lambda place=place, member=member: self._report(place, member, before))  # type: ignore[misc]
                if self.living:
                    self.pace.note()
                    progress.update(self.trainer.first.agent_step, self.live_metrics)

    def _report(self, place: int, member: AgentRun, before: int) -> None:
        for row in self.trainer.rows(place):
            member.tracker.log(row)
        if member.saves_after(before):
            member.save()

    def _guarded(self, place: int, work: Callable[[], object]) -> None:
        """Do something of one member, whose failure ends that member alone."""
        member = self.members[place]
        assert member is not None
        try:
            work()
        except FAILURES as error:
            print(f"seed {self.seeds[place]}: ", end="", flush=True)
            self.codes.append(member.fail(error))
            self.trainer.alive[place] = False

    def live_metrics(self) -> dict[str, str]:
        """The metrics of the live view: the means over the members."""
        trainers = [member.trainer for _, member in self.living]
        first, returns = trainers[0], [np.mean(trainer.returns) for trainer in trainers if trainer.returns]
        spread = f"{np.mean(returns):.1f} ({min(returns):.1f} to {max(returns):.1f})" if returns else "-"
        return {
            "seeds": f"{len(trainers)}",
            "updates": f"{first.updates:,} each",
            "updates/s": f"{self.pace.updates_per_second * len(trainers):.1f} in all",
            "return": spread,
            "epsilon": f"{first.epsilon:.3f}",
            "lr": f"{float(first.agent.optimizer.param_groups[0]['lr']):.2e}",
        }


FILE = "fleet.json"
"""The names of all directories of a fleet, in each of them."""


def find_fleet(config: DQNConfig, seeds: Sequence[int]) -> list[RunDir] | None:
    """The directories of the fleet that `config.resume` means; None if "auto" finds none.

    Raises ConfigError for a run that was not trained in a fleet, or in one of other seeds.
    """
    if config.resume != "auto":
        start: RunDir | None = RunDir.open(str(config.resume))
    else:
        names = [None if config.name is None else f"{config.name}-s{seed}" for seed in seeds]
        asked = (replace(config, seed=seed, name=name) for seed, name in zip(seeds, names, strict=True))
        found = (find_resumed(one) for one in asked)
        start = next((run for run in found if run is not None and (run.path / FILE).is_file()), None)
    if start is None:
        return None
    try:
        names_there = json.loads((start.path / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(f"{str(start.path)!r} is no run of a fleet: resume it without --seeds") from None
    runs = [RunDir.open(start.path.parent / name) for name in names_there]
    there = [load_settings(DQNConfig, run).seed for run in runs]
    if there != list(seeds):
        raise ConfigError(f"the fleet of {str(start.path)!r} has the seeds {as_text(there)}: give --seeds {as_text(there)}")
    return runs


def common_step(directories: Sequence[RunDir]) -> int | None:
    """The newest step of which most of the unfinished runs have a checkpoint; 0: they begin again; None: none goes on.

    Members are saved one after another, so a crash may leave some of them a checkpoint ahead.
    """
    steps = [checkpoint.whole_steps(run.checkpoints) for run in directories if not run.finished]
    votes = Counter(step for own in steps for step in (own if len(own) >= KEPT else [*own, 0]))
    return max(votes, key=lambda step: (votes[step], step)) if votes else None
