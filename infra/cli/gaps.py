"""What the trace has lost of a model call, as lines a person can read. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bus.steps import Frames, Hole
from infra.cli.terminal import PLAIN, Style


class GapLine(msgspec.Struct, frozen=True):
    """What the trace has lost of a model call; the log has the whole answer."""

    missing: str
    """`steps` or `characters`."""
    count: int
    told: str

    def text(self, style: Style = PLAIN) -> str:
        """Write it for a terminal."""
        return f"{'':13}{style.problem(self.told)}"


def gap_lines(text: str, holes: Sequence[Hole], frames: Frames) -> list[GapLine]:
    """Tell what is missing between the steps that served a call, and of the frames of its text."""
    told = []
    for hole in holes:
        count = hole.last - hole.first + 1
        which = f"step {hole.first} is" if count == 1 else f"steps {hole.first} to {hole.last} are"
        told.append(GapLine("steps", count, f"gap: {which} not in the trace (scheduler {hole.epoch})"))
    if missing := frames.missing(len(text)):
        left_out = "".join(
            f"; {shed.producer} left out {shed.count} of its deltas {shed.first} to {shed.last}: the bus was slow"
            for shed in frames.shed
        )
        what = f"gap: {missing} of {len(text)} characters are in no frame of the trace{left_out}"
        told.append(GapLine("characters", missing, what))
    return told
