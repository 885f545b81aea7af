"""What ends a run early, in one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiment.compiler import ADVICE, complaint, is_toolchain_failure
from experiment.guard import NonFinite, is_out_of_memory
from experiment.values import ConfigError

if TYPE_CHECKING:
    from experiment.run import Run

FAILURES = (NonFinite, ConfigError, ChildProcessError, MemoryError, RuntimeError)
"""What may end a run with one line."""


def reason_for(run: Run[Any], error: Exception) -> str | None:
    """The line for an error that ends a run: what happened, where, and how to go on; None if there is none for it."""
    if isinstance(error, NonFinite):
        return _diverged(run, str(error))
    if isinstance(error, ConfigError):  # of the user's own parts, which what is built cannot tell
        return f"{error}; what is saved stands: {run.resume_command()}"
    if isinstance(error, ChildProcessError):  # a worker of the environments is gone, killed for memory, say
        return f"{error}; go on from the last checkpoint: {run.resume_command()}"
    if is_out_of_memory(error):
        return _out_of_memory(run)
    if is_toolchain_failure(error):
        return f"the loss cannot be compiled at {run.where()}: {complaint(error)}; {ADVICE}"
    return None


def _diverged(run: Run[Any], found: str) -> str:
    kept, resume = "There is no checkpoint from before.", run.resume_command()
    if last := run.directory.newest_checkpoint():
        skip = f" without the updates that spoil: {resume} {run.skipping}" if run.skipping else f": {resume}"
        kept = f"The last good checkpoint stands: {last}. To go on from it{skip}"
    return f"stopped at {run.where()}: {found}. What may help a new run: {run.remedies}. {kept}"


def _out_of_memory(run: Run[Any]) -> str:
    go_on = f"go on, where there is more, with: {run.resume_command()}"
    saved = run.directory.newest_checkpoint() is not None
    return f"out of memory at {run.where()}: {go_on if saved else f'a smaller {run.memory_options} helps'}"
