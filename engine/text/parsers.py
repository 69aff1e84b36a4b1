"""Streaming parser of what a model writes: text, Hermes-style tool calls, stop strings.

What comes out does not depend on where the input is cut: whatever may still become a tag or a stop string is held
back, from its earliest possible beginning, until it has or has not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

OPEN, CLOSE = "<tool_call>", "</tool_call>"

_MARKS: Final = re.compile(rf'\\["\\]|["\n]|{CLOSE}')
"""What decides where a call ends: quotes, escapes of them, line ends (no JSON string has one), the end tag."""


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
        self._longest = max(map(len, self._patterns))
        self._search = re.compile("|".join(map(re.escape, self._patterns))).search
        self._buffer = ""
        self._body: list[str] | None = None
        """Of the call being read, what cannot belong to its end tag; None outside of calls."""
        self._quoted = False
        """Whether the call's text is inside a JSON string, where an end tag is none."""
        self._layout = _Layout()
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
            piece, more = self._content() if self._body is None else self._call()
            content += piece
            if not more:
                return content

    def finish(self) -> str:
        """The answer is over: return what was held back. A call without its end tag counts if it is whole."""
        content = ""
        while self._body is not None:
            content += self._read("".join((*self._body, self._buffer)), "")
            content += self.feed("")
        if not self.stopped:
            match = re.search("|".join(map(re.escape, self._stops)), self._buffer) if self._stops else None
            content += self._layout.text(self._buffer[: match.start()] if match else self._buffer)
            self.stopped = match is not None
        self._buffer = ""
        return content + self._layout.end()

    def _content(self) -> tuple[str, bool]:
        """Pass content on up to the next thing that is, or may become, a tag or stop string."""
        buffer, match = self._buffer, self._search(self._buffer)
        until = len(buffer) if match is None else match.start()
        for at in range(max(len(buffer) - self._longest + 1, 0), until):
            rest = buffer[at:]
            if any(pattern.startswith(rest) for pattern in self._patterns):
                self._buffer = rest
                return self._layout.text(buffer[:at]), False
        if match is None:
            self._buffer = ""
        elif match.group() == OPEN:
            self._buffer, self._body, self._quoted = buffer[match.end() :], [], False
        else:
            self._buffer, self.stopped = "", True
        return self._layout.text(buffer[:until]), self._body is not None

    def _call(self) -> tuple[str, bool]:
        """Read a tool call, once its end is there. What was looked at once is not looked at again."""
        assert self._body is not None
        seen = 0
        for mark in _MARKS.finditer(self._buffer):
            seen = mark.end()
            if mark.group() == CLOSE and not self._quoted:
                body = "".join((*self._body, self._buffer[: mark.start()]))
                return self._read(body, self._buffer[mark.start() :]), True
            self._quoted = mark.group() == '"' if not self._quoted else mark.group() not in {'"', "\n"}
        seen = max(seen, len(self._buffer) - len(CLOSE) + 1)
        self._body.append(self._buffer[:seen])
        self._buffer = self._buffer[seen:]
        return "", False

    def _read(self, body: str, rest: str) -> str:
        """Take a call; one that is none was text from its tag on, and what follows the tag is read as such."""
        self._body = None
        call = _parsed(body)
        if call is None:
            self._buffer = body + rest
            return self._layout.text(OPEN)
        self._buffer = rest.removeprefix(CLOSE)
        self.calls.append(call)
        self._layout.call()
        return ""


class _Layout:
    """Takes away the white space around calls: it belongs to them, but for what parts the text on either side."""

    def __init__(self) -> None:
        self._space = ""
        """White space at the end of what was written so far, held back."""
        self._before = ""
        """That before the calls just read, or the first there was between them."""
        self._calls = False
        """Whether calls were the last thing written."""
        self._said = False
        """Whether there was text before them."""

    def text(self, text: str) -> str:
        """Take text; return what of it is certain to be content."""
        text = self._space + text
        bare = text.rstrip()
        if not bare:
            self._space = text
            return ""
        self._space = text[len(bare) :]
        if self._calls:
            content = bare.lstrip()
            parting = self._before or bare[: len(bare) - len(content)]
            bare = parting + content if self._said else content
        self._calls, self._said, self._before = False, True, ""
        return bare

    def call(self) -> None:
        """A call was read."""
        self._before = self._before or self._space
        self._space, self._calls = "", True

    def end(self) -> str:
        """Nothing follows: return the white space that was content after all."""
        space, self._space = self._space, ""
        return "" if self._calls else space


def _parsed(body: str) -> ParsedCall | None:
    """Read `{"name": ..., "arguments": {...}}`; None when it is something else."""
    try:
        written = msgspec.json.decode(body.strip(), type=_Written)
        arguments = bytes(written.arguments).decode()
        if arguments.startswith('"'):
            # some models write the object as a JSON string
            arguments = msgspec.json.decode(arguments, type=str)
        msgspec.json.decode(arguments, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
    return ParsedCall(written.name, arguments)
