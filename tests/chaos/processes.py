"""What runs, as the kernel tells it: whose children there are, and how much memory they hold."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path

_SAMPLE_S = 0.1
_MIB = 1 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")


def descendants(pid: int) -> list[int]:
    """List a process and all that it started, and they did. Blocks."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # pid (name) state parent …, and the name may hold anything
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
                )
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to whoever of these is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def memory(pid: int) -> int:
    """Say how many bytes of memory a process holds; 0 when it is gone. Blocks."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError):
        return 0


@contextlib.asynccontextmanager
async def bounded_memory(limits_mb: Mapping[str, tuple[int, int]]) -> AsyncIterator[None]:
    """See that processes do not grow beyond a limit while the block runs; each is a process id and megabytes.

    Raises:
        AssertionError: one did.
    """
    before = {name: await asyncio.to_thread(memory, pid) for name, (pid, _) in limits_mb.items()}
    most = dict(before)

    async def look() -> None:
        while True:
            for name, (pid, _) in limits_mb.items():
                most[name] = max(most[name], await asyncio.to_thread(memory, pid))
            await asyncio.sleep(_SAMPLE_S)

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
    for name, (_, limit) in limits_mb.items():
        grew = (most[name] - before[name]) / _MIB
        assert grew <= limit, f"{name} grew by {grew:.0f} MB, of {before[name] / _MIB:.0f} MB: {limit} are allowed"


def end_all(pids: Sequence[int], wait_s: float = 30.0) -> None:
    """Kill these, and wait until they are gone. Blocks."""
    watched = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            watched.append(os.pidfd_open(pid))
    signal_all(pids, signal.SIGKILL)
    for handle in watched:
        select.select([handle], [], [], wait_s)
        os.close(handle)
