"""What the encoders of these protocols have in common: pieces in, chunks of the protocol out. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from infra.bridge.framing import Framing
from infra.bridge.openai import BadRequest
from infra.bridge.telling.below import Heard
from infra.bridge.telling.pieces import Failed, Finished, Paused, Piece
from infra.bridge.telling.reader import RunReader
from schemas.runs import Problem


class PieceEncoder(ABC):
    """Turns a run's frames into chunks, up to its end or to where its client is to answer."""

    framing: Framing

    def __init__(self, reader: RunReader) -> None:
        """Begin with a run as it was read so far; what that was is not told."""
        self.reader = reader
        self.over = False
        """Whether the last chunk was given."""
        self._begun = False

    @property
    def problem(self) -> Problem | None:
        """Why the command was not taken on."""
        return self.reader.problem

    def feed(self, frame: Heard) -> list[dict[str, Any]]:
        """Give the chunks that follow from one frame; none after the last one."""
        chunks: list[dict[str, Any]] = []
        for piece in self.reader.feed(frame):
            if not self._begun:
                self._begun = True
                chunks += self.begin()
            if not self.over:
                self.over = isinstance(piece, Paused | Finished | Failed)
                chunks += self.tell(piece)
        return chunks

    def retold(self, frames: Iterable[Heard]) -> list[dict[str, Any]]:
        """Give the chunks of a run as far as it has got, as if it had never waited."""
        chunks: list[dict[str, Any]] = []
        for frame in frames:
            told = self.feed(frame)
            paused = self.over and self.reader.paused
            chunks += told[:-1] if paused else told
            self.over = self.over and not paused
        return chunks

    @abstractmethod
    def begin(self) -> list[dict[str, Any]]:
        """Give the chunk that a stream begins with."""

    @abstractmethod
    def tell(self, piece: Piece) -> list[dict[str, Any]]:
        """Give the chunks of one piece; of `Paused` it is one."""

    @abstractmethod
    def broken(self, problem: BadRequest) -> list[dict[str, Any]]:
        """Give the last chunks of a stream that cannot go on."""
