"""The routes of the AI SDK's chats. A conversation is a thread, named after its id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from infra.bridge.aisdk.asking import NOTE, answered_in, answering, answers, read_chat, run_agent
from infra.bridge.aisdk.events import HEADERS, UiEncoder
from infra.bridge.aisdk.stored import ui_messages
from infra.bridge.callers import caller_of
from infra.bridge.desk import Desk
from infra.bridge.doors import Door, Workplace
from infra.bridge.handing import heard, left_out
from infra.bridge.openai import AGENT_PREFIX, BadRequest
from infra.bridge.ownership import keep_out_of_others, keep_to_own
from infra.bridge.telling.counter import Counter
from infra.bridge.telling.recorded import (
    RecordedRun,
    commands_in,
    noted_in,
    thread_of,
)
from infra.bridge.telling.tapes import Tape
from infra.running import Waiting
from schemas.messages import ToolCall
from schemas.uimessages import ChatAsked, UiMessage


@dataclass(frozen=True)
class _Chats:
    desk: Desk
    counter: Counter

    async def send(self, request: Request) -> Response:
        """Run an agent on what is new in a conversation, or go on with a run whose calls the client answers."""
        asked = read_chat(await request.body())
        thread = thread_of(asked.id, "id")
        message = answering(asked)
        keep = keep_out_of_others if message is None else keep_to_own
        await keep(self.desk, request, thread, "id")
        if message is None:
            tape = await self._begun(request, asked, thread)
        else:
            tape = await self._gone_on(request, message, thread)
        return await self.counter.told(request, tape, tape.play(), {**HEADERS, **left_out(request)})

    async def resume(self, request: Request) -> Response:
        """Tell what is under way in a conversation, from its beginning; 204 where nothing is."""
        tenant, thread = await self._where(request)
        tape = self.counter.tapes.of(tenant, thread)
        if tape is None:
            run = await self.counter.record.latest_run(tenant, thread)
            if run is None or run.reader.over or run.reader.paused:
                return Response(status_code=204)
            tape = self.counter.rejoin(run, _tape(run))
        return await self.counter.retold(request, tape, HEADERS)

    async def stop(self, request: Request) -> Response:
        """End the run that is under way in a conversation."""
        return await self.counter.stop(request, (await self._where(request))[1])

    async def stored(self, request: Request) -> Response:
        """List the messages of a conversation."""
        tenant, thread = await self._where(request)
        events = await self.counter.record.thread_events(tenant, thread)
        runs = [await self.counter.record.run_of(command) for command in commands_in(events)]
        return Response(msgspec.json.encode(ui_messages(runs)), media_type="application/json")

    async def _where(self, request: Request) -> tuple[str, str]:
        thread = thread_of(request.path_params["chat_id"], "chat_id")
        await keep_to_own(self.desk, request, thread, "chat_id")
        return caller_of(request).tenant, thread

    async def _begun(self, request: Request, asked: ChatAsked, thread: str) -> Tape:
        data = run_agent(asked, self._agent(request, asked), ())
        if len(data.messages) > 1:
            # an earlier attempt may have brought some of them
            events = await self.counter.record.thread_events(caller_of(request).tenant, thread)
            known = {name for command in commands_in(events) for name in noted_in(command, NOTE)}
            data = run_agent(asked, data.agent, known)
        command = self.desk.command(request, heard(self.desk, request, data), thread)
        return await self.counter.begin(command, UiEncoder(command))

    async def _gone_on(self, request: Request, message: UiMessage, thread: str) -> Tape:
        tenant, answered = caller_of(request).tenant, answered_in(message)
        run = await self.counter.record.waiting_run(tenant, thread, answered)
        if run is None:
            raise BadRequest(404, "id: there is no such conversation", "id", "thread_not_found")
        given = answers(message, run.reader.waits)
        known = {part.toolCallId for part in message.parts if part.tool}
        below = [one for one in run.reader.calls_below if one[0].id not in known]
        return await self.counter.go_on(request, run, given, _tape(run, below))

    def _agent(self, request: Request, asked: ChatAsked) -> str:
        """Say who is asked.

        Raises:
            BadRequest: nobody is.
        """
        named: str = request.path_params.get("agent") or asked.agent.removeprefix(AGENT_PREFIX)
        if not named and len(self.desk.agents) != 1:
            raise BadRequest(400, "agent: name one, here or in the path", "agent", "missing")
        return named or self.desk.agents[0]


def _tape(run: RecordedRun, below: Sequence[tuple[ToolCall, Waiting | None]] = ()) -> Tape:
    """Make the tape of what is to come of a run, which knows what was."""
    before = [UiEncoder.framing.event(chunk) for chunk in UiEncoder(run.command).retold(run.events)]
    return Tape(run.command, UiEncoder(run.command, run.reader, below), before)


def aisdk_doors(desk: Desk) -> list[Door]:
    """List them."""
    chats, doors = _Chats(desk, Counter(desk)), list[Door]()
    for path in ("/api/chat", "/api/agents/{agent}/chat"):
        doors += [
            Workplace(path, chats.send, "agents", methods=("POST",)),
            Door(f"{path}/{{chat_id}}/stream", chats.resume, "agents"),
            Door(f"{path}/{{chat_id}}/stop", chats.stop, "agents", methods=("POST",)),
            Door(f"{path}/{{chat_id}}/messages", chats.stored, "agents"),
        ]
    return doors
