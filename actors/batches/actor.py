"""Performs what batches ask for: reads their files, has lines answered, writes the answers down, closes the files.

Whatever is done twice leaves what it leaves when it is done once: an answer is written in its line's place, and the
generation that gave it is known by its name.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from actors.batches.lines import (
    LineAnswer,
    Reading,
    answered,
    error_file,
    output_file,
    read_line,
    unanswered,
)
from actors.batches.machine import AnswerLine, AwaitExpiry, CloseFiles, ReadFile
from actors.runtime.machine import Asked, Effect
from actors.runtime.performer import Site
from actors.runtime.waiting import wait_until
from bus.errors import BusError, Unavailable
from bus.files import Files, NoSuchFile, lines_of
from bus.slots import Slots
from schemas.batches import (
    Batch,
    BatchExpired,
    BatchLine,
    BatchLineEnded,
    BatchRead,
    BatchWritten,
    LineProblem,
)
from schemas.commands import Command
from schemas.context import Clock
from schemas.faults import fault
from schemas.messages import Usage
from schemas.runs import Event

log = logging.getLogger(__name__)

_AGAIN_S: Final = 1.0
_MOST_PARTS: Final = 16
_GONE: Final = LineAnswer(
    500, b'{"error":{"message":"the input file was deleted","type":"server_error","code":"gone"}}'
)
_BROKEN: Final = LineAnswer(
    500, b'{"error":{"message":"internal error: see the server\'s log","type":"server_error","code":"internal"}}'
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LineAsked:
    """A request that is to be answered."""

    tenant: str
    name: str
    """That of its generations, as it begins."""
    endpoint: str
    body: dict[str, Any]
    deadline: int
    """Microseconds since the Unix epoch."""


class Answerer(Protocol):
    """Answers requests."""

    async def answer(self, asked: LineAsked) -> tuple[LineAnswer, Usage]:
        """Answer one; asked again under the same name, it gives the same answer and asks no model twice."""

    async def abort(self, tenant: str, name: str) -> None:
        """End what goes on under a name."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What a process does for batches at once, and how large one may be."""

    lines: int
    """Of a batch at most."""
    width: int
    """Lines that are answered at a time: of one batch, and of all together."""


