"""One server process: started, watched, and stopped within bounds.

A server must not outlive the process that started it. Two things see to that:
the kernel signals the server when its parent goes (`setpriv --pdeathsig`; it execs the server, so that no Python
code runs between fork and exec, which is not safe in a process with threads), and a server found running from an
earlier life is stopped before the next start (`stop_stale`). The kernel's parent is the *thread* that started the
child: start servers from the event loop of the main thread, never from a pool's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from infra.errors import ServerFailed
from infra.services.unprivileged import Account

POLL_S = 0.005
LOG_LIMIT = 10 * 2**20
"""A log longer than this is moved aside at the next start."""


def free_port() -> int:
    """Return a loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Say whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def until(deadline_s: float) -> AsyncIterator[None]:
    """Yield every few milliseconds until the time is over."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        yield
        await asyncio.sleep(POLL_S)


@dataclass(frozen=True, slots=True)
class Program:
    """How a server is run and ended."""

    name: str
    account: Account | None
    log: Path
    stop_signals: tuple[signal.Signals, ...]
    """From polite to final; each is given `stop_s` to take effect, and SIGKILL comes after."""
    stop_s: float = 10.0

    def options(self) -> dict[str, Any]:
        """Return the arguments for `subprocess` that make the child run as the account, and away from our files."""
        options: dict[str, Any] = {"env": {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}, "cwd": "/"}
        if self.account is not None:
            options |= {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}
        return options

    def complete(self, argv: Sequence[str], text: str = "") -> str:
        """Run a program of the server's kind to its end and return what it printed. Blocks.

        Raises:
            ServerFailed: it failed; the message holds its last lines.
        """
        done: subprocess.CompletedProcess[str] = subprocess.run(
            argv,
            input=text,
            text=True,
            capture_output=True,
            check=False,
            timeout=120,
            start_new_session=True,  # a Ctrl-C is for us to answer: what is half made must be finished or thrown away
            **self.options(),
        )
        if done.returncode != 0:
            with self.log.open("a", encoding="utf-8") as log:
                log.write(done.stdout + done.stderr)
            tail = (done.stdout + done.stderr)[-2000:]
            raise ServerFailed(self.name, f"could not run {Path(argv[0]).name!r}", self.log, tail)
        return done.stdout


class ServerProcess:
    """A running server.

    It is not asyncio's to start: uvloop, on which the stack runs, can give a child no other user.
    """

    def __init__(self, program: Program, process: subprocess.Popen[bytes]) -> None:
        self._program = program
        self._process = process
        self._over = asyncio.Event()
        waiting = (asyncio.get_running_loop(),)
        Thread(target=self._wait, args=waiting, name=f"waits-for-{program.name}", daemon=True).start()

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._over.set)

    @classmethod
    async def start(cls, program: Program, argv: Sequence[str]) -> ServerProcess:
        """Start the server; it may not be ready yet."""
        prefix = await asyncio.to_thread(_dying_with_parent, program.stop_signals[0])
        log = await asyncio.to_thread(_open_log, program.log)
        try:
            # not in a thread: the kernel would end the server with that
            return cls(program, _begun(program, [*prefix, *argv], log))
        finally:
            os.close(log)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit status, or None while the server runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait until the server has ended, for whatever reason."""
        await self._over.wait()
        return self._process.wait()

    async def stop(self) -> None:
        """End the server: politely, then by force. Does nothing if it has ended."""
        for sign in (*self._program.stop_signals, signal.SIGKILL):
            if self._process.returncode is not None:
                return
            self._signal(sign)
            # not `wait_for`: up to Python 3.11 it forgets a cancellation that meets its result
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._program.stop_s):
                    await self._over.wait()

    async def kill(self) -> None:
        """End the server the way a crash does, and wait until it is gone."""
        if self._process.returncode is None:
            self._signal(signal.SIGKILL)
            await self._over.wait()

    def _signal(self, sign: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, sign)

    async def failed(self, what: str) -> ServerFailed:
        """Return the error that says what happened, with the end of the log."""
        return ServerFailed(
            self._program.name, what, self._program.log, await asyncio.to_thread(_tail, self._program.log)
        )


def _begun(program: Program, argv: Sequence[str], log: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **program.options()
    )


async def stop_stale(program: Program, pid: int, mark: str) -> None:
    """End the process `pid` if it is a server from an earlier life, told by `mark` in its command line."""
    for sign in (*program.stop_signals, signal.SIGKILL):
        if mark not in await asyncio.to_thread(command_line, pid):
            return
        try:
            os.kill(pid, sign)
        except ProcessLookupError:
            return
        async for _ in until(program.stop_s):
            if mark not in await asyncio.to_thread(command_line, pid):
                return


def command_line(pid: int) -> str:
    """Return how a process was called; an empty string if there is none (or it is a zombie)."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return ""
    argv = ["ps", "-o", "command=", "-p", str(pid)]
    return subprocess.run(argv, text=True, capture_output=True, check=False).stdout


def _dying_with_parent(sign: signal.Signals) -> tuple[str, ...]:
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return (setpriv, "--pdeathsig", sign.name.removeprefix("SIG"), "--") if setpriv else ()


def _open_log(path: Path) -> int:
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_suffix(".old"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)


def _tail(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[-2000:] if path.exists() else ""
