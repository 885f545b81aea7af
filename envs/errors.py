"""One way of saying that a name is not known."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown_name(kind: str, given: str, known: Iterable[str]) -> ValueError:
    """A one-line error that names what was given and the nearest known names."""
    by_key = {name.lower(): name for name in known}
    near = [by_key[key] for key in get_close_matches(given.lower(), by_key, n=3)]
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"known are {', '.join(list(by_key.values())[:6])}{' ...' if len(by_key) > 6 else ''}"
    )
    return ValueError(f"unknown {kind} {given!r}; {hint}")


class WorkerLost(ChildProcessError):
    """A process that plays the games has ended before its owner did."""
