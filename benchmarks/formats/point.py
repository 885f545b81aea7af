"""Points, which every reader yields: each is one measured score of one run. And what the user states about them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path

from envs.registry import resolve_game
from experiment.config import ConfigError

TRAINING, EVALUATION = "training", "evaluation"


@dataclass(frozen=True)
class Point:
    """A mean raw return of one run, measured once; its fields are the columns of the tables.

    Attributes:
        kind: `training` for returns of exploring games, `evaluation` for games played to score the agent.
        steps: agent steps that the run had trained for; None where the file does not state them, as in what follows.
        frames: emulator frames that it had trained for.
        games: games that the score is the mean of.
        deviation: standard deviation over runs, where a row is the mean of several.
    """

    agent: str
    game: str
    run: str
    score: float
    kind: str
    steps: int | None = None
    frames: int | None = None
    frame_skip: int | None = None
    protocol: str | None = None
    games: int | None = None
    deviation: float | None = None


COLUMNS = tuple(each.name for each in fields(Point))


@cache
def known_game(name: str) -> str | None:
    """The papers' spelling of a game; None of one that is not known here."""
    try:
        return resolve_game(name)
    except ValueError:
        return None


@dataclass(frozen=True)
class Given:
    """What the user states. Empty or None: not given."""

    agent: str = ""
    game: tuple[str, ...] = ()
    run: str = ""
    monitor_frames: int | None = None

    def one_game(self, path: Path, found: str = "") -> str:
        """The one game of a file: as given, else as found in it."""
        if len(self.game) > 1:
            raise ConfigError(f"--game: {path} holds one game, not {len(self.game)}")
        return self.game[0] if self.game else _needed(found, "game", path)

    def one_agent(self, path: Path, found: str = "") -> str:
        """The one agent of a file: as given, else as found in it."""
        return self.agent or _needed(found, "agent", path)


def _needed(found: str, what: str, path: Path) -> str:
    if not found:
        raise ConfigError(f"{path} does not name its {what}: give --{what}")
    return found


@dataclass
class Table:
    """The points of one path, and what the user should know about them, a line each."""

    points: list[Point] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
