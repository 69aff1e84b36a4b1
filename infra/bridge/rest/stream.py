"""A run as server-sent events with ids, the same bytes whoever asks and whenever. Pure.

What the model writes comes in pieces as it is heard, but where they are cut does not depend on that: after blanks, or
after so many characters. So the stream is a function of the log, and whoever comes back with the last id that it has
gets the rest, byte for byte, from another process or after the run is over too.

An id is the number of an event of the run; of a piece of what is written after event 7, `7.1.20`, `7.2.40`, `7.3.12`:
reasoning, text, or the arguments of the first call, up to that character.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from infra.bridge.framing import IDLE
from infra.bridge.openai import BadRequest, refusal
from schemas import codec
from schemas.answers import CallTold
from schemas.live import Committed, Delta, Frame, Outcome, Progress
from schemas.rest_stream import RunPiece
from schemas.runs import ModelReturned, Problem

LAST_EVENT_ID: Final = "last-event-id"
LONGEST_PIECE: Final = 32
"""Characters of a text without blanks."""
_INSTRUCTED: Final = frozenset({"run.started", "run.queued", "step.prepared", "tool.returned"})
_REASONING, _TEXT, _CALLS = 1, 2, 3
_KINDS: Final = {_REASONING: "reasoning", _TEXT: "text"}

Place = tuple[int, ...]
"""(event,) or (event, part, character): they come in this order."""


def place_of(given: str) -> Place:
    """Read the id of an event; empty is the beginning.

    Raises:
        BadRequest: it is none.
    """
    if not given:
        return ()
    parts = given.split(".")
    if len(parts) not in {1, 3} or not all(part.isascii() and part.isdigit() and len(part) < 12 for part in parts):
        message = f"header {LAST_EVENT_ID}: {given[:40]!r} is no id of an event of this stream: send the last one's"
        raise BadRequest(400, message, LAST_EVENT_ID, "invalid_value")
    return tuple(map(int, parts))


def cuts(text: str, begin: int, *, whole: bool) -> Iterator[int]:
    """Say where pieces of a text end from `begin` on, as far as is certain: of a whole text, up to its end."""
    for at in range(begin + 1, len(text)):
        if at - begin == LONGEST_PIECE or (text[at - 1].isspace() and not text[at].isspace()):
            yield at
            begin = at
    if whole and begin < len(text):
        yield len(text)


@dataclass(slots=True)
class _Part:
    """Something that a model writes."""

    kind: str
    about: dict[str, Any] = field(default_factory=dict)
    heard: str = ""
    told: int = 0
    """Characters."""

    def hear(self, offset: int, piece: str) -> None:
        if offset <= len(self.heard) < offset + len(piece):
            self.heard = self.heard[:offset] + piece


class RunEvents:
    """Turns a run's frames into events."""

    idle = IDLE

    def __init__(self, after: Place = ()) -> None:
        """Begin, for somebody who has the events up to `after`."""
        self._after = after
        self._call = 0
        """The number of the event by which the model was called."""
        self._parts: dict[int, _Part] = {}
        self.problem: Problem | None = None
        """Why there is no run."""

    def feed(self, frame: Frame) -> list[bytes]:
        """Give the events that follow from one frame."""
        match frame:
            case Outcome(problem=problem):
                self.problem = problem
                return []
            case Delta():
                return self._written(frame)
            case Progress():
                return [b"event: progress\ndata: " + codec.encode(frame) + b"\n\n"]
            case Committed() if codec.is_erased(frame.data):
                message = f"thread {frame.thread!r} was deleted"
                self.problem = Problem(kind="unknown_thread", message=message, field="thread")
                return []
            case Committed(type="model.called"):
                self._call, self._parts = frame.version, {}
            case Committed(type="model.returned"):
                return [*self._rest(codec.decode(frame.data, ModelReturned)), *self._event(frame)]
            case _:
                pass
        return self._event(frame)

    def failed(self, problem: BadRequest) -> bytes:
        """Write why nothing more comes."""
        return b"event: error\ndata: " + codec.encode(problem.body) + b"\n\n"

    def _event(self, frame: Committed) -> list[bytes]:
        return self._told((frame.version,), frame.type, _uninstructed(frame))

    def _told(self, place: Place, name: str, data: object) -> list[bytes]:
        if place <= self._after:
            return []
        head = f"id: {'.'.join(map(str, place))}\nevent: {name}\ndata: "
        return [head.encode() + codec.encode(data) + b"\n\n"]

    def _written(self, delta: Delta) -> list[bytes]:
        if delta.choice or delta.version != self._call:
            return []
        self._part(_REASONING).hear(delta.reasoning_offset, delta.reasoning)
        self._part(_TEXT).hear(delta.offset, delta.text)
        if delta.call is not None:
            self._called(delta.call).hear(delta.arguments_offset, delta.arguments)
        return self._pieces(whole=False)

    def _rest(self, answer: ModelReturned) -> list[bytes]:
        """Tell what is left of an answer; what was told of it that is not in it cannot be taken back."""
        for place, text in ((_REASONING, answer.reasoning), (_TEXT, answer.text)):
            self._part(place).heard = text
        for index, call in enumerate(answer.tool_calls or answer.cut_off):
            self._called(CallTold(index, call.id, call.name)).heard = call.arguments
        return self._pieces(whole=True)

    def _part(self, place: int) -> _Part:
        return self._parts.setdefault(place, _Part(_KINDS[place]))

    def _called(self, call: CallTold) -> _Part:
        about = {"call": call.id, "tool": call.name}
        return self._parts.setdefault(_CALLS + call.index, _Part("arguments", about))

    def _pieces(self, *, whole: bool) -> list[bytes]:
        """Tell what is certain: of each part all is told before the next one's turn comes."""
        events: list[bytes] = []
        last = max((place for place, part in self._parts.items() if part.heard), default=0)
        for place in sorted(self._parts):
            part = self._parts[place]
            for end in cuts(part.heard, part.told, whole=whole or place < last):
                piece = RunPiece(kind=part.kind, **part.about, offset=part.told, text=part.heard[part.told : end])
                events += self._told((self._call, place, end), "delta", piece)
                part.told = end
        return events


def _uninstructed(frame: Committed) -> Committed:
    """Leave an agent's instructions out: they are its author's. Who may read the log finds them there."""
    if frame.type not in _INSTRUCTED:
        return frame
    event: dict[str, Any] = msgspec.json.decode(frame.data)
    profiles = [event.get(name) for name in ("profile", "handover")]
    modes = [mode for profile in profiles if isinstance(profile, dict) for mode in profile.get("modes", ())]
    for part in (event, *profiles, *modes):
        if isinstance(part, dict) and part.get("instructions"):
            part["instructions"] = ""
    return replace(frame, data=msgspec.Raw(codec.encode(event)))


def broken_off(problem: Problem | None) -> BadRequest:
    """Say why a stream has no run to tell of."""
    if problem is not None:
        return refusal(problem)
    return BadRequest(503, "the event bus does not answer: go on with the last id", None, "unavailable")
