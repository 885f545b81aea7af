"""The comparison of a folder of runs: arms, gaps to the runs that had all data from the start, and their table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import permutations, product
from statistics import fmean
from typing import Any

from experiment.results import Row
from experiment.setting import learning
from experiment.statistics import t_interval
from experiment.tables import csv_table, markdown_table, with_bounds
from experiment.values import counted
from studies.records import FinishedRun
from studies.warm_start.config import CLOSED_LOOP, WarmStartConfig
from studies.warm_start.suites import SUITES

Run = FinishedRun[WarmStartConfig]
Arms = Mapping[str, Sequence[Run]]
"""Finished runs that differ in the seed alone, by the name of their arm."""

TASK = (
    "dataset", "protocol", "phase_updates", "augment", "network", "width", "hidden", "strides", "norm_over",
    "batch_size", "precision",
)  # fmt: skip
"""Settings that a run shares with its reference."""
NORMS = {"space": "norms over space", "channels": "norms over channels alone", "none": "no norms"}
NAP = ("nap", "nap_every", "nap_affine")
COMPARED_WITH = {"cusum": ("headline", ("nap-from10", "nap-from100"))}
"""Suites whose reference arms are in another suite, in the folder next to theirs."""


def reference(arm: str, arms: Arms) -> str | None:
    """The reference of an arm's gap: an arm of the same task that had all data from the start.

    None for an arm that had all data itself. The first choice differs only in the share of the data, as nap-from100
    from nap-from10. Otherwise arms with the same projection come first, then arms without projection; among equals the
    arm that differs in the fewest settings, then the first.
    """
    own = arms[arm][0].config
    if own.fraction == 1:
        return None
    others = {name: members[0].config for name, members in arms.items() if members[0].config.fraction == 1}
    fitting = {
        name: differences(own, other) - {"fraction"}
        for name, other in others.items()
        if not differences(own, other) & set(TASK) and (other.nap == own.nap or not other.nap)
    }
    return min(fitting, key=lambda name: (others[name].nap != own.nap, len(fitting[name])), default=None)


def differences(one: WarmStartConfig, other: WarmStartConfig) -> set[str]:
    """Learning settings in which two runs differ, without the seed."""
    there = learning(other)
    return {name for name, value in learning(one).items() if name != "seed" and there[name] != value}


def gaps(arm: str, arms: Arms) -> dict[int, float]:
    """For each seed that both have: final test accuracy of the reference minus that of the arm, in points."""
    against = reference(arm, arms)
    if against is None:
        return {}
    best, own = (_by_seed(arms[name]) for name in (against, arm))
    return {seed: 100 * (final(best[seed]) - final(own[seed])) for seed in own if seed in best}


def contrasts(arms: Arms) -> list[tuple[str, str, list[float]]]:
    """Pairs of arms that differ in one property, and for each seed the difference of their gaps.

    A free arm, with or without norms, is paired with the projected one if each has a reference that differs only in the
    share of the data. A schedule that does not know the switch is paired with the aligned one of the same reference.
    """
    found = []
    for one, other in permutations(arms, 2):
        if _contrasted(one, other, arms):
            first, second = gaps(one, arms), gaps(other, arms)
            found.append((one, other, [first[seed] - second[seed] for seed in first if seed in second]))
    return [(one, other, paired) for one, other, paired in found if paired]


def _contrasted(one: str, other: str, arms: Arms) -> bool:
    first, second = arms[one][0].config, arms[other][0].config
    differing = differences(first, second)
    if first.schedule in CLOSED_LOOP and second.schedule == "cyclic":
        return differing == {"schedule"} and reference(one, arms) == reference(other, arms)
    bare = {"norm_over"} if first.norm_over == "none" else set()
    alike = second.nap and not first.nap and differing <= {*NAP, *bare}
    return alike and all(_has_own_reference(arm, arms) for arm in (one, other))


def _has_own_reference(arm: str, arms: Arms) -> bool:
    against = reference(arm, arms)
    return against is not None and differences(arms[arm][0].config, arms[against][0].config) == {"fraction"}


def final(run: Run) -> float:
    """Test accuracy at the end."""
    return _result(run)["final_test_accuracy"]


def _result(run: Run) -> Row:
    assert run.result is not None, "only finished runs are compared"
    return run.result


def _by_seed(members: Sequence[Run]) -> dict[int, Run]:
    return {run.config.seed: run for run in members}


@dataclass(frozen=True)
class Column:
    """A column of the table: its title, how a number is written, and the values of an arm, one for each seed."""

    title: str
    number: str
    values: Callable[[str, Arms], list[float]]


def columns(arms: Arms) -> list[Column]:
    """The columns of the table; with more than two phases also the mean over their ends."""
    phases = max(run.config.phases for members in arms.values() for run in members)
    between = [Column("mean over phases", ".3f", _per_run(_mean_over_phases))]
    return [
        Column("after phase 1", ".3f", _per_run(lambda result: result["phase_accuracy"][0])),
        *(between if phases > 2 else []),
        Column("final", ".3f", _per_run(lambda result: result["final_test_accuracy"])),
        Column("gap (points)", ".1f", lambda arm, arms: list(gaps(arm, arms).values())),
        Column("seconds", ",.0f", _per_run(lambda result: result["seconds"]["training"])),
    ]


def _mean_over_phases(result: Row) -> float | None:
    ends = result["phase_accuracy"]
    return None if None in ends else fmean(ends)


def _per_run(value: Callable[[Row], float | None]) -> Callable[[str, Arms], list[float]]:
    """The values of an arm's runs; a fork has none for what came before it."""

    def values(arm: str, arms: Arms) -> list[float]:
        return [found for run in arms[arm] if (found := value(_result(run))) is not None]

    return values


