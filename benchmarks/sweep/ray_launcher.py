"""The runs of a sweep on a Ray cluster, each a task that starts the run's command on the node that Ray gives it.

Ray's own retries are off, since only the sweep knows what goes on from its checkpoint. A run that loses its node, or is
told to stop there, is started again on another one; only failures of the run itself count. Nothing but the name of the
run travels through Ray: checkpoints, metrics and logs are in the sweep's folder, which every node has to see.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
import uuid
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Literal

from experiment.processor import available_cores
from experiment.sweeps.job import End, Job
from experiment.sweeps.processes import Processes
from experiment.sweeps.sweep import POLL, Signals
from experiment.values import ConfigError

TOKEN = ".ray"
"""The file in the sweep's folder by which a node shows that it sees the same folder."""
PATIENCE = 120.0
"""Seconds that the nodes have to answer."""
LOOK_AGAIN = 5.0
"""Seconds after which the nodes are counted again."""
RootSeen = Literal["missing", "locked", "unlocked"]


def attempt(job: Job, number: int, token: str, folder: str) -> End:
    """One attempt at a run, on the node where this is called; a signal lets the run save, which is then lost."""
    if node_sees_root(job.directory.parent, token) == "missing":
        return End("failed", f"node {socket.gethostname()} does not see {job.directory.parent}")
    with suppress(OSError):
        os.chdir(folder)
    signals = Signals()
    with signals:
        try:
            child = Processes(places=[{}]).start(job, number)
        except OSError as error:
            return End("failed", f"{error.filename or job.log}: {error.strerror or error}")
        if isinstance(child, End):
            return child
        passed = 0
        try:
            while (end := child.end()) is None:
                if signals.count > passed:
                    passed = signals.count
                    child.send_signal(signals.first)
                time.sleep(POLL)
        except BaseException:
            child.kill()
            raise
    return End("lost", "it was told to stop", end.notes) if passed and end.how == "failed" else end


def node_sees_root(root: Path, token: str) -> RootSeen:
    """What this node sees of a sweep's folder, and whether it notices the lock that is held on the token's file."""
    try:
        with open(root / TOKEN, "r+") as file:
            if token not in file.read().split():
                return "missing"
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "locked"
    except OSError:
        return "missing"
    return "unlocked"


@dataclass(frozen=True)
class _Task:
    """A run that Ray has."""

    job: Job
    ref: Any
    tasks: RayTasks

    def end(self) -> End | None:
        return self.tasks.end(self.ref)

    def send_signal(self, number: int) -> None:
        self.tasks.ray.cancel(self.ref, force=False)  # arrives as SIGINT

    def kill(self) -> None:
        self.tasks.ray.cancel(self.ref, force=True)


class RayTasks(AbstractContextManager["RayTasks"]):
    """The executor of a cluster; the nodes are asked first whether they see the folder.

    Args:
        root: the sweep's folder.
        address: of a cluster, "auto" for the one of this machine; none: RAY_ADDRESS, or else a cluster of this machine
            alone is started.
        cpus, gpus: what Ray sets apart for each run.
        limit: runs at a time; none: as many as the nodes have room for.

    Raises:
        ConfigError: there is no such cluster, no node has room for a run, or one does not see the folder.
    """

    def __init__(
        self, root: Path, address: str | None = None, cpus: float = 1.0, gpus: float = 0.0, limit: int | None = None
    ) -> None:
        self.ray = _connected(address)
        self._need = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
        self._limit, self._running, self._counted = limit, 0, 0.0
        self._token, self._folder = uuid.uuid4().hex, os.getcwd()
        self._task = self.ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, scheduling_strategy="SPREAD")(attempt)
        try:
            self._file = self._mark(root)
            self.warning = self._check(root)
        except BaseException:
            self.ray.shutdown()
            raise

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.ray.shutdown()

    @property
    def capacity(self) -> int:
        """Runs that go side by side on the nodes that are there now, or the limit if that was given."""
        if time.monotonic() >= self._counted:
            self._counted = time.monotonic() + LOOK_AGAIN
            self._room = sum(map(self._fit, self._nodes()))
        return self._limit or self._room

    def room(self) -> bool:
        return self._running < self.capacity

    def start(self, job: Job, number: int) -> _Task:
        self._running += 1
        return _Task(job, self._task.remote(job, number, self._token, self._folder), self)

    def end(self, ref: Any) -> End | None:
        """What became of a task; None as long as it waits or works."""
        if not self.ray.wait([ref], timeout=0)[0]:
            return None
        self._running -= 1
        errors = self.ray.exceptions
        try:
            return self.ray.get(ref)
        except (errors.NodeDiedError, errors.WorkerCrashedError, errors.TaskCancelledError) as error:
            return End("lost", f"its node was lost ({type(error).__name__})")
        except errors.RayError as error:
            return End("failed", _last_line(error))

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self.ray.nodes() if node["Alive"]]

    def _fit(self, node: dict[str, Any]) -> int:
        has = node["Resources"]
        return min(int(has.get(name, 0.0) / amount + 1e-6) for name, amount in self._need.items())

    def _mark(self, root: Path) -> IO[str]:
        file = open(root / TOKEN, "a+")  # noqa: SIM115 (locked for the life of the sweep)
        try:
            with suppress(BlockingIOError):  # another sweep of this folder has it
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise ConfigError(f"--root: the file system of {str(root)!r} has no locks: {error.strerror}") from None
        file.write(f"{self._token}\n")
        file.flush()
        os.fsync(file.fileno())
        return file

    def _check(self, root: Path) -> str:
        """Asks each node that has room for a run; returns a warning, or ""."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in self._nodes() if self._fit(node)]
        if not nodes and self._limit is None:
            need = " and ".join(f"{amount:g} {name}" for name, amount in self._need.items())
            raise ConfigError(f"no node of the cluster has {need} for a run; if nodes are to come, say --processes")
        asked = self.ray.remote(num_cpus=0, max_retries=0)(node_sees_root)
        places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        refs = [asked.options(scheduling_strategy=place).remote(root, self._token) for place in places]
        try:
            sights = self.ray.get(refs, timeout=PATIENCE)
        except self.ray.exceptions.RayError as error:
            raise ConfigError(f"a node of the cluster cannot run anything: {_last_line(error)}") from None
        blind = [node["NodeManagerHostname"] for node, seen in zip(nodes, sights, strict=True) if seen == "missing"]
        if blind:
            raise ConfigError(f"--root {str(root)!r} is not the same folder on every node: not on {', '.join(blind)}")
        if "unlocked" in sights:
            return f"locks in {root} do not reach from node to node: never start this sweep twice at the same time"
        return ""


def check_installed() -> None:
    """Raises ConfigError without Ray."""
    if find_spec("ray") is None:
        raise ConfigError("--launcher ray needs Ray: pip install 'rewarm[ray]'")


def _connected(address: str | None) -> Any:
    """The module `ray`, connected to a cluster."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here reports to nobody
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own = {"num_cpus": available_cores(), "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"--ray-address {address}: {str(error).splitlines()[0]}") from None
    return ray


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
