"""The data directory: who holds it, which format and shard count it was made with, and what runs on it now.

format        {"format": 1, "shards": 4}, written once
lock          held with flock as long as a process runs on the directory
runtime.json  process ids, ports and URLs of what runs; absent when nothing does; only its owner may read it
servers.json  URLs of servers that are not ours; absent when all are; only its owner may read it
ports.json    the ports chosen before, so that clients find the servers again after a restart
logs/         what the servers print
nats/ postgres/   the servers' data (or `elsewhere`, a file naming the folder that holds them)
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from bus.address import masked
from infra.errors import (
    AlreadyRunning,
    DataDirectoryVersion,
    DirectoryUnusable,
    DiskTooFull,
    ForeignDirectory,
    NoDataDirectory,
    ShardsDiffer,
)

FORMAT = 1
PRIVATE = 0o600
"""The mode of a file that may hold passwords."""
NEEDED_BYTES = 512 * 2**20
"""Less free space than this and we do not begin."""


class Runtime(msgspec.Struct, frozen=True):
    """What runs on a data directory."""

    pid: int
    pids: dict[str, int] = {}
    ports: dict[str, int] = {}
    urls: dict[str, str] = {}
    served: tuple[str, ...] = ()
    """What may be given as `model`, agents as `agent/NAME`."""


class _Format(msgspec.Struct, frozen=True):
    format: int
    shards: int


def free_space(path: Path) -> int:
    """Return the bytes that we may still write where `path` lies."""
    return shutil.disk_usage(path).free


class DataDirectory:
    """A folder that one process at a time may run on.

    Every method may touch the disk: call from a thread where an event loop runs.
    """

    def __init__(self, path: Path, *, shards: int = 4, free: Callable[[Path], int] = free_space) -> None:
        self.path = path.absolute()
        self.shards = shards
        self._free = free
        self._lock: int | None = None
        self._remembering = threading.Lock()
        """Held while the ports are read and written: both servers start at the same time."""

    def open(self) -> None:
        """Make the folder if need be and take it for this process.

        Raises:
            AlreadyRunning: another process holds it.
            DataDirectoryVersion: another version of Ostinato made it.
            ForeignDirectory: it holds files and is not ours.
            ShardsDiffer: it was made with another number of shards.
            DiskTooFull: there is less than 512 MB left.
            DirectoryUnusable: the system does not let us use it.
        """
        try:
            self._open()
        except OSError as error:
            raise DirectoryUnusable(self.path, error) from error

    def _open(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        foreign = self.foreign()
        if foreign is not None:
            raise ForeignDirectory(self.path, foreign)
        self._take_lock()
        try:
            self._check_space()
            self._check_format()
            (self.path / "logs").mkdir(exist_ok=True)
        except BaseException:
            self.close()
            raise

    def refuse_if_held(self) -> None:
        """Say so if another process runs on the folder; leave it alone otherwise.

        Raises:
            AlreadyRunning: another process holds it.
        """
        if self._lock is None and (self.path / "lock").exists():
            self._take_lock()
            self.close()

    def close(self) -> None:
        """Let go of the folder; calling again does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def logs(self) -> Path:
        """Where the servers' output goes."""
        return self.path / "logs"

    def free(self) -> int:
        """Return the bytes left on the disk."""
        return self._free(self.path)

    def write_runtime(self, runtime: Runtime) -> None:
        """Say what runs, replacing what was said before."""
        write_atomically(self.path / "runtime.json", msgspec.json.encode(runtime), PRIVATE)

    def read_runtime(self) -> Runtime | None:
        """Return what runs (or ran, if its process was killed); None when nothing is recorded."""
        try:
            return msgspec.json.decode((self.path / "runtime.json").read_bytes(), type=Runtime)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def remove_runtime(self) -> None:
        """Say that nothing runs."""
        (self.path / "runtime.json").unlink(missing_ok=True)

    def port(self, name: str) -> int | None:
        """Return the port that the server had before."""
        return self._ports().get(name)

    def remember_port(self, name: str, port: int) -> None:
        """Keep the server's port for its next start."""
        with self._remembering:
            ports = self._ports()
            if ports.get(name) != port:
                write_atomically(self.path / "ports.json", msgspec.json.encode({**ports, name: port}))

    def _ports(self) -> Mapping[str, int]:
        try:
            return msgspec.json.decode((self.path / "ports.json").read_bytes(), type=dict[str, int])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}

    def foreign(self) -> str | None:
        """Return the name of a file that is not ours in a folder that was never made by us."""
        if (self.path / "format").exists():
            return None
        ours = {"lock", "format.new", "logs"}
        return next((entry.name for entry in self.path.iterdir() if entry.name not in ours), None)

    def _take_lock(self) -> None:
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            runtime = self.read_runtime()
            if runtime is None:
                raise AlreadyRunning(self.path, None, None) from None
            url = runtime.urls.get("http") or runtime.urls.get("nats")
            raise AlreadyRunning(self.path, runtime.pid, url and masked(url)) from None
        self._lock = handle

    def _check_space(self) -> None:
        free = self.free()
        if free < NEEDED_BYTES:
            raise DiskTooFull(self.path, free, NEEDED_BYTES)

    def _check_format(self) -> None:
        file = self.path / "format"
        if not file.exists():
            write_atomically(file, msgspec.json.encode(_Format(format=FORMAT, shards=self.shards)))
            return
        text = file.read_bytes()
        try:
            found = msgspec.json.decode(text, type=_Format)
        except msgspec.DecodeError as error:
            raise DataDirectoryVersion(self.path, text.decode(errors="replace")[:40], FORMAT) from error
        if found.format != FORMAT:
            raise DataDirectoryVersion(self.path, found.format, FORMAT)
        if found.shards != self.shards:
            raise ShardsDiffer(self.path, found.shards, self.shards)


def made_shards(path: Path) -> int:
    """Return the number of shards a data directory was made with.

    Raises:
        NoDataDirectory: it is none.
        DataDirectoryVersion: another version of Ostinato made it.
    """
    try:
        text = (path / "format").read_bytes()
    except FileNotFoundError as error:
        raise NoDataDirectory(path) from error
    try:
        return msgspec.json.decode(text, type=_Format).shards
    except msgspec.DecodeError as error:
        raise DataDirectoryVersion(path, text.decode(errors="replace")[:40], FORMAT) from error


def made_format(path: Path) -> object:
    """Return the format a folder was made with; None if it is no data directory, its text if that cannot be read."""
    try:
        text = (path / "format").read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(text, type=_Format).format
    except msgspec.DecodeError:
        return text.decode(errors="replace")[:40]


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Replace a file so that a reader, or a crash, finds the old or the new bytes and nothing between."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(fresh, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
