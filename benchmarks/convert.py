"""Other people's results as tables that the report reads: `python -m benchmarks.convert FORMAT PATH... --out FILE`.

docs/formats.md explains each format, and names the files and versions it was tried on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from experiment.config import ConfigError, exit_on_bad_input, parse_cli, suggest
from experiment.interrupt import cli_session
from experiment.setting import check_ranges, setting

if TYPE_CHECKING:
    from benchmarks.formats.point import Point
    from benchmarks.formats.registry import Format


@dataclass(frozen=True)
class ConvertConfig:
    """What to read, and what the files do not state."""

    files: tuple[str, ...] = field(default=(), metadata={"positional": True, "metavar": "FORMAT PATH..."})
    """FORMAT is sb3-monitor, sb3-evaluations, cleanrl, tianshou, dopamine, mrq, bbf, btr, openrlbenchmark, scores or
    curves; PATH a file of it, or the folder of one run (sb3-monitor, cleanrl, tianshou)."""
    out: str = ""
    """CSV file of the scores, a line for each run; without it they are printed."""
    curves: str = ""
    """CSV file of every measurement of every run, a line each."""
    overwrite: bool = False
    """Replace files that exist."""
    agent: str = ""
    """The agent, where the files do not name it."""
    game: tuple[str, ...] = ()
    """The game, where the files do not name it; of an array of scores, the games of its columns."""
    run: str = ""
    """Name of the run, if there is one PATH; default: the seed in the file, or the name of the file or folder."""
    kind: Literal["training", "evaluation"] | None = None
    """Which returns to read, where a format has both."""
    last: int | None = setting(None, at_least=1)
    """Number of a run's last measurements whose mean is the score; default: 100 games of training (sb3-monitor,
    cleanrl), otherwise the last measurement."""
    steps: int | None = setting(None, at_least=0)
    """Agent steps of training before each score, where the files do not state them, or only up to the last game."""
    frame_skip: int | None = setting(None, at_least=1)
    """Frames of an agent step, where the files do not state them."""
    protocol: str = ""
    """Name of the rules that the games were played under, where the files do not state them."""
    monitor_frames: int | None = setting(None, at_least=0)
    """sb3-monitor: frames of one step of the environment that Monitor wraps, 0 where its steps are agent steps."""

    def __post_init__(self) -> None:
        check_ranges(self)


def convert(config: ConvertConfig) -> None:
    """Reads all files, then writes the tables. ConfigError, in one line, for bad input; nothing is written then."""
    from benchmarks.formats.final_scores import csv_text, final_scores, summary
    from experiment.storage.files import write_atomic

    form, paths = _form(config)
    _check_outs(config, paths)
    points, notes = _read(config, form, paths)
    last = config.last or (form.last if points[0].kind == "training" else 1)
    by_game = points[0].kind == "training" and points[0].games == 1
    scores = [_with_steps(score, config.steps, by_game) for score in final_scores(points, last)]
    for line in (*notes, *summary(points, scores, last)):
        print(line, file=sys.stderr)
    for out, rows in ((config.out, scores), (config.curves, points)):
        if out:
            write_atomic(Path(out), csv_text(rows))
            print(out)
    if not config.out:
        print(csv_text(scores), end="")


def _form(config: ConvertConfig) -> tuple[Format, list[Path]]:
    """The format and the paths, and no option that the format has no use for."""
    from benchmarks.formats.registry import FORMATS

    name, *paths = config.files or ("",)
    if not paths:
        raise ConfigError(f"name a format and a file of it; the formats are {', '.join(FORMATS)}")
    if name not in FORMATS:
        raise ConfigError(f"no format {name!r}{suggest(name, FORMATS)} (formats: {', '.join(FORMATS)})")
    form = FORMATS[name]
    for option in ("agent", "game", "run", "monitor_frames"):
        if getattr(config, option) not in ("", (), None) and option not in form.takes:
            raise ConfigError(f"--{option.replace('_', '-')} has no use here: files of format {name} state it")
    if config.kind and config.kind not in form.kinds:
        raise ConfigError(f"--kind {config.kind}: files of format {name} hold returns of {form.kinds[0]} alone")
    if config.run and len(paths) > 1:
        raise ConfigError(f"--run names the run of one path, and {len(paths)} are given")
    return form, [Path(path) for path in paths]


def _check_outs(config: ConvertConfig, inputs: Sequence[Path]) -> None:
    outs = [Path(name) for name in (config.out, config.curves) if name]
    if len({out.resolve() for out in outs}) < len(outs):
        raise ConfigError("--out and --curves are the same file")
    for out in outs:
        if out.resolve() in [path.resolve() for path in inputs]:
            raise ConfigError(f"cannot write {str(out)!r}: it is read")
        if out.is_dir():
            raise ConfigError(f"cannot write {str(out)!r}: it is a folder")
        if not out.parent.is_dir():
            raise ConfigError(f"cannot write {str(out)!r}: there is no folder {str(out.parent)!r}")
        if out.exists() and not config.overwrite:
            raise ConfigError(f"{out} exists: choose another name, or give --overwrite")


def _read(config: ConvertConfig, form: Format, paths: Sequence[Path]) -> tuple[list[Point], list[str]]:
    """The points of one kind from all paths, and notes."""
    from benchmarks.formats.final_scores import run_of
    from benchmarks.formats.point import Given, known_game

    given = Given(config.agent, config.game, config.run, config.monitor_frames)
    points: list[Point] = []
    notes: list[str] = []
    source: dict[tuple[str, str, str], Path] = {}
    for path in paths:
        table = form.read(path, given)
        found = [replace(point, game=known_game(point.game) or point.game) for point in table.points]
        _check(found, path)
        for run in dict.fromkeys(map(run_of, found)):
            if source.setdefault(run, path) is not path:
                raise ConfigError(f"{source[run]} and {path} both hold run {run[2]!r} of {run[0]} in {run[1]}")
        points += found
        notes += table.notes
    kinds = [config.kind] if config.kind else form.kinds
    kind = next((kind for kind in kinds if any(point.kind == kind for point in points)), None)
    if kind is None:
        raise ConfigError(f"{', '.join(map(str, paths))}: no returns of {' or '.join(kinds)}")
    kept = [_with_rules(point, config) for point in points if point.kind == kind]
    if passed := len(points) - len(kept):
        notes.append(f"measurements of the other kind, ignored (see --kind): {passed}")
    return kept, notes


def _check(points: Sequence[Point], path: Path) -> None:
    """Refuses empty or unprintable names, and two means of a run at one step; two games may end at one step."""
    from benchmarks.formats.files import check_name
    from benchmarks.formats.final_scores import run_of

    seen = set()
    for point in points:
        try:
            for what in ("agent", "game", "run"):
                check_name(getattr(point, what), what)
        except ValueError as error:
            raise ConfigError(f"{path}: a score cannot be used: {error}") from None
        key = (run_of(point), point.kind, point.steps, point.frames)
        if point.games != 1 and key in seen:
            raise ConfigError(f"{path}: run {point.run!r} of {point.agent} in {point.game} has two scores at one step")
        seen.add(key)


def _with_rules(point: Point, config: ConvertConfig) -> Point:
    """Fills in the rules that the user states and the file does not."""
    return replace(
        point, frame_skip=point.frame_skip or config.frame_skip, protocol=point.protocol or config.protocol or None
    )


def _with_steps(score: Point, steps: int | None, by_game: bool) -> Point:
    """Fills in the budget that the user states; ConfigError where the file has another.

    by_game: the file's steps and frames are those at the end of the last game, a little less than the budget.
    """
    if steps is None:
        return score
    if score.steps is not None and not (score.steps == steps or (by_game and score.steps < steps)):
        raise ConfigError(f"--steps {steps}: {score.agent} in {score.game} has {score.steps} agent steps in its file")
    if not by_game:
        return replace(score, steps=steps)
    return replace(score, steps=steps, frames=score.frame_skip and steps * score.frame_skip)


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    with exit_on_bad_input():
        program, what = "python -m benchmarks.convert", "Convert other people's results."
        convert(parse_cli(ConvertConfig, argv, prog=program, description=what))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
