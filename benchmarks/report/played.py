"""The games that a score is the mean of: how many were cut at the limit, and how many were different."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiment.config import ConfigError

KEYS = ("episodes", "cut_games", "different_games", "effective_games")
"""Of a result's score, in the order of `Played`."""


class Played(NamedTuple):
    """Games of an evaluation; `effective`: see `agents.playing.games.effective_number`."""

    games: int
    cut: int
    different: int
    effective: float


def read_played(score: Mapping[str, Any], where: str) -> Played | None:
    """The games of a result's score; None if an older version wrote it.

    Raises ConfigError for what cannot be so.
    """
    values: list[Any] = [score.get(key) for key in KEYS]
    if not any(key in score for key in KEYS[1:]):
        return None
    for key, value in zip(KEYS, values, strict=True):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole and not (key == KEYS[-1] and isinstance(value, float) and math.isfinite(value)):
            raise ConfigError(f"{where}: its score has {key} {value!r}, not a number of games")
    played = Played(*values)
    ordered = 1 <= played.effective <= played.different + 1e-6 and played.different <= played.games
    if not (ordered and 0 <= played.cut <= played.games):
        raise ConfigError(f"{where}: its score counts games that cannot be: {dict(zip(KEYS, played, strict=True))}")
    return played


def total(runs: Iterable[Played | None]) -> Played | None:
    """The sum over the runs that state it. No two runs share a game, so the different games add up."""
    known = [played for played in runs if played is not None]
    if not known:
        return None
    return Played(
        games=sum(played.games for played in known),
        cut=sum(played.cut for played in known),
        different=sum(played.different for played in known),
        effective=math.fsum(played.effective for played in known),
    )


def described(runs: Sequence[Played | None]) -> str:
    """The games of some runs, in a cell of a table."""
    played, silent = total(runs), sum(each is None for each in runs)
    if played is None:
        return "not recorded" if runs else "–"
    parts = [f"{played.games:,}{'' if played.cut else ' whole'}"]
    if played.cut:
        parts.append(f"{played.cut:,} cut")
    if played.different < played.games:
        parts.append(f"{played.different:,} different (effective {played.effective:,.1f})")
    if silent:
        parts.append(f"{silent:,} {'run' if silent == 1 else 'runs'} not recorded")
    return ", ".join(parts)


def sentence(runs: Sequence[Played | None]) -> str:
    """The games of all runs of a report, as one of its facts."""
    played, silent = total(runs), sum(each is None for each in runs)
    if played is None:
        return "How many games of the evaluations were cut or repeated is not recorded."
    cut = f"{played.cut:,} of {played.games:,} cut at the limit" if played.cut else "none of them cut at the limit"
    games = f"{played.games:,} {'game' if played.games == 1 else 'games'}"
    kinds = f"{played.different:,} different within their runs, effective number {played.effective:,.1f}"
    rest = f"; not recorded by {silent:,} of {len(runs):,} runs" if silent else ""
    return f"Evaluations: {games}, {cut}, {kinds}{rest}."
