"""What each plasticity method does to the score: `python -m benchmarks.method_scores`.

Every method is an arm of a sweep, next to an agent without any. The settings are the published ones, which
`--list-methods` names, but for the times at which a method acts: published for far longer runs, here they are parts of
the run's updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.sweep.command import AgentSweep, Settings, parse
from benchmarks.sweep.runs import KIND
from benchmarks.sweep.suites import arms, games
from experiment.config import exit_on_bad_input
from experiment.interrupt import cli_session
from experiment.setting import setting
from experiment.sweeps.command import carry_out
from plasticity.registry import METHODS

PROG = "python -m benchmarks.method_scores"
DESCRIPTION = f"""Train an agent with each plasticity method, and without any, on some games with several seeds, as
benchmarks.atari does, with the same options. Methods that act now and then do so four times in a run, those that act
once in its middle. python -m benchmarks.report on the folder compares the scores.

{PROG} --suite Catch --config catch --seeds 5 -- --utd 4

{PROG} --suite MinAtar/Breakout,MinAtar/Asterix --config minatar --seeds 3 -- --steps 20000 --update-start 1000"""

NONE = "none"
FOUR_TIMES = ("reset", "shrink-perturb", "hare-tortoise", "dash")
"""Methods with a period; `fire` has one too, but its paper lets it act once."""
ONCE = ("fire", "injection")


@dataclass(frozen=True)
class ScoresSettings(Settings):
    """Which games, and where."""

    suite: str = setting("Catch", "runs")
    """Games with commas between, as --env of a run takes them, or a suite: atari100k, minatar ..."""
    methods: str | None = setting(None, "runs")
    """Methods with commas between; none: all of them. The agent without any is always there."""


def method_arms(names: Sequence[str], updates: int) -> tuple[str, ...]:
    """The arms as name:flags: the agent without a method, then with each; `updates` are those of a run."""
    timed = dict.fromkeys(FOUR_TIMES, f"period={max(updates // 5, 1)}") | dict.fromkeys(ONCE, f"at={updates // 2}")
    timed["c-chain"] = f"after={updates // 20},window={max(updates // 4, 1)}"  # one to five, as published
    specs = [f"{name}:{timed[name]}" if name in timed else name for name in names]
    return (f"{NONE}:", *(f"{name}:--plasticity {spec}" for name, spec in zip(names, specs, strict=True)))


def scores(settings: ScoresSettings, given: Sequence[str]) -> AgentSweep:
    """The sweep of all methods; ConfigError for a method that is not known."""
    (base,) = arms(settings.agent, settings.config, (), given)
    config = base.config(games(settings.suite)[0])
    names = list(METHODS) if settings.methods is None else [name.strip() for name in settings.methods.split(",")]
    own = method_arms(names, int(config.learning_steps * config.utd))
    root = settings.root or "run/method-scores"
    return AgentSweep(replace(settings, root=root, arm=(*own, *settings.arm)), given)


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Train, or show what would be; the exit code. Bad input ends in one line and code 2."""
    with exit_on_bad_input():
        settings, common = parse(argv, ScoresSettings, PROG, DESCRIPTION)
    return carry_out(settings, KIND, lambda: scores(settings, common))


if __name__ == "__main__":
    raise SystemExit(main())
