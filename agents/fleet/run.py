"""A fleet's run from settings to results: its members are ordinary runs, with directories of their own."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch

from agents import run as single
from agents.config import DQNConfig
from agents.fleet.group import Group
from agents.fleet.learner import FleetLearner
from agents.run import AgentRun
from agents.training.pace import Pace
from agents.training.trainer import Trainer
from experiment.config import ConfigError
from experiment.determinism import rng_state, set_rng_state
from experiment.failure import FAILURES
from experiment.interrupt import Interrupt
from experiment.layout import configure_compiler
from experiment.progress import Progress
from experiment.seeds import as_text
from experiment.storage import checkpoint
from experiment.storage.files import to_json, write_atomic
from experiment.storage.run_dir import RunDir, find_resumed, load_settings

CHUNK_SECONDS = 1.0
"""How long groups step by themselves, about, before they wait for one another."""
KEPT = 2
"""Checkpoints that a run keeps: one with fewer has its beginning to go back to."""


class FleetRun:
    """Runs of the same settings with the given seeds, ready to train together.

    Every member is an `AgentRun`: built, saved, evaluated and concluded as if it were alone. A fleet is resumed from
    the newest step of which its members have checkpoints. A member that is finished, that stopped before that step
    because it diverged, or that was resumed alone, keeps its place in the stack, but not its work. If a fleet cannot
    begin, nothing is left of it.
    """

    def __init__(self, config: DQNConfig, seeds: Sequence[int]) -> None:
        self.seeds = list(seeds)
        found = None if config.resume is None else find_fleet(config, self.seeds)
        if config.resume is not None and found is None:
            print(f"no unfinished fleet of these settings in {config.root!r}: a new one begins")
        if found is None:
            check_kept(config)
        with ExitStack() as undo:
            self.members = self._members(config, found, undo)
            if not (living := [member for member in self.members if member is not None]):
                raise ConfigError("every run of this fleet is finished, or goes on alone")
            self.config = living[0].config
            self.groups = [self._group(places) for places in self._places()]
            names = to_json([run.path.name for run in found or (member.directory for member in living)]) + "\n"
            for member in living:
                member.command += f" --seeds {as_text(seeds)}"
                if not member.directory.fleet.is_file():
                    write_atomic(member.directory.fleet, names)
            undo.pop_all()

    def _members(self, config: DQNConfig, found: list[RunDir] | None, undo: ExitStack) -> list[AgentRun | None]:
        """The run of each seed, at the step from which all can go on; `undo` takes back what is opened and made."""
        directories = [None] * len(self.seeds) if found is None else found

        def newest() -> int | None:
            return common_step([directory for directory in found or () if is_member(directory)])

        while True:
            at = newest()
            members: list[AgentRun | None] = []
            try:
                for seed, directory in zip(self.seeds, directories, strict=True):
                    members.append(self._member(config, seed, directory, at))
                    undo.callback(_take_back, members[-1])
            except ConfigError:
                if at == newest():
                    raise
                undo.close()  # a checkpoint was found to be damaged: they go on from the one before
            else:
                return members

    def _places(self) -> list[list[int]]:
        """The places of the members that each thread trains: as even as can be, on a GPU all in one."""
        threads = 1 if self.config.device != "cpu" else min(self.config.threads, len(self.seeds))
        return [part.tolist() for part in np.array_split(np.arange(len(self.seeds)), threads)]

    def _group(self, places: Sequence[int]) -> Group:
        return Group([self.members[place] for place in places], lambda place: self._spare(self.seeds[places[place]]))

    def _member(self, config: DQNConfig, seed: int, directory: RunDir | None, at: int | None) -> AgentRun | None:
        """The run of a seed, or None if it has nothing left to do with the others."""
        trained = f"in a fleet of {len(self.seeds)}"
        if directory is None:
            name = None if config.name is None else f"{config.name}-s{seed}"
            own = replace(config, seed=seed, name=name)
            if name is not None and (begun := find_resumed(own)) is not None and not (begun.steps() or begun.finished):
                return AgentRun(replace(own, resume=str(begun.path)), 0, trained)  # killed before all had directories
            return AgentRun(replace(own, resume=None), trained=trained)
        if directory.finished:
            print(f"seed {seed} is finished: {directory.result}")
            return None
        if not is_member(directory):
            print(f"seed {seed} goes on alone, as it has before: {directory.path}")
            return None
        if at and at not in checkpoint.whole_steps(directory.checkpoints):
            print(f"seed {seed} stopped before agent step {at:,}, where the others are: {directory.path} is left alone")
            return None
        return AgentRun(replace(config, seed=seed, resume=str(directory.path)), at, trained)

    def _spare(self, seed: int) -> Trainer:
        """What stands in the place of a member that does not go on."""
        kept = rng_state()
        trainer = single.build_trainer(replace(self.config, seed=seed))
        fellow = next(member for member in self.members if member is not None)
        trainer.agent.load_state_dict(deepcopy(fellow.trainer.agent.state_dict()))  # as many updates as the others
        trainer.open()
        set_rng_state(kept)
        return trainer

    @property
    def living(self) -> list[AgentRun]:
        """The members that go on."""
        return [run for group in self.groups for _, run in group.living]

    def train(self) -> int:
        """Train all members to the end of the budget, then evaluate each; the largest of their exit codes."""
        print(f"{self.living[0].headline()}\na fleet of the seeds {as_text(self.seeds)}, in the directories")
        print("\n".join(f"  {run.directory.path}" for run in self.living), flush=True)
        ends: list[Callable[[], int]] = []
        with Interrupt() as interrupt:
            try:
                self._train_until(interrupt)
            except FAILURES as error:  # of all members
                for group in self.groups:
                    group.fail(error)
            for group in self.groups:
                ends += group.conclude(interrupt)
        failures = [failure for group in self.groups for failure in group.failures]
        code = max([end() for end in ends] + [1 for _ in failures])
        if len(ends) + len(failures) > 1 and failures:  # once more in short, after all that the others said
            print(f"error: {'; '.join(failures)}", file=sys.stderr)
        return code

    def _train_until(self, interrupt: Interrupt) -> None:
        """Let each group step on a thread of its own: one computes while another plays.

        Groups wait for one another now and then, so that they stop, and have their checkpoints, at the same steps.
        """
        first = self.groups[0].trainer.first
        if first.done:
            return
        for group in self.groups:
            group.open()
        self.pace, pace = Pace(first), lambda: str(self.pace)
        progress = Progress(self.config.budget, "agent steps", start=first.agent_step, pace=pace)
        with progress, ThreadPoolExecutor(len(self.groups), initializer=on_one_thread) as pool:
            chunk, before = 1, first.updates
            while self.living and not self.living[0].finished() and not interrupt.requested:
                if any(run.awaits_score for run in self.living):
                    self._score_visits(pool, interrupt)
                    continue
                stop, began = self._stop_after(chunk), time.monotonic()
                steps = []
                for group in self.groups:
                    steps.append(pool.submit(group.run_until, lambda trainer: trainer.agent_step < stop))  # noqa: B023
                    if first.updates == before:  # the second group finds compiled what the first has compiled
                        steps[-1].result()
                for step in steps:
                    step.result()
                chunk = max(1, round(chunk * min(2.0, CHUNK_SECONDS / max(time.monotonic() - began, 1e-6))))
                self.pace.note()
                if self.living and self.living[0].trainer is not first:  # it has stopped, and its counts with it
                    first = self.living[0].trainer
                    self.pace = Pace(first)
                if self.living:
                    progress.update(self.living[0].step, self.live_metrics)

    def _stop_after(self, chunk: int) -> int:
        """So many steps from here, but no further than the next checkpoint: no group gets two of them ahead.

        Nor beyond the end of a visit, where the games of its score come first.
        """
        step, interval = self.living[0].step, self.config.checkpoint_interval
        ends = [asked for asked in self.living[0].kept_steps if asked > step]
        ends += [(step // period + 1) * period for period in (interval, self.config.tasks.task_steps) if period]
        return min([step + chunk, *ends])

    def _score_visits(self, pool: ThreadPoolExecutor, interrupt: Interrupt) -> None:
        """Let each group play the games of the score of a visit that is over; all wait until the last is done."""
        for played in [pool.submit(group.score_visits, interrupt) for group in self.groups]:
            played.result()
        self.pace.go_on()

    def live_metrics(self) -> dict[str, str]:
        """The metrics of the live view: the means over the members that go on; none if none does."""
        if not (trainers := [run.trainer for run in self.living]):
            return {}
        first, returns = trainers[0], [np.mean(trainer.returns) for trainer in trainers if trainer.returns]
        spread = f"{np.mean(returns):.1f} ({min(returns):.1f} to {max(returns):.1f})" if returns else "-"
        return {
            "seeds": f"{len(trainers)}",
            "updates": f"{first.agent.updates:,} each",
            "updates/s": f"{self.pace.updates_per_second * len(trainers):.1f} in all",
            "return": spread,
            "epsilon": f"{first.epsilon:.3f}",
            "lr": f"{float(first.agent.optimizer.param_groups[0]['lr']):.2e}",
        }


def refusal(config: DQNConfig) -> str:
    """Why a fleet refuses settings, in one line, or "": two agents are stacked."""
    try:
        check_kept(config)
        FleetLearner([single.bare_agent(replace(config, device="cpu")) for _ in range(2)])
    except ConfigError as error:
        return str(error).removeprefix("--seeds: ")
    return ""


def on_one_thread() -> None:
    """Let torch compute on one thread here, as `configure` and `compiled` let it otherwise: threads have settings."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    configure_compiler()


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
        start = next((run for run in found if run is not None and run.fleet.is_file()), None)
    if start is None:
        return None
    if not (runs := start.fellows()):
        raise ConfigError(f"{str(start.path)!r} is no run of a fleet: resume it without --seeds")
    if gone := [str(run.path) for run in runs if not run.config.is_file()]:
        raise ConfigError(
            f"{gone[0]!r}, a run of the fleet of {str(start.path)!r}, is gone: "
            "resume the others one by one, without --seeds"
        )
    there = [load_settings(DQNConfig, run).seed for run in runs]
    if there != list(seeds):
        raise ConfigError(
            f"the fleet of {str(start.path)!r} has the seeds {as_text(there)}: give --seeds {as_text(there)}"
        )
    return runs


