"""Methods that join a run under way, as a fork adds them; those that are in both runs keep their state."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from experiment.part import as_mistake
from experiment.values import ConfigError
from plasticity.method import Method
from plasticity.registry import load, make, ordered, parse
from plasticity.timing import Timing


class Settings(Protocol):
    """The settings of a learner with methods."""

    @property
    def plasticity(self) -> tuple[str, ...]: ...
    @property
    def nap(self) -> bool: ...
    @property
    def seed(self) -> int: ...


def method_names(settings: Settings) -> list[str]:
    """The names of the methods in the order in which they act; NaP, by its switch, is last."""
    return [*(spec.name for spec in ordered(settings.plasticity)), *["nap"] * settings.nap]


@dataclass(frozen=True)
class Comparison:
    """The methods of a fork next to those of the run that it forks.

    Attributes:
        kept: place of the state among the saved ones, by name. fresh, dropped: names.
        given: the names of those that the run did not have with these options.
    """

    names: list[str]
    kept: dict[str, int]
    fresh: list[str]
    dropped: list[str]
    given: frozenset[str]

    @property
    def places(self) -> list[int | None]:
        """The place among the saved methods of each of the fork's, None for a fresh one."""
        return [self.kept.get(name) for name in self.names]

    def states(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """The part "methods" of a saved learner as the fork loads it: None where a method starts fresh."""
        return {"methods": [None if place is None else saved["methods"][place] for place in self.places]}

    def facts(self) -> dict[str, Any]:
        """What became of each method, for the result."""
        return {"methods": {"kept": list(self.kept), "fresh": self.fresh, "dropped": self.dropped}}

    def check_to_come(self, methods: Sequence[Method], updates: int, tasks: bool = True) -> None:
        """Raises ConfigError for a method that the fork was given and that acts at no update after so many.

        tasks: whether another task is to begin.
        """
        for name, method in zip(self.names, methods, strict=True):
            timing = getattr(method, "timing", None)
            if name not in self.given or not isinstance(timing, Timing):
                continue
            if timing.at == "task" and not tasks:
                last = f"{name}: at=task: the fork begins in the last task of all, and the method would never act"
                raise ConfigError(f"--plasticity: {last}: give an earlier step to fork at, or at=now")
            if timing.is_over(updates):
                option, when = ("until", timing.until) if timing.at is None else ("at", timing.at)
                past = f"{name}: {option}={when:.0f}: the fork begins with {updates:,} updates made"
                raise ConfigError(f"--plasticity: {past}, and the method would never act: give a later one, or at=now")

    def reason(self) -> str:
        """The start of a message about a network that the fork's settings would change."""
        given = [(name, "with") for name in self.fresh] + [(name, "without") for name in self.dropped]
        names = [f"{how} {name}" for name, how in given if load(parse(name)).prepare is not Method.prepare]
        return f"--plasticity: a fork cannot change the network ({', '.join(names) or 'by options of a method'})"


def compare(before: Settings, after: Settings) -> Comparison:
    """The methods of two settings. A method that is off in one of them has no state to keep."""
    there = {name: place for place, name in enumerate(method_names(before)) if name in _active(before)}
    names, active = method_names(after), _active(after)
    kept = {name: there[name] for name in names if name in there and name in active}
    fresh = [name for name in names if name not in kept]
    dropped = [name for name in method_names(before) if name not in names]
    known = ordered(before.plasticity)
    given = {spec.name for spec in ordered(after.plasticity) if spec not in known}
    return Comparison(names, kept, fresh, dropped, frozenset(given))


def _active(settings: Settings) -> set[str]:
    methods = zip(ordered(settings.plasticity), make(settings.plasticity, settings.seed), strict=True)
    return {spec.name for spec, method in methods if not method.is_off} | {"nap"}


def attach_later(names: Sequence[str], methods: Sequence[Method], joining: Collection[str]) -> None:
    """Makes the methods that join a run attach where a state would be loaded: to the network as it is by then.

    The learner calls `attach` and `load_state_dict` as always, the latter with None. What the methods hook to the
    optimiser runs in the order of the methods, as it does after a resume.
    """
    follows = False
    for name, method in zip(names, methods, strict=True):
        if name in joining:
            follows = True
            _attach_later(method)
        elif follows:
            _hook_later(method)


def _attach_later(method: Method) -> None:
    parts: list[Any] = []

    def start(state: None) -> None:
        _restore(method)
        with as_mistake("--plasticity"):
            method.attach(*parts)

    vars(method).update(attach=lambda *given: parts.extend(given), load_state_dict=start)


def _hook_later(method: Method) -> None:
    """Moves a method's hooks behind those of the methods that join before it."""
    own: list[tuple[OrderedDict[int, Any], int]] = []
    attach, load = method.attach, method.load_state_dict

    def attach_and_note(network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        names = "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"
        hooks: list[OrderedDict[int, Any]] = [getattr(optimizer, name) for name in names]
        before = [set(each) for each in hooks]
        attach(network, target, optimizer)
        own.extend((each, key) for each, there in zip(hooks, before, strict=True) for key in each if key not in there)

    def move_and_load(state: dict[str, Any]) -> None:
        _restore(method)
        for hooks, key in own:
            hooks.move_to_end(key)
        load(state)

    vars(method).update(attach=attach_and_note, load_state_dict=move_and_load)


def _restore(method: Method) -> None:
    """From now on both hooks are those of its class."""
    for hook in ("attach", "load_state_dict"):
        delattr(method, hook)
