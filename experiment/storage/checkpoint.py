"""Checkpoints that survive crashes, full disks and damaged files.

A checkpoint is a directory `<step>/` of one file for each part of the state, segments of rows if there is a ring of
them (`experiment.storage.segments`), and a manifest with their sizes and sha256. It is written as `.tmp-<step>/`, the
manifest last, flushed to the disk and renamed. Loading never unpickles arbitrary objects.

A crash, a power cut or a full disk can damage only the newest checkpoint. A segment of old rows is one file on the
disk, shared by all checkpoints that hold it. If that file is damaged, none of them can be resumed, but the agent can
still be evaluated.
"""

import contextlib
import hashlib
import json
import os
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiment.config import as_plain, from_mapping
from experiment.setting import names_of
from experiment.storage.files import HashingFile, sync_directory
from experiment.storage.run_dir import RunDir, nearest
from experiment.storage.segments import Segment, Segments
from experiment.storage.views import without_views
from experiment.values import ConfigError

LAYOUT = 2
_SCALARS = (type(None), bool, int, float, str, bytes)
_damaged: set[Path] = set()
"""Checkpoints that this process found damaged on loading: they do not count among the good ones that are kept."""


class CheckpointError(OSError):
    """A checkpoint could not be written; the earlier ones are unchanged."""


class Checkpoint(NamedTuple):
    """A loaded checkpoint: its step, its state by part, the directory it came from, and what `Segments.load` needs."""

    step: int
    state: dict[str, Any]
    path: Path
    rows: dict[str, Any] | None = None

    def load_rows(self, segments: Segments) -> None:
        """Fills the ring that was saved with it. Raises ConfigError if there was none, or another."""
        if self.rows is None:
            raise ConfigError(f"checkpoint {self.path} holds no rows")
        segments.load(self.path, self.rows)


class _Damaged(Exception):
    """What is wrong with a checkpoint."""


