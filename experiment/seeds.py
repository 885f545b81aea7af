"""Seeds of several runs on the command line, as 0-9 or 0,3,5-7. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from experiment.config import ConfigError

MOST = 1_000


def parse_seeds(text: str) -> list[int]:
    """The seeds of a list of numbers and ranges; ConfigError, in one line, for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        if (found := re.fullmatch(r"\s*(\d{1,99})(?:-(\d{1,99}))?\s*", part, re.ASCII)) is None:
            raise ConfigError(f"--seeds {text}: {part!r} is no seed; give numbers and ranges, as 0-9 or 0,3,5-7")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ConfigError(f"--seeds {text}: {part!r} ends before it begins; {last}-{first} would be right")
        if len(seeds) + last - first >= MOST:
            raise ConfigError(f"--seeds {text}: a fleet has at most {MOST:,} members")
        seeds += range(first, last + 1)
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise ConfigError(f"--seeds {text}: the seed {twice[0]} is there twice")
    return seeds


def as_text(seeds: Sequence[int]) -> str:
    """Seeds as `parse_seeds` reads them."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in parts)


def split(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of --seeds on a command line, None if it is not there, and the other arguments."""
    value, others, waiting = None, [], False
    for arg in argv:
        if waiting:
            value, waiting = arg, False
        elif arg == "--seeds":
            waiting = True
        elif arg.startswith("--seeds="):
            value = arg.partition("=")[2]
        else:
            others.append(arg)
    if waiting:
        raise ConfigError("--seeds: give numbers and ranges, as 0-9 or 0,3,5-7")
    if value is not None and any(arg.partition("=")[0] == "--seed" for arg in others):
        raise ConfigError("--seed and --seeds: give one of them")
    return value, others
