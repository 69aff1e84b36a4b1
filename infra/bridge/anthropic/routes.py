"""The routes of Anthropic's API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from infra.bridge.anthropic.asking import anthropic_error, in_client_words, read_messages
from infra.bridge.anthropic.events import ANTHROPIC, MessageEncoder
from infra.bridge.anthropic.hosted import left_out
from infra.bridge.asked_of_agents import LEFT_OUT
from infra.bridge.chat import last_of
from infra.bridge.desk import Desk
from infra.bridge.doors import Door, Workplace
from infra.bridge.exchange import Exchange
from infra.bridge.openai import BadRequest, command_data
from infra.bridge.tokenizing import ask_texts
from schemas.anthropic import MessagesRequest
from schemas.anthropic_told import TokensCounted
from schemas.commands import Generate
from schemas.openai import ChatRequest
from schemas.texts import Encode, Encoded


@dataclass(frozen=True)
class _Messages:
    desk: Desk

    async def create(self, request: Request) -> Response:
        """Answer with an agent, in a thread, or with a bare generation."""
        asked, chat = read_messages(await request.body())
        try:
            return await self.desk.served(request, lambda request, _: self._exchange(request, asked, chat))
        except BadRequest as problem:
            raise in_client_words(problem, asked) from problem.__cause__

    async def count(self, request: Request) -> Response:
        """Say how many tokens a model would be given."""
        asked, chat = read_messages(await request.body(), counting=True)
        data = command_data(chat, None)
        if not isinstance(data, Generate):
            message = "model: an agent makes its prompts itself: ask for those of its model"
            raise BadRequest(400, message, "model", "invalid_value")
        try:
            told = await ask_texts(self.desk, asked.model, Encode(data), Encoded)
        except BadRequest as problem:
            raise in_client_words(problem, asked) from problem.__cause__
        return Response(msgspec.json.encode(TokensCounted(len(told.tokens))), media_type="application/json")

    def _exchange(self, request: Request, asked: MessagesRequest, chat: ChatRequest) -> Exchange:
        command = self.desk.conversation(request, chat)
        thinking = asked.thinking
        told = thinking is None or (thinking.type != "disabled" and thinking.display != "omitted")
        about: dict[str, Any] = {"thinking": told, "stops": asked.stop_sequences or ()}
        encoder = MessageEncoder(command.id, asked.model, last_of(command), **about)
        headers = {LEFT_OUT: ", ".join(kinds)} if (kinds := left_out(asked)) else {}
        return Exchange([command], encoder, asked.stream, False, headers, framing=ANTHROPIC)


def anthropic_doors(desk: Desk) -> list[Door]:
    """List them."""
    messages = _Messages(desk)
    create = Workplace("/v1/messages", messages.create, "inference", "agents", methods=("POST",), shape=anthropic_error)
    count = Door("/v1/messages/count_tokens", messages.count, "inference", methods=("POST",), shape=anthropic_error)
    return [create, count]
