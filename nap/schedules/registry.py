"""The schedules by name."""

from __future__ import annotations

import inspect
from typing import Any

from torch.optim import Optimizer

from nap.schedules.open_loop import Constant, Cosine, Cyclic, DelayedCosine, EarlyCycle, Linear, OneCycle
from nap.schedules.rewarm import Cusum, PageHinkley
from nap.schedules.schedule import Schedule
from nap.schedules.stopping import CusumStop, PlateauStop
from nap.suggest import suggest

SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "one-cycle": OneCycle,
    "cyclic": Cyclic,
    "early-cycle": EarlyCycle,
    "delayed-cosine": DelayedCosine,
    "cusum": Cusum,
    "page-hinkley": PageHinkley,
    "early-cycle-cusum": CusumStop,
    "early-cycle-plateau": PlateauStop,
}


def make_schedule(name: str, optimizer: Optimizer, total_steps: int, **options: Any) -> Schedule:
    """The schedule of a name in `SCHEDULES`. Raises ValueError for an unknown name or option."""
    if name not in SCHEDULES:
        raise ValueError(f"nap.make_schedule: schedule {name!r} is unknown; {suggest(name, SCHEDULES)}")
    known = _options(SCHEDULES[name])
    for option in options:
        if option not in known:
            hint = suggest(option, known) if known else "it takes none"
            raise ValueError(f"nap.make_schedule: {name!r} has no option {option!r}; {hint}")
    return SCHEDULES[name](optimizer, total_steps, **options)


def _options(kind: type[Schedule]) -> list[str]:
    """The names of the keyword options of a schedule, those that it hands on to its base class included."""
    found: list[str] = []
    for base in kind.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            found += [option.name for option in parameters if option.kind is option.KEYWORD_ONLY]
            if not any(option.kind is option.VAR_KEYWORD for option in parameters):
                break
    return found
