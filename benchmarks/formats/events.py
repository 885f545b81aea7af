"""TensorBoard event files with the tags of CleanRL (commit fe8d8a0) and Tianshou (2.0.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.formats.files import number, whole
from benchmarks.formats.point import EVALUATION, TRAINING, Given, Point, Table
from experiment.config import ConfigError

CLEANRL_RUN = re.compile(r"(?P<game>.+?)__(?P<agent>.+)__(?P<seed>\d+)__\d+")
NO_FRAMESKIP = re.compile(r"NoFrameskip-v\d+$")
Scalars = Mapping[str, list[tuple[int, float]]]


def read_cleanrl(path: Path, given: Given) -> Table:
    """Training games and, of runs with --save-model, the evaluation at the end.

    The step of a training game is the global step, in agent steps of all environments. That of an evaluation game is
    its index, so the evaluation stands at the last global step of the run.
    """
    training, evaluation = "charts/episodic_return", "eval/episodic_return"
    found = _scalars(path, (training, evaluation), training)
    match = CLEANRL_RUN.fullmatch(_folder(path).name)
    name = match.groupdict("") if match else {}
    game, agent = given.one_game(path, name.get("game", "")), given.one_agent(path, name.get("agent", ""))
    run, skip = given.run or name.get("seed") or _folder(path).name, 4 if NO_FRAMESKIP.search(game) else None

    def point(score: float, kind: str, step: int, games: int) -> Point:
        return Point(agent, game, run, score, kind, step, skip and skip * step, skip, games=games)

    table = Table([point(score, TRAINING, step, 1) for step, score in found[training]])
    if scores := [score for _, score in found[evaluation]]:
        last = max(step for step, _ in found[training])
        table.points.append(point(sum(scores) / len(scores), EVALUATION, last, len(scores)))
    return table


def read_tianshou(path: Path, given: Given) -> Table:
    """Test collections, and the last collection before each training record. The step is `env_step` of both."""
    kinds = {EVALUATION: "test", TRAINING: "training"}
    tags = {kind: (f"{scope}/returns_stat/mean", f"{scope}/n_collected_episodes") for kind, scope in kinds.items()}
    found = _scalars(path, [tag for pair in tags.values() for tag in pair], tags[EVALUATION][0])
    game, agent, run = given.one_game(path), given.one_agent(path), given.run or _folder(path).name
    table = Table()
    for kind, (mean, count) in tags.items():
        games = dict(found[count])
        for step, score in found[mean]:
            played = int(games[step]) if step in games else None
            table.points.append(Point(agent, game, run, score, kind, step, games=played))
    return table


def _folder(path: Path) -> Path:
    """The folder of a run."""
    return path.resolve() if path.is_dir() else path.resolve().parent


def _scalars(path: Path, tags: tuple[str, ...] | list[str], needed: str) -> Scalars:
    """The values of some tags by global step, in order; ConfigError, with the tags there are, without the needed."""
    files = sorted(path.glob("*tfevents*")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path}: no event file of TensorBoard in it; name the folder of one run")
    found: dict[str, list[tuple[int, float]]] = {tag: [] for tag in tags}
    seen: dict[str, None] = {}
    for file in files:
        for tag, step, value in _events(file, tags):
            seen[tag] = None
            if value is not None:
                where = f"{file} tag {tag} step {step}"
                found[tag].append((whole(step, where), number(value, where)))
    if not found[needed]:
        there = f"its tags are {', '.join(list(seen)[:8])}" if seen else "it has no tags at all"
        raise ConfigError(f"{path}: it has no tag {needed!r}; {there}")
    return {tag: sorted(values, key=lambda value: value[0]) for tag, values in found.items()}


def _events(file: Path, tags: tuple[str, ...] | list[str]) -> Iterator[tuple[str, int, object]]:
    """Tag, step and value of each entry of a file; the value is None for other tags."""
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such file or folder")
    try:
        from google.protobuf.message import DecodeError
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util.tensor_util import make_ndarray
    except ModuleNotFoundError as error:
        raise ConfigError(f"event files need {error.name}: pip install tensorboard") from None
    try:
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                wanted = value.tag in tags and value.HasField("tensor")
                yield value.tag, event.step, make_ndarray(value.tensor).item() if wanted else None
    except (DecodeError, TypeError, ValueError):  # the latter two: a tensor that is no scalar
        raise ConfigError(f"{file}: it is damaged, or no event file of TensorBoard") from None