class BatchPerformer:
    """The `Performer` of batches."""

    def __init__(
        self, files: Files, answerer: Answerer, limits: BatchLimits, clock: Clock, shared: Slots | None = None
    ) -> None:
        """Make it.

        Args:
            files: where requests and answers are.
            answerer: answers them.
            limits: how much is done at once.
            clock: says when it is.
            shared: the places of all processes together, where there are several; as many as `limits.width`.
        """
        self._files = files
        self._answerer = answerer
        self._limits = limits
        self._clock = clock
        self._room = _Room(limits.width) if shared is None else shared
        self._parts: OrderedDict[tuple[str, str], tuple[int, list[bytes]]] = OrderedDict()
        """By tenant and file, the part that was read last: its lines, and the number of the first."""

    async def look_up(self, command: Command, state: Any = None) -> Asked:
        """Look for nothing: the file is read later."""
        return Asked(command)

    def resumption(self, effect: Effect) -> Event | None:
        """Note nothing: all of it may be done again."""
        return None

    def must_finish(self, effect: Effect) -> bool:
        """Leave all of it to the next owner."""
        return False

    async def abort(self, effect: Effect, site: Site) -> None:
        """End what a line's answer is made of."""
        if isinstance(effect, AnswerLine):
            await self._answerer.abort(site.tenant, effect.id)

    async def perform(self, effect: Effect, site: Site, again: bool) -> Event:
        """Read, answer, wait or close."""
        match effect:
            case AwaitExpiry(id=identity, at=at):
                await wait_until(self._clock, at)
                return BatchExpired(identity, at)
            case ReadFile():
                return await _surely(lambda: self._read(effect, site), lambda: self._unread(effect))
            case AnswerLine():
                async with self._room.one():
                    return await self._answer(effect, site)
            case CloseFiles():
                return await _surely(lambda: self._close(effect, site), lambda: self._unwritten(effect))
            case _:
                raise AssertionError(f"not an effect of a batch: {effect!r}")

    async def _read(self, effect: ReadFile, site: Site) -> BatchRead:
        batch, limits = effect.batch, self._limits
        row = await self._files.find(site.tenant, batch.input_file)
        reading = Reading(batch.endpoint, limits.lines)
        if row is None or not row.complete:
            problem = LineProblem("file_not_found", f"no file {batch.input_file!r}", param="input_file_id")
            return BatchRead(effect.id, self._clock.now(), 0, limits.width, (problem,))
        async for _, part in self._files.parts(site.tenant, batch.input_file):
            for number, line in enumerate(lines_of(part)):
                reading.take(line)
                if number % 256 == 255:
                    await asyncio.sleep(0)  # others have their turn
        problems = reading.over()
        if not problems:
            await self._begin_files(site, batch)
        return BatchRead(effect.id, self._clock.now(), reading.total, limits.width, problems)

    async def _begin_files(self, site: Site, batch: Batch) -> None:
        now, kept_s = self._clock.now(), batch.output_expires_s
        expires = now + 1_000_000 * (batch.window_s + kept_s) if kept_s else 0
        for name, kind in ((output_file(site.thread), "output"), (error_file(site.thread), "error")):
            await self._files.begin(site.tenant, name, f"{site.thread}_{kind}.jsonl", "batch_output", now, expires)

    async def _answer(self, effect: AnswerLine, site: Site) -> BatchLineEnded:
        line = await _surely(lambda: self._line(site.tenant, effect.batch, effect.line), lambda: _BROKEN)
        if isinstance(line, LineAnswer):
            answer, usage, custom_id = line, Usage(), ""
        else:
            asked = LineAsked(site.tenant, effect.id, effect.batch.endpoint, line.body, effect.expires)
            answer, usage = await self._answerer.answer(asked)
            custom_id = line.custom_id
        data = answered(effect.id, custom_id, answer)
        # what could not be written is told of when the files are closed
        told = await _surely(lambda: self._put(site, effect.line, data, failed=answer.failed), lambda: None)
        return BatchLineEnded(effect.id, effect.line, failed=answer.failed or told is None, usage=usage)

    def _unread(self, effect: ReadFile) -> BatchRead:
        problem = LineProblem("internal_error", "the file cannot be read: see the server's log", param="input_file_id")
        return BatchRead(effect.id, self._clock.now(), 0, self._limits.width, (problem,))

    def _unwritten(self, effect: CloseFiles) -> BatchWritten:
        return BatchWritten(effect.id, effect.outcome, self._clock.now(), "", "", 0, 0)

    async def _line(self, tenant: str, batch: Batch, number: int) -> BatchLine | LineAnswer:
        where = (tenant, batch.input_file)
        first, lines = self._parts.get(where, (0, []))
        if not first <= number < first + len(lines):
            try:
                first, part = await self._files.part_of(*where, number)
            except NoSuchFile:
                return _GONE
            lines = lines_of(part)
            self._parts[where] = first, lines
            if len(self._parts) > _MOST_PARTS:
                self._parts.popitem(last=False)
        return read_line(lines[number - first])

    async def _put(self, site: Site, line: int, data: bytes, *, failed: bool) -> bool:
        into, other = error_file(site.thread), output_file(site.thread)
        if not failed:
            into, other = other, into
        return await self._files.put(site.tenant, into, line, data, instead_of=other)

    async def _close(self, effect: CloseFiles, site: Site) -> BatchWritten:
        files, outcome = self._files, effect.outcome
        tenant, out, err = site.tenant, output_file(site.thread), error_file(site.thread)
        row = await files.find(tenant, err)
        if row is not None and not row.complete:
            there = await files.numbers(tenant, out) | await files.numbers(tenant, err)
            if len(there) < effect.total:
                await self._tell_unanswered(effect, site, there)
        output, errors = await files.complete(tenant, out), await files.complete(tenant, err)
        return BatchWritten(
            effect.id,
            outcome,
            self._clock.now(),
            "" if output is None else out,
            "" if errors is None else err,
            0 if output is None else output.lines,
            0 if errors is None else errors.lines,
        )

    async def _tell_unanswered(self, effect: CloseFiles, site: Site, there: set[int]) -> None:
        async for first, part in self._files.parts(site.tenant, effect.batch.input_file):
            for number, line in enumerate(lines_of(part), first):
                if number not in there:
                    name = f"{site.thread}-{number}"
                    data = unanswered(name, read_line(line).custom_id, effect.outcome)
                    await self._files.put(site.tenant, error_file(site.thread), number, data)


class _Room:
    """The places of a process that is alone."""

    def __init__(self, count: int) -> None:
        self._places = asyncio.Semaphore(count)

    def one(self) -> asyncio.Semaphore:
        """Take a place as soon as there is one, and leave it."""
        return self._places


async def _surely(work: Callable[[], Awaitable[T]], otherwise: Callable[[], T]) -> T:
    """Do something with the database; while that is away it is waited for, and what breaks the code is given up."""
    while True:
        try:
            return await work()
        except (Unavailable, TimeoutError) as error:
            log.warning("batches wait for the database: %s", error)
            await asyncio.sleep(_AGAIN_S)
        except BusError:
            raise
        except Exception as error:  # noqa: BLE001  it must not stand still for ever
            log.error("a batch cannot go on as it should: %s", fault(error))  # noqa: TRY400
            return otherwise()
