"""A command in a real pseudo-terminal, typed to and read as a person would."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

WAIT_S = 60.0
_PATIENCE_S = 4.0
_SIZED = {"COLUMNS", "LINES"}
CTRL_C, CTRL_D = "\x03", "\x04"
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class PseudoTerminal:
    """Runs a command whose standard streams are a terminal of its own."""

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], size: tuple[int, int] | None = None
    ) -> None:
        """Start it, on a terminal of so many lines and columns where a size is given."""
        self._master, slave = pty.openpty()
        if size is not None:
            termios.tcsetwinsize(slave, size)
        plain = {name: os.environ[name] for name in os.environ if name not in {"NO_COLOR", "FORCE_COLOR", *_SIZED}}
        self.process = subprocess.Popen(
            argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**plain, "TERM": "xterm", **environment},
            start_new_session=True,
            # the terminal becomes the session's, so that Ctrl-C reaches the command as a signal
            preexec_fn=_take_terminal,  # noqa: PLW1509  one system call, no lock taken
        )
        os.close(slave)
        self.raw = ""
        self._read = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_S)
        os.close(self._master)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def until(self, text: str) -> str:
        """Read until `text` appears after what was read before; return what came, without colours."""
        came = self._read_on(text, WAIT_S)
        assert came is not None, f"{text!r} did not come; read so far: {self.raw!r}"
        return came

    def press_until(self, keys: str, text: str) -> str:
        """Press keys until `text` appears: again and again, as a person would.

        CPython's `input` passes over a signal that comes between its prompt and its wait for the first key.
        """
        deadline = time.monotonic() + WAIT_S
        came = None
        while came is None and time.monotonic() < deadline:
            self.type(keys)
            came = self._read_on(text, _PATIENCE_S)
        assert came is not None, f"{text!r} did not come; read so far: {self.raw!r}"
        return came

    def press_until_end(self, keys: str) -> int:
        """Press keys until the command ends, again and again for the same reason; return the exit status."""
        deadline = time.monotonic() + WAIT_S
        ended = False
        while not ended and time.monotonic() < deadline:
            self.type(keys)
            while not ended and select.select([self._master], [], [], _PATIENCE_S)[0]:
                piece = self._piece()
                self.raw, ended = self.raw + piece, not piece
        return self.process.wait(WAIT_S)

    def _read_on(self, text: str, patience: float) -> str | None:
        deadline = time.monotonic() + patience
        while True:
            seen = _ESCAPES.sub("", self.raw)
            at = seen.find(text, self._read)
            if at >= 0:
                came, self._read = seen[self._read : at + len(text)], at + len(text)
                return came
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._master], [], [], left)[0] or not (piece := self._piece()):
                return None
            self.raw += piece

    def end(self) -> int:
        """Read to the end and return the exit status."""
        while select.select([self._master], [], [], WAIT_S)[0] and (piece := self._piece()):
            self.raw += piece
        return self.process.wait(WAIT_S)

    def _piece(self) -> str:
        try:
            return os.read(self._master, 65536).decode("utf-8", "replace")
        except OSError:  # Linux says so when the other side is closed
            return ""


def _take_terminal() -> None:
    import fcntl  # noqa: PLC0415  between fork and exec
    import termios  # noqa: PLC0415

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
