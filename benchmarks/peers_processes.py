"""The processes of a measurement: started, asked whether they are ready, counted by their CPU, and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.peers_client import EngineFailed

_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")
_STOP_S: Final = 30.0
_LINE: Final = 1 << 24
_OURS: Final = ("PYTHONPATH", "PYTHONHOME", "OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "OSTINATO_", "LD_PRELOAD")
"""Variables that were set for us, and that no engine is to get."""


def environment(**more: str) -> dict[str, str]:
    """Give the variables of an engine's process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return kept | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} | more


@asynccontextmanager
async def started(
    argv: Sequence[str], variables: Mapping[str, str], log: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a process that is listened to, for as long as the block runs; its errors go to the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as told:
        process = await _start(argv, variables, log.parent, stdout=asyncio.subprocess.PIPE, stderr=told)
    try:
        yield process
    finally:
        await _stop(process)


@asynccontextmanager
async def serving(
    argv: Sequence[str], variables: Mapping[str, str], log: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a process that is asked by its port, for as long as the block runs; all that it says goes to the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as told:
        process = await _start(argv, variables, log.parent, stdout=told, stderr=told)
    try:
        yield process
    finally:
        await _stop(process)


async def _start(
    argv: Sequence[str], variables: Mapping[str, str], folder: Path, **streams: Any
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        env=variables,
        cwd=folder,
        limit=_LINE,
        start_new_session=True,
        **streams,
    )


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Ask it to end, and see to it."""
    assert process.stdin is not None
    process.stdin.close()
    if process.returncode is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # whatever of its session is left
    await process.wait()


async def first_line(process: asyncio.subprocess.Process, most_s: float) -> str:
    """Wait for what it says first, which is that it is ready.

    Raises:
        EngineFailed: It said nothing.
    """
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), most_s)
    except TimeoutError as late:
        raise EngineFailed(f"it was not ready within {most_s:.0f} s") from late
    if not line:
        raise EngineFailed("it ended before it was ready")
    return line.decode()


async def healthy(process: asyncio.subprocess.Process, url: str, most_s: float) -> None:
    """Wait until a server says that it is.

    Raises:
        EngineFailed: It ended, or took too long.
    """
    try:
        async with asyncio.timeout(most_s):
            while not await asyncio.to_thread(_answers, url):
                if process.returncode is not None:
                    raise EngineFailed(f"it ended with {process.returncode} before it was ready")
                await asyncio.sleep(0.5)
    except TimeoutError as late:
        raise EngineFailed(f"it was not ready within {most_s:.0f} s") from late


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


def cpu_of(root: int, folder: Path) -> float:
    """Sum the CPU seconds of a process, of all below it, and of those whose command line names the folder.

    A server that runs on its own is none of its starter's children, but knows where its data are.
    """
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    named = set()
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            fields = (path / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        number = int(path.name)
        parents[number] = int(fields[1])
        seconds[number] = sum(map(int, fields[11:15])) * _TICK
        if str(folder).encode() in command:
            named.add(number)
    return sum(seconds[number] for number in parents if _below(number, {root, *named} - {os.getpid()}, parents))


def _below(number: int, roots: set[int], parents: Mapping[int, int]) -> bool:
    while number > 1 and number not in roots:
        number = parents.get(number, 0)
    return number in roots


def busy() -> float:
    """Give the CPU seconds that all of the machine spent since it started."""
    told = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    user, nice, system, _idle, _waiting, irq, softirq = map(int, told[:7])
    return (user + nice + system + irq + softirq) * _TICK


@contextmanager
def load() -> Iterator[None]:
    """Keep one core busy with other work for as long as the block runs."""
    with subprocess.Popen([sys.executable, "-S", "-c", "n = 1\nwhile True: n = n * 69069 % 4294967291"]) as process:
        try:
            yield
        finally:
            process.kill()
