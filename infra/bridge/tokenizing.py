"""Routes that ask a served model's tokenizer, where it is: nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from bus import subjects
from bus.errors import BusError, Refused
from infra.bridge.desk import Desk
from infra.bridge.doors import Door
from infra.bridge.openai import BadRequest, decoded, refusal, with_functions
from schemas.about import Detokenized, Tokenized
from schemas.commands import Generate
from schemas.texts import Decode, Decoded, Describe, Described, Encode, Encoded, TextAsked, TextRefused, TextTold
from schemas.tokenizing import DetokenizeRequest, TokenizeRequest

_ASK_S: Final = 10.0

Told = TypeVar("Told", Encoded, Decoded, Described)


async def ask_texts(desk: Desk, model: str, asked: TextAsked, wanted: type[Told]) -> Told:
    """Ask the tokenizer of a served model.

    Raises:
        BadRequest: there is no such model here, or it cannot do what is asked.
    """
    if model in desk.adapters:
        model = desk.models[0]
    if model not in desk.models:
        known = ", ".join(desk.models)
        message = f"model: {model!r} has no tokenizer here; those served are: {known}"
        raise BadRequest(404, message, "model", "model_not_found")
    try:
        reply = await desk.connection.request(subjects.ask_text(model), msgspec.json.encode(asked), _ASK_S)
        told = msgspec.json.decode(reply.data, type=TextTold)
    except Refused as error:
        raise BadRequest(413, f"it is too much for the bus: {error.description}", None, "too_large") from error
    except (BusError, TimeoutError, msgspec.DecodeError) as error:
        raise BadRequest(503, "the tokenizer does not answer: try again", None, "unavailable") from error
    if isinstance(told, TextRefused):
        raise refusal(told.problem)
    assert isinstance(told, wanted)
    return told


@dataclass(frozen=True)
class _Tokenizing:
    desk: Desk

    async def tokenize(self, request: Request) -> Response:
        """Give the tokens of a prompt."""
        asked = decoded(await request.body(), TokenizeRequest)
        data = _generate(asked, asked.model or self.desk.models[0])
        told = await ask_texts(self.desk, data.model, Encode(data, asked.return_token_strs is True), Encoded)
        pieces = told.pieces if asked.return_token_strs else None
        return _json(Tokenized(told.tokens, len(told.tokens), told.context_length, pieces))

    async def detokenize(self, request: Request) -> Response:
        """Give the text of tokens."""
        asked = decoded(await request.body(), DetokenizeRequest)
        told = await ask_texts(self.desk, asked.model or self.desk.models[0], Decode(asked.tokens), Decoded)
        return _json(Detokenized(told.text))

    async def describe(self, request: Request) -> Response:
        """Say what the tokenizer is."""
        model = request.query_params.get("model", self.desk.models[0])
        return _json((await ask_texts(self.desk, model, Describe(), Described)).about)


def _generate(asked: TokenizeRequest, model: str) -> Generate:
    if (asked.prompt is None) == (asked.messages is None):
        raise BadRequest(400, "prompt: give it, or `messages`", "prompt", "invalid_value")
    if asked.prompt is not None:
        if asked.add_special_tokens:
            message = "add_special_tokens: a raw prompt is taken as it is: write them into it"
            raise BadRequest(400, message, "add_special_tokens", "invalid_value")
        return Generate(model, prompt=asked.prompt)
    messages = tuple(message.message() for message in asked.messages or ())
    if any(message.images for message in messages):
        raise BadRequest(400, f"messages: model {model!r} sees no images", "messages", "invalid_value")
    return Generate(
        model,
        messages=messages,
        tools=tuple(tool.spec for tool in with_functions(asked).tools or ()),
        add_generation_prompt=asked.add_generation_prompt,
        continue_final_message=asked.continue_final_message,
        chat_template=asked.chat_template or "",
        chat_template_kwargs=asked.chat_template_kwargs or {},
    )


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def tokenizing_doors(desk: Desk) -> list[Door]:
    """List them."""
    tokenizing, post = _Tokenizing(desk), ("POST",)
    return [
        Door("/tokenize", tokenizing.tokenize, "inference", methods=post),
        Door("/detokenize", tokenizing.detokenize, "inference", methods=post),
        Door("/tokenizer_info", tokenizing.describe, "inference"),
    ]