def shown(values: Sequence[float], number: str) -> str:
    """Mean and 95% Student-t interval as "0.746 [0.740, 0.752]"; of one value itself, of none "-"."""
    if not values:
        return "-"
    return with_bounds(t_interval(values), lambda bound: format(bound, f"z{number}"))


def markdown(suite: str, arms: Arms) -> str:
    """The table of a suite: the task, what is missing, a row for each arm, the contrasts, alarms."""
    head = ["arm", "n", *(column.title for column in columns(arms)), "gap to"]
    rows = [[arm, str(len(arms[arm])), *_cells(arm, arms), _reference_cell(arm, arms)] for arm in arms]
    notes = [_intervals_note(arms), _gap_note(arms), *_contrast_notes(arms), *_alarm_notes(arms)]
    first = f"{described(arms)}; missing: {missing(suite, arms) or 'nothing'}"
    return "\n".join([first, "", markdown_table(head, rows), *(f"- {note}" for note in notes), ""])


def _reference_cell(arm: str, arms: Arms) -> str:
    """The reference and, in brackets, its other settings that differ, besides the share of the data."""
    if (other := reference(arm, arms)) is None:
        return "-"
    more = differences(arms[arm][0].config, arms[other][0].config) - {"fraction"}
    names = [field.name for field in fields(WarmStartConfig) if field.name in more]
    return f"{other} ({', '.join(names)})" if names else other


def _cells(arm: str, arms: Arms) -> list[str]:
    """The arm's intervals. An interval of fewer seeds than the arm has states their number."""
    found = [(column, column.values(arm, arms)) for column in columns(arms)]
    counts = [f" (n={len(values)})" * (0 < len(values) < len(arms[arm])) for _, values in found]
    return [shown(values, column.number) + count for (column, values), count in zip(found, counts, strict=True)]


def table_csv(arms: Arms) -> str:
    """The table's numbers and the contrasts: how many values, their mean, and the bounds of its interval."""
    found = [(arm, column.title, column.values(arm, arms)) for arm in arms for column in columns(arms)]
    found += [(free, f"gap less that of {projected} (points)", values) for free, projected, values in contrasts(arms)]
    rows = [[arm, title, len(values), *map(_six_digits, t_interval(values))] for arm, title, values in found if values]
    return csv_table(["arm", "metric", "n", "mean", "low", "high"], rows)


def _six_digits(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.6g}"


def runs_csv(arms: Arms) -> str:
    """A line for each run: the table's data, for other statistics."""
    header = ["arm", "seed", "phase_accuracy", "final_test_accuracy", "switches", "alarms", "seconds"]
    return csv_table(header, [[arm, *_run_cells(run)] for arm, members in arms.items() for run in members])


def _run_cells(run: Run) -> list[Any]:
    result = _result(run)
    phases, switches, alarms = (
        " ".join("-" if value is None else str(value) for value in result.get(name) or [])
        for name in ("phase_accuracy", "switches", "alarms")
    )
    return [run.config.seed, phases, final(run), switches, alarms, f"{result['seconds']['training']:.0f}"]


