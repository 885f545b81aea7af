"""Short names for the arms and runs of a figure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

LONG = 32
"""Letters of a name that needs no shortening."""
PARTS = re.compile(r"(?=[+ ])")
"""Where the name of an arm is divided."""
WORDS = re.compile(r"(?=(?<!\de)-)")
"""Where the name of a run is divided; the dash of 1e-3 divides nothing."""
TIME = re.compile(r"-\d{8}-\d{6}(?=$|-\d+$)")
"""When a run began, at the end of the name that it has by default."""

Words = list[str]


def short_names(names: Sequence[str], longest: int = LONG) -> list[str]:
    """The names without their times and the words that all of them share; distinct names stay distinct.

    Words are left out only until the longest name fits into `longest` letters.
    """
    whole = list(dict.fromkeys(names))
    if len(whole) < 2:
        return list(names)
    timeless = [TIME.sub("", name) for name in whole]
    shorter = [
        shorten(found) for found in (timeless, whole) for shorten in (_without_common_ends, _without_common_words)
    ]
    valid = [found for found in (whole, timeless, *shorter) if all(found) and len(set(found)) == len(whole)]
    if not valid:  # an empty name is among them
        return list(names)
    fits = [found for found in valid if _length(found) <= longest]
    chosen = fits[0] if fits else min(valid, key=_length)
    short = dict(zip(whole, chosen, strict=True))
    return [short[name] for name in names]


def _length(names: Sequence[str]) -> int:
    return max(map(len, names))


def _split(names: Sequence[str]) -> list[Words]:
    """The words of names, each with the separator before it; words of arms may contain dashes."""
    divider = PARTS if any(map(PARTS.search, names)) else WORDS
    return [divider.split(name) for name in names]


def _without_common_words(names: Sequence[str]) -> list[str]:
    """Leaves out each word that all names have, equally often."""
    split = _split(names)
    counts = [Counter(map(_bare, words)) for words in split]
    common = {word for word in set().union(*counts) if len({count[word] for count in counts}) == 1}
    return [_bare("".join(word for word in words if _bare(word) not in common)) for words in split]


def _without_common_ends(names: Sequence[str]) -> list[str]:
    """Leaves out the first and last words that all names share. Every name keeps at least one word."""
    split = _split(names)
    most = min(map(len, split)) - 1
    first = _shared(split, most)
    last = _shared([words[::-1] for words in split], most - first)
    return [_bare("".join(words[first : len(words) - last])) for words in split]


def _shared(names: Sequence[Words], most: int) -> int:
    """How many words all names begin with, at most so many."""
    return next((i for i in range(most) if len({words[i] for words in names}) > 1), most)


def _bare(word: str) -> str:
    return word.lstrip("-+ ")
