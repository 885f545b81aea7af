"""Which runs of a sweep train together, seeds of one arm and task in one process, and why.

    --fleet, what the settings allow, what was measured or else a rule -> the arms whose seeds are packed
    what is begun on disk -> runs that go on as they began, and seeds that are new
    processes             -> fleets, as large as can be while every process has work

A fleet is a job like any other: one process on one core, or one task of a cluster, and its members are ordinary runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiment.storage.run_dir import RunDir
from experiment.sweeps.calibration import Memory, Pace
from experiment.sweeps.job import FleetJob, Job
from experiment.sweeps.manifest import Entry
from experiment.sweeps.workload import RunKind

Mode = Literal["auto", "on", "off"]


class Choice(NamedTuple):
    """Whether the seeds of an arm train together, why, and the pace of a run then, if it was measured."""

    fleets: bool
    why: str
    pace: Pace | None = None

    def __str__(self) -> str:
        return f"{'fleets' if self.fleets else 'single runs'}: {self.why}"


class Packing:
    """Makes the jobs of a sweep. `device` is that of the sweep, on a GPU all are single runs."""

    def __init__(self, kind: RunKind, root: Path, mode: Mode, device: str) -> None:
        self.kind, self.root, self.device = kind, root, device
        self.mode: Mode = mode if device == "cpu" else "off"
        self.memory = Memory(kind, device)
        self._refusals: dict[str, str] = {}

    def refusal(self, entry: Entry, config: Any) -> str:
        """Why the runs of an arm cannot train together, or "" if they can."""
        if entry.source is not None:
            return "a fork has the seed of its run"
        if (key := entry.config_hash) not in self._refusals:
            self._refusals[key] = self.kind.fleet_refusal(config)
        return self._refusals[key]

    def choice(self, entry: Entry) -> Choice:
        """Whether the runs of an arm train together. Only settings for which that may pay are tried out."""
        if self.mode == "off":
            return Choice(False, "--fleet off")
        config = self.kind.settings(entry)
        single, fleet = self.memory.recall(config), self.memory.recall(config, fleet=True)
        if self.mode == "on":
            pays, why = True, "--fleet on"
        elif single is None or fleet is None:
            pays, why = self.kind.fleet_rule(config)
            why += "; --dry-run --calibrate measures it"
        else:
            workload = self.kind.workload(config)
            times = single.seconds(workload) / max(fleet.seconds(workload), 1e-9)
            pays, why = times > 1, f"{times:.1f} times as fast with {fleet.members} seeds, {fleet.source}"
        known = entry.source is not None or entry.config_hash in self._refusals
        if (pays or known) and (refusal := self.refusal(entry, config)):
            return Choice(False, refusal)
        return Choice(pays, why, fleet if pays else None)

    def seeds(self, same: Sequence[Entry], processes: int | None) -> list[int]:
        """Seeds of a fleet that the runs of an arm may make; none if they cannot train together."""
        tasks = [entry.task for entry in same]
        seeds = [entry.seed for entry in same if entry.task == tasks[0]]
        if self.mode == "off" or len(seeds) < 2 or self.refusal(same[0], self.kind.settings(same[0])):
            return []
        return _parts(seeds, processes or 1, len(set(tasks)))[0]

    def lines(self, entries: Iterable[Entry], fleets_only: bool = False) -> Iterator[str]:
        """How the arms that have several seeds train, and why: a line for all that have it in common."""
        arms: dict[str, list[Entry]] = {}
        for entry in entries:
            arms.setdefault(entry.config_hash, []).append(entry)
        common: dict[Choice, list[str]] = {}
        for same in arms.values():
            if self.mode != "off" and len({entry.seed for entry in same}) > 1:
                common.setdefault(self.choice(same[0]), []).append(same[0].arm)
        for choice, names in common.items():
            names = list(dict.fromkeys(names))
            if choice.fleets or not fleets_only:
                yield f"arm{'s' * (len(names) > 1)} {', '.join(names)}: {choice}"

    def jobs(self, entries: Sequence[Entry], processes: int | None, options: tuple[str, ...] = ()) -> list[Job]:
        """What a sweep starts. `options` are those of every run that may change when it is resumed."""
        parties = self._parties(entries)
        made: dict[tuple[str, ...], list[Job]] = {}
        for (kind, *names), party in parties.items():
            if kind != "new":
                seeds = [int(name.rpartition("-s")[2]) for name in names] if kind == "begun" else [party[0].seed]
                made[kind, *names] = [self._job(party, seeds, options)]
        unmade = [key for key in parties if key not in made]
        idle = (processes or 1) - sum(job.is_ready() and bool(job.left()) for (job,) in made.values())
        for key in unmade:
            parts = _parts(parties[key], idle, len(unmade))
            made[key] = [self._job(part, [entry.seed for entry in part], options) for part in parts]
        return [job for key in parties for job in made[key]]

    def _parties(self, entries: Sequence[Entry]) -> dict[tuple[str, ...], list[Entry]]:
        """The runs, grouped: each ("alone", its name), or those ("begun", the names) or ("new", the arm, the task)."""
        begun = self._begun(entries)
        new = [entry for entry in entries if entry.name not in begun and self._may_join(entry)]
        first = {entry.config_hash: entry for entry in reversed(new)}
        packed = {key for key, entry in first.items() if self.choice(entry).fleets}
        joining = {entry.name for entry in new if entry.config_hash in packed}
        parties: dict[tuple[str, ...], list[Entry]] = {}
        for entry in entries:
            if entry.name in begun:
                key = ("begun", *begun[entry.name])
            elif entry.name in joining:
                key = ("new", entry.arm, entry.task)
            else:
                key = ("alone", entry.name)
            parties.setdefault(key, []).append(entry)
        return parties

    def _may_join(self, entry: Entry) -> bool:
        """Whether a run begins, or begins again, with nothing that keeps it from a fleet but its settings."""
        if self.mode == "off" or entry.source is not None:
            return False
        job = entry.job(self.root)
        return job.state() in ("new", "leftover") and not job.is_running()

    def _begun(self, entries: Sequence[Entry]) -> dict[str, list[str]]:
        """By the names of runs without a result that began together and can go on so: the names of the fleet's runs."""
        names = {entry.name for entry in entries}
        there = names.intersection(os.listdir(self.root)) if self.mode != "off" and self.root.is_dir() else set()
        found: dict[str, list[str]] = {}
        for entry in entries:
            run = RunDir(self.root / entry.name)
            if entry.name not in there or run.finished or not (runs := run.fellows()):
                continue
            fellows = [each.path.name for each in runs]
            like = re.compile(re.escape(entry.name.removesuffix(f"-s{entry.seed}")) + r"-s\d+")
            whole = all(like.fullmatch(each.path.name) and each.config.is_file() for each in runs)
            if whole and (any(each.has_checkpoint() for each in runs) or names.issuperset(fellows)):
                found[entry.name] = fellows
        return found

    def _job(self, party: Sequence[Entry], seeds: Sequence[int], options: tuple[str, ...]) -> Job:
        """The job of a fleet of these seeds in which these runs go on; with one seed it is a run."""
        members = tuple(entry.job(self.root, options) for entry in party)
        if len(seeds) < 2:
            return members[0]
        command = party[0].fleet_command(seeds)
        text, name = (command[command.index(option) + 1] for option in ("--seeds", "--name"))
        resume = (*members[0].resume, "--seeds", text)
        names = tuple(f"{name}-s{seed}" for seed in seeds)
        return FleetJob(f"{name}-s{text}", command, members[0].directory, resume, members=members, names=names)


def _parts(party: list[Any], processes: int, parties: int) -> list[list[Any]]:
    """One of some parties in parts, of two or more, as few as give every process one."""
    count = max(1, min(-(-processes // parties), len(party) // 2))
    ends = [number * len(party) // count for number in range(count + 1)]
    return [party[begin:end] for begin, end in pairwise(ends)]
