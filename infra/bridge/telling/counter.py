"""What the routes of these protocols have in common: a run is begun, gone on with, told again or ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from bus.errors import BusError
from bus.steps import frames_of_call
from infra.bridge.callers import caller_of, request_id_of
from infra.bridge.desk import Desk
from infra.bridge.doors import house_of
from infra.bridge.exchange import ClientGone, Encoder, Exchange, Stream, while_there
from infra.bridge.openai import THREAD_HEADER, BadRequest, refusal
from infra.bridge.telling.below import with_what_is_below
from infra.bridge.telling.encoder import PieceEncoder
from infra.bridge.telling.recorded import Record, RecordedRun
from infra.bridge.telling.tapes import Tape, Tapes
from infra.follow import attend, follow, send
from schemas.commands import AbortRun, Approve, Command, Deny, PostResult, Resume, RunAgent
from schemas.live import Delta, Frame

FOLLOWED_S: Final = 86_400.0
"""A run may wait for a day behind another one."""
_NO_BUFFERING: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}

Answer = Approve | Deny | Resume | PostResult | AbortRun


class Counter:
    """Where the runs of one protocol are asked for."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.record = Record(desk)
        self.tapes = Tapes(self.record)

    async def begin(self, command: Command, encoder: PieceEncoder) -> Tape:
        """Send a command that runs an agent, and record what comes of it.

        Raises:
            BadRequest: nothing new can be begun.
        """
        ready = await self.desk.ready(command)
        frames = follow(self.desk.connection, self.desk.read_back, ready, FOLLOWED_S)
        return self._recorded(Tape(ready, encoder), frames)

    async def go_on(self, request: Request, run: RecordedRun, answers: Sequence[Answer], tape: Tape) -> Tape:
        """Answer what a run waits for, and record what comes of it.

        Raises:
            BadRequest: it does not wait for that any more.
        """
        threads = {wait.effect: wait.thread for wait in run.reader.waits}
        run.reader.expect(answer.effect for answer in answers if not isinstance(answer, AbortRun))
        own = run.command.thread
        commands = [
            self._answering(request, own if isinstance(answer, AbortRun) else threads[answer.effect], answer)
            for answer in answers
        ]
        await sent(self.desk, commands)
        return self.rejoin(run, tape)

    def rejoin(self, run: RecordedRun, tape: Tape) -> Tape:
        """Record what comes of a run that is under way."""
        command = run.command

        async def frames_of(effect: str) -> Sequence[Delta]:
            return (await frames_of_call(await self.desk.store(), command.tenant, "run", command.id, effect)).deltas

        about = (self.desk.connection, self.desk.read_back, command, frames_of)
        return self._recorded(tape, attend(*about, timeout_s=FOLLOWED_S, after=run.reader.version))

    def _recorded(self, tape: Tape, frames: AsyncIterator[Frame]) -> Tape:
        """Record what comes of a run, and of the runs of other agents that it asks."""
        reader, whose = tape.encoder.reader, (tape.command.tenant, tape.command.thread)
        return self.tapes.begin(tape, with_what_is_below(frames, self.desk, whose, lambda: reader.open_calls))

    async def told(
        self, request: Request, tape: Tape, pieces: AsyncGenerator[bytes], headers: Mapping[str, str]
    ) -> Response:
        """Answer with the pieces of a tape.

        Raises:
            BadRequest: there is nothing on it.
        """
        try:
            await while_there(request, tape.begun())
        except ClientGone:
            return Response(status_code=499)
        return self._streamed(request, tape, pieces, headers)

    async def retold(self, request: Request, tape: Tape, headers: Mapping[str, str]) -> Response:
        """Answer with all that there is to tell of a tape's run.

        Raises:
            BadRequest: there is nothing.
        """
        if tape.goes_on:
            return self._streamed(request, tape, tape.replay(), headers)
        return await self.told(request, tape, tape.replay(), headers)

    def _streamed(
        self, request: Request, tape: Tape, pieces: AsyncGenerator[bytes], headers: Mapping[str, str]
    ) -> Response:
        """Stream pieces of a tape."""
        playing = self._playing(tape, pieces, request_id_of(request))
        sent = {**headers, **_NO_BUFFERING, THREAD_HEADER: tape.command.thread}
        return Stream(playing, playing, sent, house_of(request).limits, tape.encoder.framing.idle)

    async def _playing(self, tape: Tape, pieces: AsyncGenerator[bytes], name: str) -> AsyncGenerator[bytes]:
        # nobody asks it for a whole answer
        exchange = Exchange([tape.command], cast("Encoder", tape.encoder), True, False)
        self.desk.under_way.enter(exchange, name)
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
        finally:
            self.desk.under_way.leave(exchange, name)

    def _answering(self, request: Request, thread: str, data: Answer) -> Command:
        """Make a command of an answer."""
        asked = self.desk.command(request, RunAgent(agent=""), thread)
        verb: Any = data.__struct_config__.tag
        return msgspec.structs.replace(asked, verb=verb, data=data)

    async def stop(self, request: Request, thread: str) -> Response:
        """End a thread's run, if one is under way.

        Raises:
            BadRequest: nobody can be told.
        """
        tenant = caller_of(request).tenant
        tape = self.tapes.of(tenant, thread)
        run = None if tape is not None else await self.record.latest_run(tenant, thread)
        command = tape.command if tape is not None else run.command if run is not None and not run.reader.over else None
        if command is not None:
            try:
                await self.desk.abort(tenant, command.id, "a client stopped it", thread)
            except (BusError, TimeoutError) as error:
                raise BadRequest(503, "the event bus does not answer: try again", None, "unavailable") from error
        return Response(status_code=204)


async def sent(desk: Desk, commands: Sequence[Command]) -> None:
    """Send answers to what waits, one after another.

    Raises:
        BadRequest: one is not waited for, or nothing can be taken now.
    """
    await desk.ready(commands[-1])
    for command in commands:
        try:
            outcome = await send(desk.connection, command)
        except (BusError, TimeoutError) as error:
            raise BadRequest(503, "the event bus does not answer: try again", None, "unavailable") from error
        if outcome.problem is not None:
            raise refusal(outcome.problem)
