"""The files of the data sets: their folders, and checks that they are complete and official."""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experiment.command_line import shell
from experiment.config import ConfigError, suggest


@dataclass(frozen=True)
class Remote:
    """A file to download; `path` is where it belongs below the data folder, `size` is in bytes."""

    url: str
    path: str
    size: int
    md5: str


@dataclass(frozen=True)
class Source:
    """A data set as its authors publish it.

    folders: possible names of its folder. files: size in bytes and md5 of each file, unpacked. remotes: files to
    download. tar: all files are in the first of the remotes.
    """

    title: str
    folders: tuple[str, ...]
    files: Mapping[str, tuple[int, str]]
    remotes: tuple[Remote, ...]
    tar: bool


def _fashion(path: str, size: int, md5: str) -> Remote:
    base = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
    return Remote(f"{base}/{path}", f"fashion-mnist/{path}", size, md5)


_BATCH = 30_730_000
_CIFAR10 = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "cifar-10-binary.tar.gz",
    170_052_171,
    "c32a1d4ab5d03f1284b67883e8d87530",
)

SOURCES = {
    "cifar10": Source(
        "CIFAR-10",
        ("cifar-10-batches-bin",),
        {
            "data_batch_1.bin": (_BATCH, "5dd7e06a14cb22eb9f671a540d1b7c25"),
            "data_batch_2.bin": (_BATCH, "5ea93a67294ea407fff1d09f752e9692"),
            "data_batch_3.bin": (_BATCH, "942cd6a4bcdd0dd3c604fbe906cb4421"),
            "data_batch_4.bin": (_BATCH, "ae636b3ba5c66a11e91e8cb52e771fcb"),
            "data_batch_5.bin": (_BATCH, "53f37980c15c3d472c316c40844f3f0d"),
            "test_batch.bin": (_BATCH, "803d5f7f4d78ea53de84dbe85f74fb6d"),
        },
        (_CIFAR10,),
        tar=True,
    ),
    "fashion-mnist": Source(
        "Fashion-MNIST",
        ("fashion-mnist", "FashionMNIST/raw"),
        {
            "train-images-idx3-ubyte": (47_040_016, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
            "train-labels-idx1-ubyte": (60_008, "9018921c3c673c538a1fc5bad174d6f9"),
            "t10k-images-idx3-ubyte": (7_840_016, "8181f5470baa50b63fa0f6fddb340f0a"),
            "t10k-labels-idx1-ubyte": (10_008, "15d484375f8d13e6eb1aabb0c3f46965"),
        },
        (
            _fashion("train-images-idx3-ubyte.gz", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            _fashion("train-labels-idx1-ubyte.gz", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
            _fashion("t10k-images-idx3-ubyte.gz", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
            _fashion("t10k-labels-idx1-ubyte.gz", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
        tar=False,
    ),
}
NAMES = (*SOURCES, "digits")


def check_name(name: str) -> None:
    """Raises ConfigError for a name that no data set has."""
    if name not in NAMES:
        raise ConfigError(f"no data set is named {name!r}: there are {', '.join(NAMES)}{suggest(name, NAMES)}")


def data_folder(data_dir: str | None) -> Path:
    """The folder of the data sets: `data_dir`, else $REWARM_DATA, else ~/.cache/rewarm."""
    return Path(data_dir or os.environ.get("REWARM_DATA") or "~/.cache/rewarm").expanduser()


def is_there(name: str, data_dir: str | None) -> bool:
    """Whether any file of the data set is in the folder; scikit-learn brings the digits."""
    check_name(name)
    if name not in SOURCES:
        return True
    source, root = SOURCES[name], data_folder(data_dir)
    return _folder(source, root) is not None or _archive(source, root) is not None


def read(name: str, data_dir: str | None) -> tuple[str, dict[str, bytes]]:
    """The title of a data set and the content of its files.

    The title is the plain name only if the checksums are the official ones. Otherwise it adds, in brackets, the first
    line of the folder's SOURCE.txt, or "unverified copy". Files of `download` are preferred to others next to them.

    Raises:
        ConfigError: a file is missing or damaged; the line says which, and what to do.
    """
    check_name(name)
    source, root = SOURCES[name], data_folder(data_dir)
    folder, archive = _folder(source, root), _archive(source, root)
    try:
        if archive:
            contents, folder = _unpack(source, archive), None
        elif folder:
            contents = {file: _content(folder / file) for file in source.files}
        else:
            raise _Fault(f"{source.title} is not there")
        _check_sizes(source, contents)
        return _title(source, contents, folder), contents
    except _Fault as fault:
        raise ConfigError(f"{folder or root}: {fault}; {remedy(name, data_dir)}") from None


class _Fault(Exception):
    """A fault of a file: which file, and what is wrong."""


def remedy(name: str, data_dir: str | None) -> str:
    """What to do about missing or damaged files."""
    where = f" --data-dir {shell(data_dir)}" if data_dir else ""
    return (
        f"`python -m studies.warm_start.download {name}{where}` fetches the data from {SOURCES[name].remotes[0].url}, "
        "or name a folder that has them with --data-dir"
    )


def _folder(source: Source, root: Path) -> Path | None:
    """The first folder that holds at least one of the files, packed or not."""
    for folder in (*(root / name for name in source.folders), root):
        if any((folder / f"{file}{ending}").is_file() for file in source.files for ending in ("", ".gz")):
            return folder
    return None


def _archive(source: Source, root: Path) -> Path | None:
    path = root / source.remotes[0].path
    return path if source.tar and path.is_file() else None


def _content(path: Path) -> bytes:
    """A file, unpacked."""
    packed = path.with_name(f"{path.name}.gz")
    try:
        return gzip.decompress(packed.read_bytes()) if packed.is_file() else path.read_bytes()
    except FileNotFoundError:
        raise _Fault(f"{path.name} is missing") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _Fault(f"{packed.name} is damaged ({error})") from None
    except OSError as error:
        raise _Fault(f"{path.name} cannot be read ({error.strerror})") from None


def _unpack(source: Source, path: Path) -> dict[str, bytes]:
    """The files in the archive, which is not unpacked to disk."""
    try:
        found = md5_of(path)
        if found != source.remotes[0].md5:
            raise _Fault(f"{path.name} is damaged: its md5 is {found}, not {source.remotes[0].md5}")
        with tarfile.open(path) as archive:
            members = ((member.name.rpartition("/")[2], archive.extractfile(member)) for member in archive)
            return {name: file.read() for name, file in members if file and name in source.files}
    except OSError as error:
        raise _Fault(f"{path.name} cannot be read ({error.strerror})") from None


def md5_of(path: Path) -> str:
    """The md5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _md5).hexdigest()


def _md5(data: bytes = b"") -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)


def _check_sizes(source: Source, contents: Mapping[str, bytes]) -> None:
    for file, (size, _) in source.files.items():
        if len(contents[file]) != size:
            raise _Fault(f"{file} is damaged: it has {len(contents[file]):,} bytes, not {size:,}")


def _title(source: Source, contents: Mapping[str, bytes], folder: Path | None) -> str:
    differ = [file for file, (_, md5) in source.files.items() if _md5(contents[file]).hexdigest() != md5]
    if not differ:
        return source.title
    provenance = _provenance(folder) if folder else ""
    if provenance or len(differ) == len(source.files):
        return f"{source.title} ({provenance or 'unverified copy'})"
    raise _Fault(
        f"{differ[0]} is damaged: its md5 is not {source.files[differ[0]][1]}, though other files are official"
    )


def _provenance(folder: Path) -> str:
    """The first non-empty line of SOURCE.txt, at most 80 characters."""
    try:
        text = (folder / "SOURCE.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return next((line for line in lines if line), "")[:80]
