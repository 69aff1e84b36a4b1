"""Reads an answer out of server-sent events: what the formats that use them have in common."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from actors.errors import ProviderFailed
from actors.models.provider import ModelAnswer, Piece
from actors.models.registry import Reached
from actors.models.wires.failures import broken
from actors.models.wires.heard import Heard
from actors.models.wires.sse import EventStream, ServerSent, TooLong


class StreamedReader:
    """A `Reader`; each format says what one object of its stream means."""

    def __init__(self, heard: Heard, reached: Reached) -> None:
        self.heard = heard
        self.reached = reached
        self._stream = EventStream()

    def heed(self, told: Any) -> list[Piece]:
        """Take one object of the stream."""
        raise NotImplementedError

    def feed(self, data: bytes) -> list[Piece]:
        """Take bytes.

        Raises:
            ProviderFailed: the stream tells of an error, or cannot be read.
        """
        try:
            return [piece for event in self._stream.feed(data) for piece in self._event(event)]
        except TooLong:
            raise broken(self.reached.name, "an event of the stream has no end") from None

    def end(self) -> ModelAnswer:
        """Give the whole.

        Raises:
            ProviderFailed: it has no end.
        """
        if self.heard.finish is None:
            for event in self._stream.end():
                self._late(event)
        return self.heard.answer(self.reached.name)

    def _late(self, event: ServerSent) -> None:
        """Take an event that was not closed, where it is whole all the same."""
        try:
            self._event(event)
        except ProviderFailed as failure:
            if failure.problem.retry_after_ms == 0:
                raise

    def _in_halves(self, data: str) -> Any:
        """Read what may hold halves of characters: some servers cut a text between the two that one is written as."""
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise broken(self.reached.name, f"its stream holds what is no JSON: {data[:80]!r}") from None

    def _event(self, event: ServerSent) -> list[Piece]:
        if event.data.strip() == "[DONE]":
            self.heard.over = True
            return []
        try:
            told = msgspec.json.decode(event.data)
        except msgspec.DecodeError:
            told = self._in_halves(event.data)
        if not isinstance(told, dict):
            raise broken(self.reached.name, f"its stream holds what is no part of an answer: {event.data[:80]!r}")
        self.heard.events += told.get("type") not in {"ping", "keepalive"}
        return self.heed(told)
