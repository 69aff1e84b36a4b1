"""Streams that are kept while they grow: who comes later, or again, hears them from the beginning, byte by byte.

A run is followed once, however many listen, and goes on being followed when nobody does. When this process ends its
tapes are gone; the log has the run, and a stream begins again from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final, cast

from bus.errors import BusError, Refused
from infra.bridge.openai import BadRequest, refusal
from infra.bridge.telling.below import Heard
from infra.bridge.telling.encoder import PieceEncoder
from infra.bridge.telling.recorded import Record
from schemas.commands import Command

log = logging.getLogger(__name__)

_LARGEST: Final = 32 << 20
"""Bytes of a tape that is kept for who comes later."""


class Tape:
    """One stream, as far as it has got."""

    def __init__(self, command: Command, encoder: PieceEncoder, before: Sequence[bytes] = ()) -> None:
        """Begin.

        Args:
            command: which led to the run.
            encoder: of what is to come.
            before: what was to tell of the run before that, from its beginning.
        """
        self.command = command
        self.encoder = encoder
        self.over = False
        self.problem: BadRequest | None = None
        """Why there is nothing on it."""
        self.size = 0
        self._before = tuple(before)
        self._pieces: list[bytes] = []
        self._grown = asyncio.Event()

    @property
    def goes_on(self) -> bool:
        """Whether there is something to tell of the run before it."""
        return bool(self._before)

    async def begun(self) -> None:
        """Wait until there is something on it.

        Raises:
            BadRequest: there never is.
        """
        while not self._pieces and not self.over:
            await self._grown.wait()
        if self.problem is not None:
            raise self.problem

    async def play(self) -> AsyncGenerator[bytes]:
        """Yield all of it from the beginning, as it grows."""
        async for piece in self._from(0):
            yield piece

    async def replay(self) -> AsyncGenerator[bytes]:
        """Yield all that there is to tell of the run from its beginning, as it grows."""
        for piece in self._before:
            yield piece
        # what a stream begins with is not told twice
        async for piece in self._from(1 if self._before else 0):
            yield piece

    async def _from(self, at: int) -> AsyncGenerator[bytes]:
        while True:
            while at < len(self._pieces):
                yield self._pieces[at]
                at += 1
            if self.over:
                return
            await self._grown.wait()

    async def record(self, frames: AsyncIterator[Heard], record: Record) -> None:
        """Follow a run up to its end, or to where its client is to answer; tell the record what was heard."""
        try:
            async with aclosing(cast("AsyncGenerator[Heard]", frames)) as heard:
                async for frame in heard:
                    begun = bool(self._pieces)
                    self._write(self.encoder.feed(frame))
                    if self._pieces and (self.encoder.over or not begun):
                        record.hear(self.command, self.encoder.reader.version)
                    if self.encoder.over or self.encoder.problem is not None:
                        break
            self._close()
        except Refused as error:
            self._fail(BadRequest(503, f"the server takes no more requests: {error.description}", None, "overloaded"))
        except (BusError, TimeoutError) as error:
            log.warning("run %s is not followed any more: %s", self.command.id, error)
            self._fail(BadRequest(503, "the event bus does not answer: ask for the stream again", None, "unavailable"))
        finally:
            self.over = True
            self._tell()

    def _write(self, chunks: list[dict[str, object]]) -> None:
        for chunk in chunks:
            self._add(self.encoder.framing.event(chunk))

    def _close(self) -> None:
        if self.encoder.problem is not None:
            self._fail(refusal(self.encoder.problem))
        elif self.encoder.over:
            self._end()
        else:
            self._fail(BadRequest(500, "the run ended without an answer", None, "no_answer"))

    def _end(self) -> None:
        self._add(self.encoder.framing.end(None))

    def _fail(self, problem: BadRequest) -> None:
        if not self._pieces:
            self.problem = problem
            return
        self._write(self.encoder.broken(problem))
        self._end()

    def _add(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self.size += len(piece)
            self._tell()

    def _tell(self) -> None:
        """Wake whoever waits for more."""
        self._grown.set()
        self._grown = asyncio.Event()


class Tapes:
    """The tapes of a protocol that are being recorded."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._tapes: dict[tuple[str, str], Tape] = {}
        """By tenant and thread: of each the last."""
        self._recording: set[asyncio.Task[None]] = set()

    def of(self, tenant: str, thread: str) -> Tape | None:
        """Return the tape of what is under way in a thread."""
        tape = self._tapes.get((tenant, thread))
        return None if tape is None or tape.over or tape.size > _LARGEST else tape

    def begin(self, tape: Tape, frames: AsyncIterator[Heard]) -> Tape:
        """Record a tape."""
        key = (tape.command.tenant, tape.command.thread)
        self._tapes[key] = tape
        recording = asyncio.create_task(tape.record(frames, self._record), name=f"tape-{tape.command.id}")
        self._recording.add(recording)

        def done(task: asyncio.Task[None]) -> None:
            self._recording.discard(task)
            if self._tapes.get(key) is tape:
                del self._tapes[key]

        recording.add_done_callback(done)
        return tape
