"""The end of an error message about an unknown name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def suggest(word: str, known: Iterable[str]) -> str:
    """The close match of `word` among the known names, else all of them."""
    names = list(known)
    match = get_close_matches(word, names, n=1)
    return f"did you mean {match[0]!r}?" if match else f"it must be one of {', '.join(names)}"