def save(
    directory: Path,
    step: int,
    state: Mapping[str, Any],
    keep: float = 2,
    kept_steps: Collection[int] = (),
    rows: Segments | None = None,
) -> Path:
    """Writes the checkpoint of `step` and removes those older than the newest `keep` good ones.

    The first one at or after each of `kept_steps` stays too.
    `state` maps each part's name to nested dicts, lists and tuples of tensors, numbers, text, None. Of `rows` it writes
    only those that the previous checkpoint does not have.

    Raises:
        CheckpointError: the disk is full or fails; nothing half-written is left.
        TypeError: the state holds something that could not be loaded back.
    """
    for name, part in state.items():
        if not name.isidentifier():
            raise TypeError(f"{name!r} is no name for a part of a checkpoint")
        check_plain(part, name)
    temporary, final = directory / f".tmp-{step:012d}", directory / f"{step:012d}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in directory.glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        segments = rows.write(temporary) if rows else []
        _write(temporary, step, state, rows.describe(segments) if rows else None)
        _replace(temporary, final)
        _damaged.discard(final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(error.errno, f"cannot save checkpoint {final}: {error.strerror or error}") from error
    if rows:
        rows.adopt(final, segments)
    _prune(directory, step, keep, kept_steps)
    return final


def tensor_bytes(state: Any) -> int:
    """The size of all tensors in a state of nested dicts, lists and tuples: a lower bound for its checkpoint."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    parts = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(map(tensor_bytes, parts))


def save_or_warn(directory: Path, step: int, state: Mapping[str, Any], **options: Any) -> bool:
    """Saves as `save` does, but warns of a full disk, so that training goes on; returns whether it was saved."""
    try:
        save(directory, step, state, **options)
    except CheckpointError as error:
        warnings.warn(f"{error.strerror}; training goes on, and the earlier checkpoints are kept", stacklevel=2)
        return False
    return True


def check_plain(value: Any, where: str) -> None:
    """Raises TypeError for a state, called `where`, that could not be saved and loaded back."""
    if isinstance(value, torch.Tensor) or type(value) in _SCALARS:
        return
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            check_plain(key, f"a key of {where}")
            check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            check_plain(item, f"{where}[{index}]")
    else:
        raise TypeError(
            f"{where} is a {type(value).__name__}: a checkpoint holds tensors, numbers, text, bytes, "
            "lists and dicts, no NumPy arrays"
        )


def _write(directory: Path, step: int, state: Mapping[str, Any], rows: dict[str, Any] | None) -> None:
    files = {}
    for name, part in state.items():
        file = HashingFile(directory / f"{name}.pt")
        try:
            torch.save(without_views(part), file)  # type: ignore[arg-type]
        finally:
            files[f"{name}.pt"] = file.finish()
    body = {"layout": LAYOUT, "step": step, "torch": torch.__version__, "files": files, "rows": rows}
    manifest = json.dumps({"sha256": _digest(body), **body}, indent=1)
    with open(directory / "manifest.json", "w", encoding="utf-8") as text:
        text.write(manifest)
        text.flush()
        os.fsync(text.fileno())
    sync_directory(directory)


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _replace(temporary: Path, final: Path) -> None:
    """Renames; first moves a checkpoint of the same step away, since a rename cannot replace a full directory."""
    if final.exists():
        aside = final.with_name(f".tmp-old-{final.name}")
        os.rename(final, aside)
        try:
            os.rename(temporary, final)
        except OSError:
            os.rename(aside, final)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.rename(temporary, final)
    sync_directory(final.parent)


def _prune(directory: Path, step: int, keep: float, kept_steps: Collection[int]) -> None:
    """Keeps the newest `keep` that look complete. Removes those of later steps: they could not be loaded."""
    good, paths = 0, _newest_first(directory)
    there = sorted(int(path.name) for path in paths)
    stay = {next((found for found in there if found >= asked), step) for asked in kept_steps}
    for path in paths:
        good += int(path.name) <= step and path not in _damaged and _looks_whole(path)
        if int(path.name) > step or (good > keep and int(path.name) not in stay):
            shutil.rmtree(path, ignore_errors=True)


def _looks_whole(path: Path) -> bool:
    try:
        _read_manifest(path)
    except (_Damaged, ConfigError):
        return False
    return True


def _newest_first(directory: Path) -> list[Path]:
    paths = directory.iterdir() if directory.is_dir() else []
    return sorted((path for path in paths if path.name.isdecimal()), key=lambda path: int(path.name), reverse=True)


def load_latest(directory: Path, only: Collection[str] | None = None, step: int | None = None) -> Checkpoint:
    """Loads the newest good checkpoint to the CPU, or that of `step`; a warning names each newer one that is damaged.

    With `only`, loads just the named parts and no rows: the rest may be missing.

    Raises:
        ConfigError: there is none, none is good, or it has another layout than this version writes.
    """
    known = paths = _newest_first(directory)
    if not paths:
        raise ConfigError(f"no checkpoint in {str(directory)!r}")
    if step is not None and not (paths := [path for path in known if int(path.name) == step]):
        steps = nearest(step, [int(path.name) for path in known])
        raise ConfigError(f"no checkpoint of step {step} in {str(directory)!r}; {steps}")
    rows_alone = True
    for path in paths:
        try:
            return _load(path, only)
        except _Damaged as error:
            _damaged.add(path)
            rows_alone = rows_alone and str(error).startswith("rows-")
            before = "; trying the one before" if path != paths[-1] else ""
            warnings.warn(f"checkpoint {path} is damaged ({error}){before}", stacklevel=2)
    rest = " in its rows alone: what was learned can still be evaluated" if rows_alone else ""
    which = f"every checkpoint in {str(directory)!r}" if step is None else f"checkpoint {paths[0]}"
    raise ConfigError(f"{which} is damaged{rest}")


def whole_steps(directory: Path) -> list[int]:
    """The steps of the checkpoints that look complete, the newest first, without those found damaged on loading."""
    return [int(path.name) for path in _newest_first(directory) if path not in _damaged and _looks_whole(path)]


def load_for_resume(run: RunDir, at: int | None = None) -> Checkpoint | None:
    """Locks an unfinished run and loads its newest good checkpoint, or that of step `at`; None if none was saved.

    With `at` 0 the run begins again: None.

    Raises:
        ConfigError: the run is finished or in use, or has no checkpoint that can be loaded.
    """
    run.lock()
    if run.finished:
        raise ConfigError(f"run {str(run.path)!r} is finished: see {run.result}")
    if not run.checkpoints.is_dir():
        raise ConfigError(f"run {str(run.path)!r} cannot go on: {run.checkpoints} is not there")
    if run.has_checkpoint() and at != 0:
        return load_latest(run.checkpoints, step=at)
    print("no checkpoint was saved yet: the run begins again")
    return None


@contextlib.contextmanager
def checked_restore(saved: Checkpoint) -> Iterator[None]:
    """Turns an error of loading a state, e.g. one of another version's code, into one ConfigError."""
    try:
        yield
    except ConfigError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        if isinstance(error, KeyError):
            reason = f"it has no {reason}"
        raise ConfigError(f"checkpoint {saved.path} does not fit this run: {reason}") from None


def check_settings(saved: Checkpoint, config: Any, source: Path) -> None:
    """Raises ConfigError if the learning settings, read from `source`, are not those of the checkpoint."""
    kept = names_of(type(config), "machine", "observing", "identity")
    stated = saved.state["run"].get("settings", {})
    before = as_plain(from_mapping(type(config), stated, str(saved.path)).resolved())  # as this version calls things
    if changed := changes({name: before[name] for name in stated}, as_plain(config), kept):
        raise ConfigError(f"{source} was changed since the checkpoint: {changed}")


def changes(saved: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str] = ()) -> str:
    """The differences as text: "threads 2, was 8"; "" if there are none."""
    names = [name for name, value in saved.items() if name not in ignored and now.get(name) != value]
    return ", ".join(f"{name} {now.get(name)}, was {saved[name]}" for name in names)


