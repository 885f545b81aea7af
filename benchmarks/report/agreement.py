"""Checks the runs of one arm: they may differ only in the game, the seed and the machine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from agents.config import DQNConfig
from agents.names import CLOSED_LOOP
from experiment.config import ConfigError
from experiment.setting import names_of

if TYPE_CHECKING:
    from benchmarks.report.scores import Score

NOT_COMPARED = names_of(DQNConfig, "machine", "observing", "identity") - {"fork_changed"}
NOT_COMPARED |= {"env", "seed", "protocol", "steps", "frames"}
"""Settings that the arms are not compared by: they do not change what is learned, or are compared elsewhere."""
OF_THE_SETTINGS = frozenset({"evaluation_epsilon", "evaluation_episodes", "clip_rewards"})
"""Settings that are rules of a score. The runs of an arm share them; each agent has its published ones."""
LAST_GAME = 0.1
"""Largest difference of budgets of runs scored in training, as a share: each ends with a game, not at the budget."""
IN_THE_NAME = ("agent", "nap", "plasticity")
"""Settings that have their own text in a name."""


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that all runs of an arm share."""
    left_out = NOT_COMPARED if _reads_rows(settings) else NOT_COMPARED | {"log_interval"}
    return {name: value for name, value in settings.items() if name not in left_out}


def _reads_rows(settings: Mapping[str, Any]) -> bool:
    """Whether the schedule may listen to rows of metrics, so that their interval changes what is learned."""
    schedule = str(settings.get("schedule"))
    return ":" in schedule or schedule in (*CLOSED_LOOP, "early-cycle-cusum")


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
            raise ConfigError(f"arm {run.arm!r} mixes runs: {found}; give them different arm names")
    _check_alike([run for run in first.values() if run.protocol is not None], partial(_disagreement, "protocol"))
    _check_alike([run for run in first.values() if run.skip is not None], _other_skip)


def _check_alike(runs: Sequence[Score], difference: Callable[[Score, Score], str]) -> None:
    for run in runs[1:]:
        if found := difference(runs[0], run):
            raise ConfigError(
                f"arms {runs[0].arm!r} and {run.arm!r} were scored under different rules: {found}; report them apart"
            )


def _difference(a: Score, b: Score) -> str:
    """How two runs disagree, or ""."""
    if not _same_budget(a, b):
        return f"{a.source} has a budget of {steps_of(a)} agent steps, {b.source} of {steps_of(b)}"
    if kind_of(a) != kind_of(b):
        return f"{a.source} is of kind {kind_of(a) or 'unknown'}, {b.source} of {kind_of(b) or 'unknown'}"
    return _disagreement("protocol", a, b) or _other_skip(a, b) or _disagreement("settings", a, b)


def _same_budget(a: Score, b: Score) -> bool:
    """Whether two budgets are equal; of runs scored in training, whose files end with their last game, about equal."""
    if a.steps is None or b.steps is None or kind_of(a) != "training" or kind_of(b) != "training":
        return a.steps == b.steps
    return abs(a.steps - b.steps) <= LAST_GAME * max(a.steps, b.steps)


def _other_skip(a: Score, b: Score) -> str:
    if a.skip == b.skip:
        return ""
    one, two = ("none" if run.skip is None else run.skip for run in (a, b))
    return f"{a.source} states frame_skip {one}, and {b.source} {two}"


def steps_of(run: Score) -> str:
    """The budget of a run in agent steps, as text."""
    return "unknown" if run.steps is None else f"{run.steps:,}"


def _disagreement(field: str, a: Score, b: Score) -> str:
    one, two = getattr(a, field), getattr(b, field)
    if one is two:
        return ""
    if one is None or two is None:
        return f"{a.source} {_states(one)} its {field}, {b.source} {_states(two)}"
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


# --- comparisons of arms that differ


def caution(runs: Mapping[str, Score], arms: Sequence[str]) -> str:
    """Reasons why a comparison of these arms may be unequal: budgets and rules that differ or are not stated.

    runs: a run of each arm that has one; the others of the arm are like it, see `check_arms`.
    """
    compared = [runs[arm] for arm in arms if arm in runs]
    if len(compared) < 2:
        return ""
    parts = [
        *_unequal("budgets in agent steps", {run.arm: run.steps for run in compared}),
        *_silent("budget", [run.arm for run in compared if run.steps is None], len(compared)),
        *_silent("protocol", [run.arm for run in compared if run.protocol is None], len(compared)),
        *_unequal("kinds of games", {run.arm: kind_of(run) for run in compared}),
        *_unequal("evaluation epsilon", {run.arm: _epsilon(run) for run in compared}),
        *_unequal("numbers of games per score", {run.arm: run.games for run in compared}),
    ]
    return f"Compare with care: {'; '.join(parts)}." if parts else ""


def kind_of(run: Score) -> str | None:
    """Whether a score is of games in training or of an evaluation. Scores of run directories are of an evaluation."""
    return "evaluation" if run.directory is not None else run.kind


def _epsilon(run: Score) -> float | None:
    """The kind of a run directory's score. For a CSV file the protocol's name does not say it."""
    return run.protocol.get("evaluation_epsilon") if run.protocol and run.settings is not None else None


def _unequal(what: str, values: Mapping[str, float | str | None]) -> list[str]:
    stated = {arm: value for arm, value in values.items() if value is not None}
    if len(set(stated.values())) < 2:
        return []
    return [f"unequal {what} ({list_of([f'{arm} {_text(value)}' for arm, value in stated.items()], sep='; ')})"]


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _silent(what: str, arms: Sequence[str], of: int) -> list[str]:
    return [f"{what} not stated by {'any arm' if len(arms) == of else list_of(arms)}"] if arms else []


def list_of(names: Sequence[str], most: int = 8, sep: str = ", ") -> str:
    """The names, or the first of many and how many more there are."""
    more = len(names) - most
    return sep.join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
