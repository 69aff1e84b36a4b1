"""Reads server-sent events out of bytes, however they are cut."""

from __future__ import annotations

from typing import NamedTuple

MOST = 32 << 20
"""Bytes of one event: more is no answer of a model."""


class ServerSent(NamedTuple):
    """One event."""

    event: str
    data: str


class TooLong(ValueError):
    """An event has no end."""


class EventStream:
    """The state of one stream."""

    def __init__(self) -> None:
        self._rest = b""
        self._first = True
        self._event = ""
        self._data: list[str] = []
        self._held = 0
        """Bytes of the event that has not come to its end."""

    def feed(self, data: bytes) -> list[ServerSent]:
        """Take bytes; give the events that end in them.

        Raises:
            TooLong: an event has more than `MOST` bytes.
        """
        self._rest += data
        if len(self._rest) > MOST:
            raise TooLong
        if self._rest.endswith(b"\r"):
            # whether the line feed belongs to it is known when the next byte is
            whole, self._rest = self._rest[:-1], b"\r"
        else:
            whole, self._rest = self._rest, b""
        lines = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop() + self._rest
        return [event for line in lines for event in self._line(line)]

    def end(self) -> list[ServerSent]:
        """Give what stands there when the bytes are over: an event that its server did not close."""
        return self.feed(b"\n\n")

    def _line(self, line: bytes) -> list[ServerSent]:
        if self._first:
            line, self._first = line.removeprefix(b"\xef\xbb\xbf"), False
        if not line:
            event, data = self._event, "\n".join(self._data)
            self._event, self._data, self._held = "", [], 0
            return [ServerSent(event, data)] if data else []
        self._held += len(line)
        if self._held > MOST:
            raise TooLong
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        return []
