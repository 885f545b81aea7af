"""The header of a CSV file of scores: which column holds what, under which separator."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from experiment.config import ConfigError

NAMES = {
    "agent": (
        "agent", "arm", "algo", "algorithm", "method", "agent_name", "algo_name", "algorithm_name", "method_name",
    ),
    "game": (
        "game", "env", "env_id", "env_name", "environment", "environment_id", "environment_name", "task", "task_id",
        "task_name", "game_name", "rom",
    ),
    "run": ("run", "seed", "run_id", "seed_id", "run_number", "random_seed", "trial", "replicate", "repetition"),
    "score": (
        "score", "return", "eval_return", "eval_score", "eval_reward", "episode_return", "episodic_return",
        "episode_reward", "mean_return", "mean_score", "mean_reward", "average_return", "average_score", "avg_return",
        "eval_return_mean", "return_mean", "final_return", "final_score", "raw_score", "reward",
    ),
    "steps": (
        "steps", "step", "agent_steps", "agent_step", "env_steps", "env_step", "environment_steps", "global_step",
        "timesteps", "total_timesteps", "num_timesteps", "training_steps",
    ),
    "frames": ("frames", "frame", "num_frames", "total_frames", "env_frames", "environment_frames", "training_frames"),
    "frame_skip": ("frame_skip", "frameskip", "action_repeat", "action_repeats"),
    "protocol": ("protocol", "evaluation_protocol"),
    "games": ("games", "eval_episodes", "evaluation_episodes", "num_eval_episodes", "n_eval_episodes"),
    "kind": ("kind",),
    "settings": ("settings",),
    "deviation": ("deviation", "standard_deviation", "score_std", "return_std"),
}  # fmt: skip
"""Names of a column, the project's own first. `steps` are agent steps; a score is the mean of `games`; `kind` is
training or evaluation; `settings` are those of this project's runs, as a sweep's --record writes
them; a line with a `deviation` is the mean over several runs."""
OURS = "agent_steps"
"""The steps in a report's own scores.csv."""
REQUIRED = ("agent", "game", "run", "score")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_ROLES = {name: role for role, names in NAMES.items() for name in names}
MOST = 20
"""Most unread columns that a message names: exports of trackers have thousands."""
_SHOWN = 160
"""Characters of a header that a message shows."""


@dataclass(frozen=True)
class Columns:
    """Which column holds what.

    Attributes:
        width: how many columns there are.
        positions: the position of a column by role.
        names: its name as the file has it, by role.
        unread: the names of the columns that hold nothing of use here.
    """

    separator: str
    width: int
    positions: dict[str, int]
    names: dict[str, str]
    unread: tuple[str, ...]

    def notes(self) -> list[str]:
        """Notes for the report about renamed and unread columns."""
        renamed = [f"{name} for {role}" for role, name in self.names.items() if _key(name) not in (role, OURS)]
        unread = [name + _hint(name, self.positions) for name in self.unread[:MOST]]
        if len(self.unread) > MOST:
            unread.append(f"and {len(self.unread) - MOST:,} more")
        return ([f"columns taken: {', '.join(renamed)}"] if renamed else []) + (
            [f"columns not read: {', '.join(unread)}"] if unread else []
        )


def find_columns(line: str, path: object) -> Columns:
    """The columns that a header names, between commas, semicolons or tabs.

    Raises ConfigError, which shows the header, if a column is missing or two could be the same, or if two separators
    give a whole header.
    """
    found = [_named(next(csv.reader([line], delimiter=each, skipinitialspace=True), []), each) for each in SEPARATORS]
    whole = [columns for columns in found if all(role in columns.positions for role in REQUIRED)]
    if len(whole) > 1:
        both = " and by ".join(SEPARATORS[columns.separator] for columns in whole)
        raise ConfigError(f"{path}: its header can be split by {both}: {_shown(line)}; use one of them")
    best = whole[0] if whole else max(found, key=lambda columns: (len(columns.positions), columns.width))
    for role, name in best.names.items():
        if others := [other for other in best.unread if _ROLES.get(_key(other)) == role]:
            raise ConfigError(
                f"{path}: columns {name!r} and {others[0]!r} can both be the {role}: its header is {_shown(line)}; "
                "leave one out"
            )
    for role in REQUIRED:
        if role not in best.positions:
            hint = next((text for name in best.unread if (text := _question(name, NAMES[role], 0.7))), "")
            raise ConfigError(
                f"{path}: it has no column {role!r} (or {', '.join(NAMES[role][1:4])} ...): its header is "
                f"{_shown(line)}{hint and f'; {hint}'}"
            )
    return best


def _named(header: Sequence[str], separator: str) -> Columns:
    """The columns that are known; of two with the same role the first, and the other stays unread."""
    positions: dict[str, int] = {}
    for position, name in enumerate(header):
        if role := _ROLES.get(_key(name)):
            positions.setdefault(role, position)
    names = {role: header[position].strip() for role, position in positions.items()}
    unread = [
        name.strip() for position, name in enumerate(header) if position not in positions.values() and name.strip()
    ]
    return Columns(separator, len(header), positions, names, tuple(unread))


def _key(name: str) -> str:
    """`Eval Return`, `eval-return` and `evalReturn` are all `eval_return`."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\W_]+", "_", split).strip("_").lower()


def _hint(name: str, found: dict[str, int]) -> str:
    """A question about an unread name that is close to a missing column's name."""
    absent = [each for role, names in NAMES.items() if role not in found for each in names]
    hint = _question(name, absent, 0.85)
    return f" ({hint})" if hint else ""


def _question(name: str, known: Sequence[str], cutoff: float) -> str:
    match = get_close_matches(_key(name), known, n=1, cutoff=cutoff)
    return f"is {name!r} meant to be {match[0]!r}?" if match else ""


def _shown(line: str) -> str:
    text = line.strip()
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + " ...")