def described(arms: Arms) -> str:
    """Data, protocol, updates and network."""
    runs = [run for members in arms.values() for run in members]
    configs = [run.config for run in runs]
    data, protocol = _each(_result(run)["data"] for run in runs), _each(config.protocol for config in configs)
    lengths, network = _each(map(_updates, configs)), _each(map(_network, configs))
    norms = _each(NORMS[config.norm_over] for config in configs)
    return f"{data}, {protocol}: {lengths}, {network}" + (f", {norms}" if norms != NORMS["space"] else "")


def _each(texts: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(texts))


def _updates(config: WarmStartConfig) -> str:
    most = "at most " if config.protocol == "ash50" else ""
    updates, images = counted(config.phase_updates or 0, "update"), counted(config.batch_size, "image")
    return f"{most}{config.phases} × {updates} of {images}"


def _network(config: WarmStartConfig) -> str:
    more = f", hidden {config.hidden}, strides {' '.join(config.strides)}" if config.network == "cnn" else ""
    return f"{config.network} (width {config.width}{more})" + (", augmented" if config.augment else "")


def missing(suite: str, arms: Arms, whole_arms: bool = True) -> str:
    """Unfinished runs of the suite; for an unknown suite, the seeds that other arms have.

    whole_arms: whether to name arms without any run. A figure does not show them and does not name them.
    """
    there = [(arm, run.config.seed) for arm, members in arms.items() for run in members]
    wanted = planned(suite) or list(product(arms, sorted({seed for _, seed in there})))
    whole = [arm for arm in dict.fromkeys(arm for arm, _ in wanted) if arm not in arms]
    parts = [f"all of {', '.join(whole)}"] * bool(whole and whole_arms)
    lacking: dict[tuple[str, ...], list[str]] = {}
    for arm in arms:
        if seeds := tuple(str(seed) for name, seed in wanted if name == arm and (arm, seed) not in there):
            lacking.setdefault(seeds, []).append(arm)
    for seeds, names in lacking.items():
        parts.append(f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)} of {_listed(names, arms)}")
    return "; ".join(parts)


def _listed(names: Sequence[str], arms: Arms) -> str:
    return "each arm" if len(names) == len(arms) > 1 else ", ".join(names)


def planned(suite: str) -> list[tuple[str, int]]:
    """Arm and seed of each run that is compared in a suite, in its order; nothing for a suite that is not known."""
    own = [(arm.name.rpartition("-s")[0], arm.settings.get("seed", 0)) for arm in SUITES.get(suite, list)()]
    other, names = COMPARED_WITH.get(suite, ("", ()))
    return own + [(arm, seed) for arm, seed in planned(other) if arm in names] if own else []


def in_order(suite: str, arms: Arms) -> Arms:
    """The arms in the order of the suite, and then any others."""
    names = dict.fromkeys([*(arm for arm, _ in planned(suite)), *arms])
    return {name: arms[name] for name in names if name in arms}


def _intervals_note(arms: Arms) -> str:
    single = [arm for arm, members in arms.items() if len(members) == 1]
    note = "Means with 95% Student-t intervals over seeds (test accuracy)"
    return note + (f"; one seed, so no interval: {_listed(single, arms)}" if single else "")


def _gap_note(arms: Arms) -> str:
    if any(gaps(arm, arms) for arm in arms):
        return (
            "Gap: final accuracy less than that of the same seed that had all data from the start; in brackets the "
            "settings in which that run differs, whose own effect is in the gap too"
        )
    return "No gap: no run of the same seeds had all data from the start"


def _contrast_notes(arms: Arms) -> list[str]:
    return [
        f"Gap of {free} less that of {projected}, paired over {len(paired)} seed{'s' * (len(paired) > 1)}: "
        f"{shown(paired, '.1f')} points"
        for free, projected, paired in contrasts(arms)
    ]


def _alarm_notes(arms: Arms) -> list[str]:
    """The alarms of each arm with a closed-loop schedule."""
    return [
        f"Alarms of {arm}, in updates since the data changed: "
        + "; ".join(f"seed {run.config.seed}: {_alarms(_result(run))}" for run in members)
        for arm, members in arms.items()
        if _result(members[0]).get("alarms") is not None
    ]


def _alarms(result: Row) -> str:
    """Each alarm as the updates since the last switch before it, or as one before any switch."""
    texts, before = [], result.get("fork", {}).get("switched", 0)
    for alarm in result["alarms"]:
        earlier = [switch for switch in (before, *result["switches"]) if 0 < switch < alarm]
        texts.append(f"{alarm - earlier[-1]:,}" if earlier else f"false one at {alarm:,}")
    return ", ".join(texts) or "none"
