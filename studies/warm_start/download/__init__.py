"""Downloads a data set: `python -m studies.warm_start.download cifar10`."""

from __future__ import annotations

import os
import time
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from experiment.config import ConfigError
from experiment.progress import Progress
from studies.warm_start.files import SOURCES, Remote, check_name, data_folder, is_there, md5_of

TRIES = 5
PAUSE = 1.0  # seconds before the first try after a cut
TIMEOUT = 30.0  # seconds
_CHUNK = 1 << 18
_AID = "fetch the data by other means and name its folder with --data-dir"


def ensure(name: str, data_dir: str | None) -> None:
    """Downloads the data set if no file of it exists; into a `data_dir` only if that folder exists."""
    if not is_there(name, data_dir) and (data_dir is None or data_folder(data_dir).is_dir()):
        download(name, data_dir)


def download(name: str, data_dir: str | None) -> Path:
    """Downloads the missing files of a data set and returns its folder.

    A file gets its name only when it is complete and its md5 is right. A broken download continues where it stopped.

    Raises:
        ConfigError: no network, no such file, a wrong checksum; nothing of that file is left.
    """
    check_name(name)
    folder = data_folder(data_dir)
    for remote in SOURCES[name].remotes if name in SOURCES else ():
        target = folder / remote.path
        if not target.is_file() or md5_of(target) != remote.md5:
            _fetch(remote, target)
    return folder


def _fetch(remote: Remote, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    print(f"{remote.url} -> {target}", flush=True)
    try:
        with part.open("wb") as file, Progress(remote.size, "bytes") as progress:
            _receive_all(remote, file, progress)
        found = md5_of(part)
        if found != remote.md5:
            raise ConfigError(f"{remote.url} is not the official file: its md5 is {found}, not {remote.md5}; {_AID}")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _receive_all(remote: Remote, file: BinaryIO, progress: Progress) -> None:
    """Tries until the file is complete; gives up after TRIES attempts in a row without progress."""
    best = failed = 0
    while True:
        try:
            _receive(remote, file, progress)
            fault = f"it ended after {file.tell():,} of {remote.size:,} bytes"
        except HTTPError as error:
            raise ConfigError(f"cannot download {remote.url}: HTTP {error.code} {error.reason}; {_AID}") from None
        except (URLError, HTTPException, ConnectionError, TimeoutError, SSLError) as error:
            fault = str(getattr(error, "reason", None) or error or type(error).__name__)
        if file.tell() == remote.size:
            return
        failed = 0 if file.tell() > best else failed + 1
        best = max(best, file.tell())
        if failed == TRIES or not best:
            raise ConfigError(f"cannot download {remote.url}: {fault}; {_AID}")
        time.sleep(PAUSE * 2**failed)


def _receive(remote: Remote, file: BinaryIO, progress: Progress) -> None:
    """Appends the server's data; starts again if the server cannot continue in the middle."""
    headers = {"User-Agent": "rewarm", "Range": f"bytes={file.tell()}-"}
    with urlopen(Request(remote.url, headers=headers), timeout=TIMEOUT) as response:
        if response.status != 206:
            file.seek(0)
        size = file.tell() + int(response.headers.get("Content-Length", remote.size - file.tell()))
        if size != remote.size:
            raise ConfigError(f"{remote.url} is not the official file: {size:,} bytes, not {remote.size:,}; {_AID}")
        while chunk := response.read(min(_CHUNK, remote.size - file.tell())):
            file.write(chunk)
            progress.update(file.tell())