def _load(path: Path, only: Collection[str] | None) -> Checkpoint:
    manifest = _read_manifest(path, only)
    state = {}
    for name, entry in manifest["files"].items():
        _check_sum(path / name, entry["sha256"])
        try:
            with torch.serialization.safe_globals([bytes]):  # empty bytes are pickled as a call of their type
                state[Path(name).stem] = torch.load(path / name, map_location="cpu", weights_only=True)
        except Exception as error:
            raise _Damaged(f"{name} cannot be read: {type(error).__name__}") from None
    for segment in _segments(manifest):
        _check_sum(path / segment.name, segment.sha256)
    return Checkpoint(manifest["step"], state, path, manifest["rows"])


def _read_manifest(path: Path, only: Collection[str] | None = None) -> dict[str, Any]:
    """Reads and checks the manifest, and that the files of `only`, or all, are there and of their size."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        body = {key: value for key, value in manifest.items() if key != "sha256"}
        whole = manifest["sha256"] == _digest(body) and body["step"] == int(path.name)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise _Damaged("manifest.json is missing or unreadable") from None
    if not whole:
        raise _Damaged("manifest.json has changed since it was written")
    if body.get("layout") != LAYOUT:
        raise ConfigError(f"checkpoint {path} has layout {body.get('layout')}, this version reads layout {LAYOUT}")
    if only is not None:
        body["files"] = {name: entry for name, entry in body["files"].items() if Path(name).stem in only}
        body["rows"] = None
    sizes = {name: entry["size"] for name, entry in body["files"].items()}
    sizes |= {segment.name: segment.size for segment in _segments(body)}
    for name, size in sizes.items():
        if not (path / name).is_file() or (path / name).stat().st_size != size:
            raise _Damaged(f"{name} is missing or has another size")
    return body


def _segments(manifest: Mapping[str, Any]) -> list[Segment]:
    return [Segment(**segment) for segment in (manifest["rows"] or {"segments": []})["segments"]]


def _check_sum(path: Path, sha256: str) -> None:
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _Damaged(f"{path.name} cannot be read: {error.strerror}") from None
    if found != sha256:
        raise _Damaged(f"{path.name} has changed since it was written")
