"""Errors of environments: an unknown name, and a worker process that ended."""

from collections.abc import Iterable

from experiment.values import suggest


def unknown_name(kind: str, given: str, known: Iterable[str]) -> ValueError:
    """A one-line error that names what was given and the nearest known name."""
    return ValueError(f"unknown {kind} {given!r}{suggest(given, known, list_all=True)}")


class WorkerLost(ChildProcessError):
    """A process that plays the games has ended before its owner did."""
