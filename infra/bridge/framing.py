"""How a protocol writes the events of a stream: each is a few bytes around what its encoder gives."""

from __future__ import annotations

from typing import Any, Final, Protocol

from infra.bridge.openai import BadRequest
from schemas import codec

IDLE: Final = b": keep-alive\n\n"
"""A comment, which every client of server-sent events passes over."""


class Framing(Protocol):
    """Writes server-sent events."""

    @property
    def idle(self) -> bytes:
        """What is sent while nothing is said, so that nothing between here and the client takes the stream for dead."""

    def event(self, chunk: dict[str, Any]) -> bytes:
        """Write what an encoder gave."""

    def failed(self, problem: BadRequest) -> bytes:
        """Write that it came to nothing: the last event."""

    def end(self, usage: dict[str, Any] | None) -> bytes:
        """Write what stands at the end of a stream that came to one, with the usage if its client asked for that."""


class OpenAiFraming:
    """Chunks without names, and `[DONE]`."""

    idle: bytes = IDLE

    def event(self, chunk: dict[str, Any]) -> bytes:
        """Write a chunk."""
        return b"data: " + codec.encode(chunk) + b"\n\n"

    def failed(self, problem: BadRequest) -> bytes:
        """Write an error, and that it is the end."""
        return b"data: " + codec.encode(problem.body) + b"\n\ndata: [DONE]\n\n"

    def end(self, usage: dict[str, Any] | None) -> bytes:
        """Write the usage and the end."""
        return (b"" if usage is None else self.event(usage)) + b"data: [DONE]\n\n"


class NamedFraming:
    """Events under the name that each says as its `type`; the last one needs no mark."""

    idle: bytes = IDLE

    def event(self, chunk: dict[str, Any]) -> bytes:
        """Write an event."""
        name: str = chunk["type"]
        return b"event: " + name.encode() + b"\ndata: " + codec.encode(chunk) + b"\n\n"

    def failed(self, problem: BadRequest) -> bytes:
        """Write an error."""
        error = problem.body.error
        return self.event({"type": "error", "message": error.message, "code": error.code, "param": error.param})

    def end(self, usage: dict[str, Any] | None) -> bytes:
        """Write nothing."""
        return b""


OPENAI: Final[Framing] = OpenAiFraming()
