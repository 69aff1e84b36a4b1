"""The routes of AG-UI: an agent is a URL, and a thread of its clients one of ours."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from infra.bridge.agui.asking import NOTE, answered_in, answers, read_input, results_in, run_agent
from infra.bridge.agui.events import AguiEncoder, run_finished, run_started
from infra.bridge.agui.history import history
from infra.bridge.agui.state import ThreadState
from infra.bridge.callers import caller_of
from infra.bridge.desk import Desk
from infra.bridge.doors import Door, Workplace
from infra.bridge.handing import heard, left_out
from infra.bridge.openai import BadRequest
from infra.bridge.ownership import keep_out_of_others, keep_to_own
from infra.bridge.telling.counter import Counter
from infra.bridge.telling.recorded import commands_in, noted_in, thread_of
from infra.bridge.telling.tapes import Tape
from schemas.agui import AguiInput
from schemas.live import Committed


@dataclass(frozen=True)
class _Agents:
    desk: Desk
    counter: Counter

    async def run(self, request: Request) -> Response:
        """Run an agent on what is new in a thread, go on with a run whose client answers, or tell what was said."""
        asked = read_input(await request.body())
        thread = thread_of(asked.thread_id, "threadId")
        begins = asked.messages and not asked.resume and not results_in(asked)
        keep = keep_out_of_others if begins else keep_to_own
        await keep(self.desk, request, thread, "threadId")
        events = await self.counter.record.thread_events(caller_of(request).tenant, thread)
        if not asked.messages and not asked.resume:
            return await self._told(asked, events)
        state = ThreadState(events)
        if asked.resume or results_in(asked):
            tape = await self._gone_on(request, asked, thread, state)
        else:
            tape = await self._begun(request, asked, thread, events, state)
        return await self.counter.told(request, tape, _opened(tape, asked, state), left_out(request))

    async def stop(self, request: Request) -> Response:
        """End the run that is under way in a thread."""
        thread = thread_of(request.path_params["thread_id"], "thread_id")
        await keep_to_own(self.desk, request, thread, "thread_id")
        return await self.counter.stop(request, thread)

    async def _begun(
        self, request: Request, asked: AguiInput, thread: str, events: list[Committed], state: ThreadState
    ) -> Tape:
        commands = commands_in(events)
        known = {name for command in commands for name in noted_in(command, NOTE)}
        data = run_agent(asked, request.path_params["agent"], known, state.wanted(asked.state))
        data = heard(self.desk, request, data)
        if commands and (await self.counter.record.run_of(commands[-1])).reader.paused:
            # who says something else in place of an answer does not want the run that waits for it
            data = msgspec.structs.replace(data, when_busy="replace")
        if data.working:
            state.working = data.working
        command = self.desk.command(request, data, thread)
        return await self.counter.begin(command, AguiEncoder(command, asked, state))

    async def _gone_on(self, request: Request, asked: AguiInput, thread: str, state: ThreadState) -> Tape:
        tenant = caller_of(request).tenant
        run = await self.counter.record.waiting_run(tenant, thread, answered_in(asked))
        if run is None:
            raise BadRequest(404, "threadId: there is no such thread", "threadId", "thread_not_found")
        given = answers(asked, run.command.id, run.reader.waits)
        tape = Tape(run.command, AguiEncoder(run.command, asked, state, run.reader))
        return await self.counter.go_on(request, run, given, tape)

    async def _told(self, asked: AguiInput, events: list[Committed]) -> Response:
        """Tell what was said in a thread."""
        runs = [await self.counter.record.run_of(command) for command in commands_in(events)]
        told = [
            run_started(asked),
            {"type": "STATE_SNAPSHOT", "snapshot": ThreadState(events).snapshot(asked.state)},
            {"type": "MESSAGES_SNAPSHOT", "messages": history(asked, runs)},
            run_finished(asked, {"type": "success"}),
        ]
        body = b"".join(map(AguiEncoder.framing.event, told))
        return Response(body, headers={"cache-control": "no-cache"}, media_type="text/event-stream")


async def _opened(tape: Tape, asked: AguiInput, state: ThreadState) -> AsyncGenerator[bytes]:
    """Put what a thread keeps in mind behind a run's first event."""
    snapshot = AguiEncoder.framing.event({"type": "STATE_SNAPSHOT", "snapshot": state.snapshot(asked.state)})
    first = True
    async for piece in tape.play():
        yield piece
        if first:
            yield snapshot
        first = False


def agui_doors(desk: Desk) -> list[Door]:
    """List them."""
    agents = _Agents(desk, Counter(desk))
    return [
        Workplace("/ag-ui/{agent}", agents.run, "agents", methods=("POST",)),
        Door("/ag-ui/{agent}/threads/{thread_id}/stop", agents.stop, "agents", methods=("POST",)),
    ]
