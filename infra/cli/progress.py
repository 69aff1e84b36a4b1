"""What is being waited for: one line that ticks or fills in a terminal, plain lines or nothing elsewhere."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TextIO

from infra.cli.terminal import redraws, style_for

_TICK_S = 1.0
_LONG_S = 1.0
_LAST = "ready"
_APART_S = 10.0
"""Least time between two notes where lines cannot be drawn again."""
_FRAME_S = 0.1
_BAR = 40


class StageLine:
    """Told of stages that are done, shows them and what is under way. A context manager: leaving it ends the line.

    Where the output is no terminal, a stage that took more than a second gets a line, and the end one.
    """

    def __init__(
        self, output: TextIO, groups: Sequence[Sequence[str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make the line.

        Args:
            output: where to show it.
            groups: the stages to come; those of a group run beside one another, groups one after the other.
            clock: seconds, for the stages that are not done.
        """
        self._output = output
        self._groups = [list(group) for group in groups]
        self._clock = clock
        self._began = clock()
        self._group_began = 0.0
        self._done: list[str] = []
        self._note = ""
        self._noted = -_APART_S
        self._redraws = redraws(output)
        self._style = style_for(output)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._drawn = False
        self._ticking = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self._redraws:
            self._ticking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._redraws:
            self._ticking.join()
        if self._drawn:
            self._output.write("\n")
            self._output.flush()

    def __call__(self, stage: str, seconds: float) -> None:
        """Note that a stage is done, so many seconds after the start."""
        with self._lock:
            self._note = ""
            took = seconds - self._group_began
            self._done.append(f"{stage} {seconds:.1f}s")
            self._groups = [[name for name in group if name != stage] for group in self._groups]
            while self._groups and not self._groups[0]:
                self._groups.pop(0)
                self._group_began = seconds
            if stage == _LAST:
                self._finish()
            elif self._redraws:
                self._draw()
            elif took > _LONG_S:
                self._output.write(f"starting: {stage} took {took:.1f} s\n")
                self._output.flush()

    def note(self, text: str) -> None:
        """Say in words what is under way, in place of the stage's name, until the stage is done."""
        with self._lock:
            self._note = text
            if self._redraws:
                self._draw()
            elif self._clock() - self._noted >= _APART_S:
                self._noted = self._clock()
                self._output.write(f"{text}\n")
                self._output.flush()

    def tick(self) -> None:
        """Draw the line again, with the seconds so far of what is under way."""
        with self._lock:
            if not self._over.is_set():
                self._draw()

    def _tick(self) -> None:
        while not self._over.wait(_TICK_S):
            self.tick()

    def _finish(self) -> None:
        self._over.set()
        start = "\r\x1b[K" if self._drawn else ""
        self._output.write(f"{start}{self._style.aside('started: ' + '  '.join(self._done))}\n")
        self._output.flush()
        self._drawn = False

    def _draw(self) -> None:
        seconds = int(self._clock() - self._began)
        names = [self._note] if self._note else (self._groups[0] if self._groups else [])
        under_way = [f"{name} … {seconds}s" for name in names]
        self._output.write("\r\x1b[K" + self._style.aside(_fitted([*self._done, *under_way])))
        self._output.flush()
        self._drawn = True


def _fitted(parts: Sequence[str]) -> str:
    """Join as many of the latest parts as the terminal is wide: a line that wraps cannot be drawn again."""
    width = shutil.get_terminal_size().columns - 1
    for dropped in range(len(parts)):
        line = "starting: " + "  ".join((["…"] if dropped else []) + list(parts[dropped:]))
        if len(line) <= width:
            return line
    return "starting …"[:width]


class Bar:
    """How much of something countable is done: one line that fills in a terminal, nothing elsewhere.

    A context manager: leaving it takes the line away.
    """

    def __init__(self, output: TextIO, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Make the bar.

        Args:
            output: where to show it.
            what: what is being done, in a word.
            clock: seconds; the line is drawn again a few times in each.
        """
        self._output = output
        self._what = what
        self._clock = clock
        self._redraws = redraws(output)
        self._style = style_for(output)
        self._drawn: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` are done."""
        now = self._clock()
        if not self._redraws or (self._drawn is not None and now - self._drawn < _FRAME_S and done < total):
            return
        self._drawn = now
        width = shutil.get_terminal_size().columns - 1
        share = done / total if total else 1.0
        end = f" {share:4.0%}  {note}".rstrip()
        room = min(_BAR, width - len(self._what) - len(end) - 1)
        full = round(max(room, 0) * share)
        line = f"{self._what} {'█' * full}{'░' * (max(room, 0) - full)}{end}"[:width]
        self._output.write("\r\x1b[K" + self._style.aside(line))
        self._output.flush()

    def clear(self) -> None:
        """Take the line away, so that something else can be written."""
        if self._drawn is not None:
            self._output.write("\r\x1b[K")
            self._output.flush()
            self._drawn = None
