"""Which runs may stand under one name: runs that differ in the game, the seed and the machine alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiment.config import ConfigError

if TYPE_CHECKING:
    from benchmarks.reporting.scores import Score

NOT_COMPARED = frozenset({
    "env", "seed", "protocol", "steps", "frames", "name", "root", "resume", "track", "threads", "compile", "device",
    "on_nonfinite", "probe_interval", "checkpoint_interval",
})  # fmt: skip
"""Settings that tell no arms apart: of the run, of the machine, of what is only watched, or checked by themselves."""
OF_THE_SETTINGS = frozenset({"evaluation_epsilon", "evaluation_episodes", "clip_rewards"})
"""Rules that are settings too, which the runs of an arm share; each agent has those that it was published with."""
IN_THE_NAME = ("agent", "nap", "plasticity")
"""Settings that a name says in words of its own."""


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that all runs of an arm share."""
    return {name: value for name, value in settings.items() if name not in NOT_COMPARED}


def name_arms(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for the arm of each run: the agent, its methods, and the settings in which arms of that name differ."""
    plain = [_plain_name(each) for each in settings]
    kinds: dict[str, dict[str, dict[str, Any]]] = {}
    for name, each in zip(plain, settings, strict=True):
        kinds.setdefault(name, {}).setdefault(repr(comparable(each)), comparable(each))
    return [_full_name(name, each, kinds[name].values()) for name, each in zip(plain, settings, strict=True)]


def _full_name(name: str, settings: Mapping[str, Any], kinds: Collection[Mapping[str, Any]]) -> str:
    if len(kinds) == 1:
        return name
    own = {key: value for key, value in comparable(settings).items() if key not in IN_THE_NAME}
    return " ".join([name, *(f"{key}={own[key]}" for key in own if any(kind.get(key) != own[key] for kind in kinds))])


def _plain_name(settings: Mapping[str, Any]) -> str:
    methods = ["nap"] if settings.get("nap") else []
    return "+".join([str(settings.get("agent") or "dqn"), *methods, *(settings.get("plasticity") or ())])


def check_arms(runs: Sequence[Score]) -> None:
    """Raises ConfigError if runs of one arm differ in rules, budget or settings, or if two arms differ in rules."""
    first: dict[str, Score] = {}
    for run in runs:
        other = first.setdefault(run.arm, run)
        if found := _difference(other, run):
            raise ConfigError(f"arm {run.arm!r} mixes runs: {found}; give them arms of their own")
    stated = [run for run in first.values() if run.protocol is not None]
    for run in stated[1:]:
        if found := _disagreement("protocol", stated[0], run):
            raise ConfigError(
                f"arms {stated[0].arm!r} and {run.arm!r} were scored under different rules: {found}; report them apart"
            )


def _difference(a: Score, b: Score) -> str:
    """How two runs disagree, or nothing."""
    if a.steps != b.steps:
        return f"{a.source} has a budget of {_steps(a)} agent steps, {b.source} of {_steps(b)}"
    return _disagreement("protocol", a, b) or _disagreement("settings", a, b)


def _steps(run: Score) -> str:
    return "unknown" if run.steps is None else f"{run.steps:,}"


def _disagreement(field: str, a: Score, b: Score) -> str:
    one, two = getattr(a, field), getattr(b, field)
    if one is None or two is None:
        return "" if one is two else f"{a.source} {_states(one)} its {field}, {b.source} {_states(two)}"
    if field == "settings":
        one, two = comparable(one), comparable(two)
    else:
        one, two = ({key: rules[key] for key in rules if key not in OF_THE_SETTINGS} for rules in (one, two))
    if one == two:
        return ""
    key = next(key for key in {**one, **two} if one.get(key) != two.get(key))
    return f"in its {field}, {a.source} has {key} {one.get(key)!r}, and {b.source} {two.get(key)!r}"


def _states(value: Any) -> str:
    return "does not state" if value is None else "states"
