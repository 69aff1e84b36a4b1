"""Keeps child processes running: restarted with backoff, given up when they only crash, stopped within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

_BACKOFF_S = (0.0, 0.2, 0.5, 1.0, 2.0)
CRASHES = 6
WINDOW_S = 30.0
"""A child that exits `CRASHES` times within this many seconds is given up."""
STOP_S = 5.0
HOPELESS = 78
"""Exit code of a child that says that starting it again cannot help (`EX_CONFIG` of sysexits.h)."""
DAMAGED = 74
"""Exit code of a child that found the log damaged (`EX_IOERR`): starting it again helps when that is mended."""


class Child(msgspec.Struct, frozen=True):
    """How a process is started."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path


class ChildStatus(msgspec.Struct, frozen=True):
    """What is known of a child."""

    name: str
    pid: int | None
    restarts: int
    given_up: bool
    code: int | None = None
    """How it ended last."""


class Crashes(msgspec.Struct, frozen=True):
    """When a child exited lately: pure, so that the policy can be tested without processes."""

    times: tuple[float, ...] = ()

    def after(self, now: float) -> Crashes:
        """Note an exit at `now` (monotonic seconds)."""
        return Crashes((*(at for at in self.times if now - at < WINDOW_S), now))

    @property
    def looping(self) -> bool:
        """Whether it is time to give up."""
        return len(self.times) >= CRASHES

    @property
    def wait_s(self) -> float:
        """How long to wait before the next start, seconds."""
        return _BACKOFF_S[min(len(self.times), len(_BACKOFF_S)) - 1] if self.times else 0.0


class Supervisor:
    """Runs children until told to stop."""

    def __init__(
        self, children: Sequence[Child], on_crash: Callable[[str, int], None] | None = None, stop_s: float = STOP_S
    ) -> None:
        self._children = children
        self._on_crash = on_crash
        self._stop_s = stop_s
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._restarts: dict[str, int] = {child.name: 0 for child in children}
        self._given_up: set[str] = set()
        self._codes: dict[str, int] = {}
        self._stopping = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.failed = asyncio.Event()
        """Set when a child has been given up."""

    def start(self) -> None:
        """Start every child, also again after a stop; each is watched by a task of its own."""
        self._stopping.clear()
        self.failed.clear()
        self._given_up.clear()
        for child in self._children:
            self._tasks[child.name] = asyncio.create_task(self._keep(child), name=f"child-{child.name}")

    def statistics(self) -> list[ChildStatus]:
        """Say how each child does."""
        return [
            ChildStatus(
                child.name,
                self._running[child.name].pid if child.name in self._running else None,
                self._restarts[child.name],
                child.name in self._given_up,
                self._codes.get(child.name),
            )
            for child in self._children
        ]

    async def stop(self, names: Sequence[str] | None = None) -> None:
        """Stop every child, one after the other: SIGTERM, then SIGKILL after `stop_s`.

        Args:
            names: who goes first, in this order.
        """
        self._stopping.set()
        first = list(names or ())
        for name in (*first, *(child.name for child in self._children if child.name not in first)):
            process = self._running.get(name)
            if process is not None:
                await self._end(name, process)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _end(self, name: str, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._stop_s):
                await process.wait()
        except TimeoutError:
            log.warning("%s did not stop within %s s: killed", name, self._stop_s)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _keep(self, child: Child) -> None:
        crashes = Crashes()
        while not self._stopping.is_set():
            try:
                process = await self._spawn(child)
            except OSError as error:
                self._give_up(child, f"cannot be started: {error}")
                return
            if self._stopping.is_set():
                # it was on its way when `stop` looked around
                await self._end(child.name, process)
            code = await process.wait()
            self._running.pop(child.name, None)
            if self._stopping.is_set():
                return
            self._codes[child.name] = code
            crashes = crashes.after(time.monotonic())
            log.warning("%s (pid %s) ended with code %s", child.name, process.pid, code)
            if self._on_crash is not None:
                self._on_crash(child.name, code)
            if code in {HOPELESS, DAMAGED}:
                self._give_up(child, "cannot do its work")
                return
            if crashes.looping:
                self._give_up(child, f"ended {CRASHES} times in {WINDOW_S} s")
                return
            self._restarts[child.name] += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(crashes.wait_s):
                    await self._stopping.wait()

    def _give_up(self, child: Child, why: str) -> None:
        log.warning("%s %s: given up, see %s", child.name, why, child.log)
        self._given_up.add(child.name)
        self.failed.set()

    async def _spawn(self, child: Child) -> asyncio.subprocess.Process:
        output = await asyncio.to_thread(child.log.open, "ab")
        try:
            process = await asyncio.create_subprocess_exec(
                *child.argv, env=dict(child.environment), stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
            )
        finally:
            output.close()
        self._running[child.name] = process
        return process
