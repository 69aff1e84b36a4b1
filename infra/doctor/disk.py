"""Checks of the data directory: whose it is, who holds it, how much fits and how fast the disk syncs."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from infra.doctor.finding import Finding, ok, problem, warning
from infra.errors import AlreadyRunning
from infra.services.data_directory import FORMAT, NEEDED_BYTES, DataDirectory, made_format

SLOW_SYNC_S = 0.010
_SYNCS = 40
_MEASURE_S = 0.8
ANOTHER = "choose another data directory with --data"


def nearest(path: Path) -> Path:
    """Return the folder, or the nearest one above that exists: there it would be made."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def data(path: Path) -> Finding:
    """Look at the data directory's version and who holds it. Makes nothing."""
    where = str(path)
    if not path.exists():
        return ok("data", f"{where!r} will be made")
    if not path.is_dir():
        return problem("data", f"{where!r} is not a folder", ANOTHER)
    found = made_format(path)
    return _unmade(path) if found is None else _made(path, found)


def _unmade(path: Path) -> Finding:
    foreign = DataDirectory(path).foreign()
    if foreign is not None:
        return problem("data", f"{str(path)!r} is not a data directory and holds {foreign!r}", ANOTHER)
    return ok("data", f"{str(path)!r} is empty")


def _made(path: Path, found: object) -> Finding:
    if found != FORMAT:
        return problem("data", f"{str(path)!r} has data format {found!r}, this version reads {FORMAT}", ANOTHER)
    says = f"{str(path)!r}, format {found}"
    try:
        DataDirectory(path).refuse_if_held()
    except AlreadyRunning as held:
        return ok("data", f"{says}, held by process {held.pid or '?'} ({held.url or 'starting'})")
    except OSError as error:
        return problem("data", f"{says}, cannot be used: {error.strerror}", ANOTHER)
    return ok("data", f"{says}, held by nobody")


def space(free: int, needed: int = NEEDED_BYTES) -> Finding:
    """Look at the free space."""
    says = f"{free / 2**30:.1f} GiB free"
    if free < needed:
        return problem("space", f"{says}, {needed // 2**20} MB needed", f"free some space, or {ANOTHER}")
    if free < 4 * needed:
        return warning("space", says, "free some space: the log grows until the disk is full")
    return ok("space", says)


def sync(path: Path) -> Finding:
    """Measure how long the disk takes to make 4 KiB safe: every append to the log waits for it."""
    folder = nearest(path)
    try:
        took = measure(folder)
    except OSError as error:
        return problem("sync", f"cannot write in {str(folder)!r}: {error.strerror}", f"mend that, or {ANOTHER}")
    says = f"{took * 1000:.2f} ms a sync"
    if took > SLOW_SYNC_S:
        return warning("sync", says, "answers wait for it: put the data directory on a faster disk with --data")
    return ok("sync", says)


def measure(folder: Path) -> float:
    """Return the median seconds of a synced 4 KiB write; ends within about a second."""
    took: list[float] = []
    with tempfile.TemporaryFile(dir=folder) as file:
        end = time.monotonic() + _MEASURE_S
        while len(took) < _SYNCS and time.monotonic() < end:
            begun = time.perf_counter()
            os.pwrite(file.fileno(), b"o" * 4096, 4096 * len(took))
            os.fsync(file.fileno())
            took.append(time.perf_counter() - begun)
    return statistics.median(took)


def free(path: Path) -> int:
    """Return the bytes that may be written where the data directory lies or would be made."""
    return shutil.disk_usage(nearest(path)).free