def is_member(directory: RunDir) -> bool:
    """Whether a run of a fleet still goes on in it: the first checkpoint of one that goes on alone ends that."""
    return directory.fleet.is_file() or not directory.has_checkpoint()


def common_step(directories: Sequence[RunDir]) -> int | None:
    """The step that the unfinished runs go on from; 0: they begin again; None: none goes on.

    It is that of one of the two newest checkpoints of the run that has come furthest: of the one that more runs have.
    Members are saved one after another, so a crash may leave some of them a checkpoint ahead. Members that diverged
    before are behind, however many they are.
    """
    steps = [checkpoint.whole_steps(run.checkpoints) for run in directories if not run.finished]
    steps = [own if len(own) >= KEPT else [*own, 0] for own in steps]
    furthest = max(steps, default=[])[:KEPT]
    return max(furthest, key=lambda step: (sum(step in own for own in steps), step), default=None)


def check_kept(config: DQNConfig) -> None:
    """Raises ConfigError for settings with which a crash amid its saves could leave a fleet no common step."""
    if config.keep_checkpoints != "every" and config.keep_checkpoints < KEPT:
        raise ConfigError(f"--seeds: a fleet keeps {KEPT} checkpoints or more: leave out --keep-checkpoints 1")


def _take_back(member: AgentRun | None) -> None:
    """Closes a run that does not begin, and removes its directory if it has made it."""
    if member is not None:
        member.tracker.close()
        if member.resumed is None:
            shutil.rmtree(member.directory.path, ignore_errors=True)
            member.directory.unlock()
