"""A measurement as tables on the screen and as a JSON file."""

from __future__ import annotations

import dataclasses
import json
from importlib import metadata
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.speed.alternate import Series, best_peer, limit_of, ratio
from benchmarks.speed.measurement import Results
from experiment.values import counted

LIBRARIES = ("ale-py", "envpool", "gymnasium", "stable-baselines3", "tensordict", "tianshou")


def number(value: float) -> str:
    """Three significant digits, or whole."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def row(series: Series, field: list[Series]) -> tuple[str, ...]:
    """Name, median (least-most), milliseconds for one, times the best peer, share of the limit."""
    peer, limit = best_peer(series, field), limit_of(series, field)
    low, high = series.range
    return (
        series.name,
        f"{number(series.median)} ({number(low)}-{number(high)})",
        f"{1000 / series.median:.3g}" if series.unit.endswith("s/s") else "",
        f"{ratio(series, peer):.2f}" if peer and peer is not series else "",
        f"{ratio(series, limit):.2f}" if limit else "",
    )


def table(task: str, members: list[Series]) -> Table:
    unit = members[0].unit
    found = Table(title=f"{task} ({unit})", title_justify="left", title_style="bold", width=100, box=None)
    found.add_column("", ratio=1)
    for title in ("median (range)", "ms each", "× best peer", "of limit"):
        found.add_column(title, justify="right", no_wrap=True)
    for series in members:
        found.add_row(*row(series, members))
    return found


def show(results: Results, console: Console | None = None) -> None:
    """Print every task's table, the counts, and the contestants that were left out; 100 columns."""
    console = console or Console(width=100, highlight=False)
    machine, settings = results.environment, results.settings
    console.print(f"{results.processor}, torch {machine['torch']}")
    console.print(
        f"{counted(settings.threads, 'thread')}, {counted(settings.rounds, 'round')} in alternation, "
        f"{results.seconds:.0f} s in all; medians, and ratios as medians of the rounds' own ratios"
    )
    for task, members in by_task(results.series).items():
        console.print()
        console.print(table(task, members))
    for lines in ([f"{name}: {text}" for name, text in results.facts.items()], results.missing):
        if lines:
            console.print("\n".join(["", *lines]), markup=False)


def by_task(series: list[Series]) -> dict[str, list[Series]]:
    """The series of each task, tasks and members in the order in which they first came."""
    order = {task: i for i, task in enumerate(dict.fromkeys(each.task for each in series))}
    ordered = sorted(series, key=lambda each: order[each.task])
    return {task: list(members) for task, members in groupby(ordered, key=lambda each: each.task)}


def as_json(results: Results) -> dict:
    """Everything, every round included."""
    return {
        "settings": dataclasses.asdict(results.settings),
        "environment": results.environment | {"libraries": _versions()},
        "seconds": results.seconds,
        "series": [_series_json(each, members) for members in by_task(results.series).values() for each in members],
        "facts": results.facts,
        "missing": results.missing,
    }


def _series_json(series: Series, members: list[Series]) -> dict:
    peer, limit = best_peer(series, members), limit_of(series, members)
    return {
        **dataclasses.asdict(series),
        "median": series.median,
        "range": series.range,
        "times_best_peer": ratio(series, peer) if peer else None,
        "best_peer": peer.name if peer else None,
        "of_limit": ratio(series, limit) if limit else None,
        "limit": limit.name if limit else None,
    }


def _versions() -> dict[str, str]:
    installed = {each.metadata["Name"].lower(): each.version for each in metadata.distributions()}
    return {name: installed[name] for name in LIBRARIES if name in installed}


def write(results: Results, folder: str) -> None:
    """Writes throughput.json."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "throughput.json"
    path.write_text(json.dumps(as_json(results), indent=1) + "\n", encoding="utf-8")
    print(f"\nevery round: {path}")
