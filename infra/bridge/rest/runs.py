"""Runs over HTTP: begun, told of, listed, streamed and ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from bus.commands import send_command
from bus.errors import BusError
from bus.steps import frames_of_call
from bus.under_way import RunsWanted, runs_of
from infra.bridge.callers import caller_of
from infra.bridge.doors import Door, Operation, house_of
from infra.bridge.exchange import ClientGone, Stream, while_there
from infra.bridge.late import lately
from infra.bridge.openai import BadRequest
from infra.bridge.ownership import keep_out_of_others
from infra.bridge.rest.answering import Rest, body_of, missing, named, query_of
from infra.bridge.rest.repeats import KEY, Repeats
from infra.bridge.rest.stream import LAST_EVENT_ID, RunEvents, broken_off, place_of
from infra.bridge.rest.told import run_of
from infra.follow import attend
from schemas import codec
from schemas.commands import Command, RunAgent
from schemas.live import Committed, Delta, Frame
from schemas.openai import ErrorResponse
from schemas.rest import Cancelling, Done, RunLine, Runs, RunShown, RunsQuery, StartRun
from schemas.rest_stream import EventsQuery, RunTold

_DAY_S: Final = 86_400.0
_DECIDED_S: Final = 60.0
_OWN: Final = frozenset({"stream", "wait_s", "timeout_s"})
"""Of a request, what is not the run's."""
_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class RunRoutes(Rest):
    """What can be done with runs."""

    def doors(self) -> list[Door]:
        """List the routes."""
        streamed: Any = {"streams": True, "tells": (RunTold, ErrorResponse)}
        thread, run = "/api/threads/{thread}/runs", "/api/threads/{thread}/runs/{run}"
        fresh, going_on = (
            Operation(f"Ask an agent, in {where}", StartRun, RunShown, status=202, headers=(KEY,), **streamed)
            for where in ("a new thread", "a thread")
        )
        told = "Tell of a run from its first event on, or from behind `Last-Event-ID`"
        return [
            self.workplace("/api/runs", self.start, fresh),
            self.door("/api/runs", self.listed, Operation("List runs", query=RunsQuery, gives=Runs)),
            self.workplace(thread, self.start, going_on),
            self.door(run, self.get, Operation("Tell how a run stands", gives=RunShown)),
            self.door(
                f"{run}/events",
                self.events,
                Operation(told, headers=(LAST_EVENT_ID,), query=EventsQuery, **streamed),
            ),
            self.door(f"{run}/cancel", self.cancel, Operation("End a run", takes=Cancelling, gives=Done), "POST"),
        ]

    @property
    def _repeats(self) -> Repeats:
        return Repeats(self.desk)

    async def start(self, request: Request) -> object:
        """Begin a run; tell of it at once, when it is over, or as it goes on."""
        asked = await body_of(request, StartRun)
        if asked.agent not in self.desk.agents:
            there = ", ".join(self.desk.agents) or "none"
            raise BadRequest(404, f"agent: there is no {asked.agent!r}, there are {there}", "agent", "agent_not_found")
        frames, command = await self._begun(request, asked)
        if asked.stream:
            return await self._streamed(request, frames)
        async with aclosing(frames):
            try:
                heard = await while_there(request, self._heard(frames, asked.wait_s))
            except ClientGone:
                return Response(status_code=499)
            except BadRequest as problem:
                raise _of_the_request(problem, asked) from problem
        if heard:
            return run_of(command.id, command.thread, heard)
        return RunShown(command.id, command.thread, asked.agent, "queued")

    async def listed(self, request: Request) -> Runs:
        """List runs, as far as they are recorded."""
        asked = query_of(request, RunsQuery)
        caller = caller_of(request)
        wanted = RunsWanted(asked.thread, asked.agent, asked.status, asked.before, caller.resource or None)
        rows = await runs_of(await self.desk.store(), caller.tenant, wanted, asked.limit)
        lines = tuple(RunLine(row.run, row.thread, *row[3:]) for row in rows)
        return Runs(lines, lines[-1].asked if len(lines) == asked.limit else None)

    async def get(self, request: Request) -> RunShown:
        """Tell how a run stands."""
        return await self._shown(caller_of(request).tenant, named(request, "thread"), named(request, "run"))

    async def events(self, request: Request) -> Response:
        """Tell of a run as it goes on."""
        after = place_of(request.headers.get(LAST_EVENT_ID, "") or request.query_params.get("last_event_id", ""))
        tenant, thread, run = caller_of(request).tenant, named(request, "thread"), named(request, "run")
        await self._shown(tenant, thread, run)
        command = Command(run, tenant, "agent", thread, "run", RunAgent(agent=""), "http", "", "")
        return self._stream(request, self._frames(command, begun=True), RunEvents(after))

    async def cancel(self, request: Request) -> Done:
        """End a run, whatever it is doing."""
        asked, thread, run = await body_of(request, Cancelling), named(request, "thread"), named(request, "run")
        await self._shown(caller_of(request).tenant, thread, run)
        await self.client(request).abort(thread, run, asked.reason or "a client cancelled it")
        return Done()

    async def _begun(self, request: Request, asked: StartRun) -> tuple[AsyncGenerator[Frame], Command]:
        """Begin a run, or go on with the one that the same request began before.

        Raises:
            BadRequest: the key that names it is another request's.
        """
        where = named(request, "thread") if "thread" in request.path_params else None
        fields = {
            name: value
            for name in asked.__struct_fields__
            if name not in _OWN and (value := getattr(asked, name)) is not None
        }
        if where is not None:
            await keep_out_of_others(self.desk, request, where)
        data = self.desk.timed(RunAgent(**fields), asked.timeout_s)
        fresh = self.desk.command(request, data, where)
        command = self._repeats.named(request, fresh, where)
        if command is fresh:
            command = await self.desk.ready(command)
            return self._frames(command, begun=False), command
        earlier = await self._repeats.earlier(command)
        if earlier is not None:
            return self._repeats.known(self._frames(earlier, begun=True)), earlier
        command = await self.desk.ready(command)
        return self._repeats.checked(self._frames(command, begun=False), command), command

    async def _streamed(self, request: Request, frames: AsyncGenerator[Frame]) -> Response:
        """Tell of a run as it goes on, as soon as anything is to be told: until then it may be refused.

        Raises:
            BadRequest: it is.
        """
        try:
            first = await while_there(request, _next(frames))
        except ClientGone:
            await frames.aclose()
            return Response(status_code=499)

        async def all_frames() -> AsyncGenerator[Frame]:
            async with aclosing(frames):
                if first is not None:
                    yield first
                async for frame in frames:
                    yield frame

        return self._stream(request, all_frames(), RunEvents())

    def _frames(self, command: Command, *, begun: bool) -> AsyncGenerator[Frame]:
        async def frames_of(effect: str) -> Sequence[Delta]:
            found = await frames_of_call(await self.desk.store(), command.tenant, "run", command.id, effect)
            return found.deltas

        async def begin() -> None:
            await send_command(self.desk.connection, command)

        async def all_frames() -> AsyncGenerator[Frame]:
            about = (self.desk.connection, self.desk.read_back, command, frames_of)
            async for frame in attend(*about, begin=None if begun else begin, timeout_s=_DAY_S):
                yield frame

        return all_frames()

    async def _heard(self, frames: AsyncIterator[Frame], wait_s: float) -> list[Committed]:
        """Wait until a command is decided, and then for so long until its run is over; return its events.

        Raises:
            BadRequest: it was refused.
        """
        encoder, events = RunEvents(), list[Committed]()
        try:
            async with asyncio.timeout(_DECIDED_S) as limit:
                decided = False
                async for frame in frames:
                    encoder.feed(frame)
                    if encoder.problem is not None:
                        raise broken_off(encoder.problem)
                    if isinstance(frame, Committed):
                        events.append(frame)
                    if not decided:
                        decided = True
                        limit.reschedule(asyncio.get_running_loop().time() + wait_s)
        except TimeoutError:
            pass  # it goes on
        return events

    async def _shown(self, tenant: str, thread: str, run: str) -> RunShown:
        """Tell how a run stands that there is.

        Raises:
            BadRequest: there is none.
        """

        async def look() -> RunShown | None:
            events = await self.desk.read_back(tenant, thread, "run", run, 0)
            if any(codec.is_erased(event.data) for event in events):
                raise missing("run", run)  # its thread was deleted
            if events:
                return run_of(run, thread, events)
            command = await self._repeats.accepted(tenant, thread, run)
            if command is None or not isinstance(command.data, RunAgent):
                return None
            return RunShown(run, thread, command.data.agent, "queued")

        shown = await lately(self.desk, look)
        if shown is None:
            raise missing("run", run)
        return shown

    def _stream(self, request: Request, frames: AsyncGenerator[Frame], encoder: RunEvents) -> Response:
        async def written() -> AsyncGenerator[bytes]:
            try:
                async for frame in frames:
                    for event in encoder.feed(frame):
                        yield event
                    if encoder.problem is not None:
                        yield encoder.failed(broken_off(encoder.problem))
                        return
            except (BusError, TimeoutError):
                yield encoder.failed(broken_off(None))

        return Stream(written(), frames, dict(_HEADERS), house_of(request).limits, encoder.idle)


async def _next(frames: AsyncGenerator[Frame]) -> Frame | None:
    return await anext(frames, None)


def _of_the_request(problem: BadRequest, asked: StartRun) -> BadRequest:
    """Tell a tool that is not there as what is wrong with a request that named it, and not with its agent."""
    error = problem.body.error
    named = {"active_tools": asked.active_tools is not None, "tool": bool(asked.tool), "mode": asked.mode is not None}
    if error.code != "agent_definition" or not named.get(error.param or ""):
        return problem
    return BadRequest(400, error.message, error.param, "invalid_value")
