"""The routes of OpenAI's Responses API."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from bus.errors import BusError
from infra.bridge.callers import caller_of
from infra.bridge.desk import Desk
from infra.bridge.doors import Door, Workplace
from infra.bridge.exchange import Exchange
from infra.bridge.openai import AGENT_PREFIX, BadRequest
from infra.bridge.responses.asking import chat_request, read_responses, wrong
from infra.bridge.responses.events import ResponseEncoder, ResponsesFraming
from infra.bridge.responses.kept import Kept, kept
from infra.bridge.responses.noting import noted
from schemas.commands import RunAgent
from schemas.responses import ResponsesRequest

_EARLIER_S: Final = 5.0
"""How long an earlier response may take to be recorded whole."""
_CANCEL_S: Final = 5.0
_MOST_TOLD: Final = 256
"""Responses of which it is remembered that their end was told here."""


@dataclass(frozen=True)
class _Responses:
    desk: Desk
    told: OrderedDict[str, ResponseEncoder] = field(default_factory=OrderedDict)
    """By id: whoever heard the end of one is not to read later that it goes on, though the record is a moment late."""

    async def create(self, request: Request) -> Response:
        """Answer with an agent or a bare generation, after an earlier response or not."""
        asked = read_responses(await request.body())
        earlier = await self._earlier(request, asked)
        return await self.desk.served(request, lambda request, body: self._exchange(request, asked, earlier))

    async def retrieve(self, request: Request) -> Response:
        """Tell how a response stands."""
        if request.query_params.get("stream", "false").lower() != "false":
            raise wrong("stream", "what was streamed is told whole afterwards: leave it out")
        identity = request.path_params["response_id"]
        told = self.told.get(identity)
        wait_s = _EARLIER_S if told is not None and told.over else 0.0
        return _json((await self._kept(request, identity, wait_s)).encoder.response())

    async def cancel(self, request: Request) -> Response:
        """End a response that is under way."""
        identity = request.path_params["response_id"]
        found = await self._kept(request, identity)
        if not found.encoder.over:
            caller = caller_of(request)
            agent = isinstance(found.command.data, RunAgent)
            caller.must("agents" if agent else "inference")
            thread = found.command.thread if agent else None
            await self.desk.abort(caller.tenant, found.command.id, "a client cancelled it", thread)
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
        if agent != isinstance(found.command.data, RunAgent):
            raise wrong("previous_response_id", "an agent goes on from an agent's, a model from a model's")
        if not agent and (found.answer is None or found.encoder.problem is not None):
            raise wrong("previous_response_id", "this one has no answer to go on from")
        return found

    async def _kept(self, request: Request, identity: str, over_s: float = 0.0) -> Kept:
        try:
            return await kept(self.desk.read_back, caller_of(request).tenant, identity, over_s=over_s)
        except (BusError, TimeoutError) as error:
            raise BadRequest(503, "the record cannot be asked: try again", None, "unavailable") from error

    def _exchange(self, request: Request, asked: ResponsesRequest, earlier: Kept | None) -> Exchange:
        agent = asked.model.startswith(AGENT_PREFIX)
        before = () if earlier is None or agent else earlier.history()
        thread = earlier.command.thread if earlier is not None and agent else None
        bare = self.desk.conversation(request, chat_request(asked, before), thread)
        command = noted(bare, asked, self.desk.seconds())
        encoder = ResponseEncoder(command)
        framing = ResponsesFraming(encoder)
        self.told[encoder.response()["id"]] = encoder
        if len(self.told) > _MOST_TOLD:
            self.told.popitem(last=False)
        return Exchange([command], encoder, asked.stream, False, framing=framing, background=asked.background is True)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def responses_doors(desk: Desk) -> list[Door]:
    """List them."""
    responses, path = _Responses(desk), "/v1/responses"
    return [
        Workplace(path, responses.create, "inference", "agents", methods=("POST",)),
        Door(f"{path}/{{response_id}}", responses.retrieve, "inference", "agents"),
        Door(f"{path}/{{response_id}}/cancel", responses.cancel, "inference", "agents", methods=("POST",)),
    ]
