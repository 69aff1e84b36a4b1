"""Streaming parser of what a model writes: text, Hermes-style tool calls, stop strings.

What comes out does not depend on where the input is cut: whatever may still become a tag or a stop string is held
back, from its earliest possible beginning, until it has or has not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A tool call as written."""

    name: str
    arguments: str
    """JSON text of the arguments object, exactly as the model wrote it."""


class _Written(msgspec.Struct):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class OutputParser:
    """Parses one answer."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stops = tuple(text for text in stop if text)
        self._patterns = (OPEN, *self._stops)
        self._buffer = ""
        self._inside = False
        self._space = ""
        self._after_call = False
        self.calls: list[ParsedCall] = []
        """Tool calls finished so far."""
        self.stopped = False
        """Whether a stop string was met: what follows it is dropped."""

    def feed(self, text: str) -> str:
        """Take what the model wrote; return the content that is certain now."""
        if self.stopped:
            return ""
        self._buffer += text
        content = ""
        while True:
            piece, more = self._call() if self._inside else self._content()
            content += piece
            if not more:
                return content

    def finish(self) -> str:
        """The answer is over: return what was held back. A call without its end tag counts if it is whole."""
        rest = ""
        if self._inside:
            call = _parsed(self._buffer)
            if call is None:
                rest = self._emit(OPEN + self._buffer)
            else:
                self._take(call)
        elif not self.stopped:
            at, pattern = self._complete_match()
            rest = self._emit(self._buffer if pattern is None else self._buffer[:at])
            self.stopped = pattern in self._stops
        self._buffer, self._inside = "", False
        space, self._space = self._space, ""
        return rest + ("" if self._after_call else space)

    def _content(self) -> tuple[str, bool]:
        """Pass content on up to the next thing that is, or may become, a tag or stop string."""
        for at in range(len(self._buffer)):
            rest = self._buffer[at:]
            if any(rest.startswith(pattern) for pattern in self._patterns):
                passed = self._emit(self._buffer[:at])
                if rest.startswith(OPEN):
                    self._buffer, self._inside = rest[len(OPEN) :], True
                    return passed, True
                self._buffer, self.stopped = "", True
                return passed, False
            if any(pattern.startswith(rest) for pattern in self._patterns):
                passed, self._buffer = self._emit(self._buffer[:at]), rest
                return passed, False
        passed, self._buffer = self._emit(self._buffer), ""
        return passed, False

    def _complete_match(self) -> tuple[int, str | None]:
        found = [(at, pattern) for pattern in self._stops if (at := self._buffer.find(pattern)) >= 0]
        return min(found, default=(0, None), key=lambda match: match[0])

    def _call(self) -> tuple[str, bool]:
        """Read a tool call, once its end is there."""
        body, end, rest = self._buffer.partition(CLOSE)
        if not end:
            return "", False
        self._buffer, self._inside = rest, False
        call = _parsed(body)
        if call is None:
            return self._emit(OPEN + body + CLOSE), True
        self._take(call)
        return "", True

    def _take(self, call: ParsedCall) -> None:
        self.calls.append(call)
        self._space, self._after_call = "", True

    def _emit(self, text: str) -> str:
        """Let content pass but for white space beside tool calls, which belongs to their layout."""
        text = self._space + text
        if self._after_call:
            text = text.lstrip()
            self._after_call = not text
        passed = text.rstrip()
        self._space = text[len(passed) :]
        return passed


def _parsed(body: str) -> ParsedCall | None:
    """Read `{"name": ..., "arguments": {...}}`; None when it is something else."""
    try:
        written = msgspec.json.decode(body.strip(), type=_Written)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
    arguments = bytes(written.arguments).decode()
    if arguments.startswith('"'):
        # some models write the object as a JSON string
        arguments = msgspec.json.decode(arguments, type=str)
    return ParsedCall(written.name, arguments) if arguments.lstrip().startswith("{") else None
