"""The routes of OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from bus.errors import BusError
from infra.bridge.asked_of_agents import LEFT_OUT
from infra.bridge.callers import Caller, caller_of
from infra.bridge.desk import Desk
from infra.bridge.doors import Door, Workplace, house_of
from infra.bridge.exchange import Exchange, Stream
from infra.bridge.handed import Told
from infra.bridge.handing import gone_on, in_turn
from infra.bridge.openai import AGENT_PREFIX, BadRequest, in_its_words, refusal
from infra.bridge.responses.asking import RENAMED, chat_request, read_responses
from infra.bridge.responses.events import ResponsesFraming
from infra.bridge.responses.kept import Kept, kept, unknown
from infra.bridge.responses.listing import flag, input_of, listed, number
from infra.bridge.responses.noting import noted
from infra.bridge.responses.offered import left_out
from infra.bridge.responses.refusing import wrong
from infra.bridge.responses.retelling import Memory, Retold, told_again, written_again
from infra.follow import follow, send
from schemas.commands import Command, Generate, PostResult, RunAgent
from schemas.live import Frame
from schemas.memory import DeleteThread
from schemas.responses import ResponsesRequest
from schemas.responses_told import ResponseDeleted

_EARLIER_S: Final = 5.0
"""How long an earlier response may take to be recorded whole."""
_CANCEL_S: Final = 5.0


@dataclass(frozen=True)
class _Responses:
    desk: Desk
    memory: Memory = field(default_factory=Memory)
    """Whoever heard the end of one is not to read later that it goes on, though the record is a moment late."""

    async def create(self, request: Request) -> Response:
        """Answer with an agent or a bare generation, after an earlier response or not."""
        asked = read_responses(await request.body())
        earlier = await self._earlier(request, asked)
        try:
            return await self.desk.served(request, lambda request, body: self._exchange(request, asked, earlier))
        except BadRequest as problem:
            raise in_its_words(problem, RENAMED) from problem.__cause__

    async def retrieve(self, request: Request) -> Response:
        """Tell how a response stands, or all its events from one on, and those that come."""
        identity = request.path_params["response_id"]
        told = self.memory.find(identity)
        if flag(request, "stream"):
            return await self._again(request, identity, number(request, "starting_after"))
        if "starting_after" in request.query_params:
            raise wrong("starting_after", "that is for streams: give `stream=true` as well, or leave it out")
        wait_s = _EARLIER_S if told is not None and told.over else 0.0
        return _json((await self._kept(request, identity, wait_s)).encoder.response())

    async def input_items(self, request: Request) -> Response:
        """List what a response was asked with."""
        identity = request.path_params["response_id"]
        found = await self._kept(request, identity)
        return _json(listed(input_of(found.command, found.results), request))

    async def delete(self, request: Request) -> Response:
        """Have a response be shown no more, and gone on from by nobody."""
        identity = request.path_params["response_id"]
        found = await self._kept(request, identity)
        caller = caller_of(request)
        if not isinstance(found.command.data, Generate):
            raise wrong("response_id", "an agent's response is part of its thread: delete the thread")
        caller.must("inference")
        command = found.command
        deleting = Command(
            *(self.desk.ids.new("d"), caller.tenant, "generation", command.thread, "delete"),
            *(DeleteThread(reason="a client deleted the response"), "http"),
        )
        try:
            outcome = await send(self.desk.connection, deleting)
        except (BusError, TimeoutError) as error:
            raise BadRequest(503, "the event bus does not answer: try again", None, "unavailable") from error
        if outcome.problem is not None:
            raise refusal(outcome.problem)
        self.memory.delete(identity)
        return _json(ResponseDeleted(identity, True))

    async def _again(self, request: Request, identity: str, after: int | None) -> Response:
        """Tell a response's events again.

        Raises:
            BadRequest: there is none, or nobody knows any more what the number was.
        """
        tenant = caller_of(request).tenant
        told = self.memory.find(identity)
        if (
            told is None
            or told.events is None
            or told.command.tenant != tenant
            or not told.kept
            or not _is_own(caller_of(request), told.command)
        ):
            if after is not None:
                wanted = "how this stream was numbered is not known any more: leave it out, and read from the beginning"
                await self._kept(request, identity)
                raise wrong("starting_after", wanted)
            found = await self._kept(request, identity, 0.0)
            told = found.encoder if found.encoder.over else Retold(found.command)
            if found.encoder.problem is not None:
                told.failed()
        name = told.command.id

        def following(command: Command) -> AsyncGenerator[Told]:
            return self._following(request, command)

        def elsewhere() -> bool:
            return (tenant, name) in self.desk.under_way

        events = told_again(told, -1 if after is None else after, elsewhere, following)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return Stream(written_again(events), events, headers, house_of(request).limits)

    async def _following(self, request: Request, command: Command) -> AsyncGenerator[Told]:
        """Hear of a command from its beginning to its end, or to where its client is to act."""

        async def one_by_one() -> AsyncGenerator[Sequence[Frame]]:
            frames = cast("AsyncGenerator[Frame]", follow(self.desk.connection, self.desk.read_back, command))
            async with aclosing(frames):
                async for frame in frames:
                    yield (frame,)

        source = gone_on(self.desk, request, command)
        if source is None and isinstance(command.data, RunAgent):
            source = in_turn(self.desk, command, one_by_one())
        async with aclosing(source or one_by_one()) as together:
            async for several in together:
                for one in several:
                    yield one

    async def cancel(self, request: Request) -> Response:
        """End a response that is under way."""
        identity = request.path_params["response_id"]
        found = await self._kept(request, identity)
        if not found.encoder.over:
            caller = caller_of(request)
            agent = not isinstance(found.command.data, Generate)
            caller.must("agents" if agent else "inference")
            thread = found.command.thread if agent else None
            await self.desk.abort(caller.tenant, found.run, "a client cancelled it", thread)
            found = await self._kept(request, identity, _CANCEL_S)
        return _json(found.encoder.response())

    async def _earlier(self, request: Request, asked: ResponsesRequest) -> Kept | None:
        """Find the response that this one goes on from.

        Raises:
            BadRequest: there is none that can be gone on from.
        """
        name = asked.previous_response_id
        if not name:
            return None
        try:
            found = await self._kept(request, name, _EARLIER_S)
        except BadRequest as error:
            told = error.body.error
            raise BadRequest(error.status, told.message, "previous_response_id", told.code) from error
        agent = asked.model.startswith(AGENT_PREFIX)
        if agent == isinstance(found.command.data, Generate):
            raise wrong("previous_response_id", "an agent goes on from an agent's, a model from a model's")
        if not agent and (found.answer is None or found.encoder.problem is not None):
            raise wrong("previous_response_id", "this one has no answer to go on from")
        return found

    async def _kept(self, request: Request, identity: str, over_s: float = 0.0) -> Kept:
        if self.memory.is_gone(identity):
            raise unknown(identity)
        try:
            found = await kept(self.desk, caller_of(request).tenant, identity, over_s=over_s)
        except (BusError, TimeoutError) as error:
            raise BadRequest(503, "the record cannot be asked: try again", None, "unavailable") from error
        if not _is_own(caller_of(request), found.command):
            raise unknown(identity)
        return found

    def _exchange(self, request: Request, asked: ResponsesRequest, earlier: Kept | None) -> Exchange:
        agent = asked.model.startswith(AGENT_PREFIX)
        before = () if earlier is None or agent else earlier.history()
        thread = earlier.command.thread if earlier is not None and agent else None
        bare = self.desk.conversation(request, chat_request(asked, before), thread)
        command = noted(bare, asked, self.desk.seconds(), len(before), caller_of(request).resource)
        encoder = Retold(command)
        if not asked.stream and not asked.background:
            encoder.forget()  # nobody knows of numbers that could be asked for
        framing = ResponsesFraming(encoder)
        self.memory.keep(encoder.response()["id"], encoder)
        headers = {LEFT_OUT: ", ".join(kinds)} if (kinds := left_out(asked)) else {}
        background = asked.background is True
        return Exchange([command], encoder, asked.stream, False, headers, framing, background)


def _is_own(caller: Caller, command: Command) -> bool:
    """Whether a response is the caller's, where that is one person."""
    data = command.data
    if isinstance(data, RunAgent):
        return caller.resource in {"", data.resource}
    return caller.resource == "" or (
        isinstance(data, Generate | PostResult) and data.note.get("resource") == caller.resource
    )


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def responses_doors(desk: Desk) -> list[Door]:
    """List them."""
    responses, path = _Responses(desk), "/v1/responses"
    return [
        Workplace(path, responses.create, "inference", "agents", methods=("POST",)),
        Door(f"{path}/{{response_id}}", responses.retrieve, "inference", "agents"),
        Door(f"{path}/{{response_id}}", responses.delete, "inference", "agents", methods=("DELETE",)),
        Door(f"{path}/{{response_id}}/input_items", responses.input_items, "inference", "agents"),
        Door(f"{path}/{{response_id}}/cancel", responses.cancel, "inference", "agents", methods=("POST",)),
    ]
