"""A model's tokenizer as a service on the bus: who counts tokens need not load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from bus import subjects
from bus.connection import Connection
from bus.conversation import Send, offer
from engine.errors import BadRequest, TemplateError
from engine.requests import raw_tokens
from engine.text.prompts import Prompter
from schemas import codec
from schemas.messages import Calling, Rendering
from schemas.runs import Problem
from schemas.texts import Decode, Decoded, Describe, Described, Encode, Encoded, TextAsked, TextRefused, TextTold


class Texts:
    """Answers what is asked."""

    def __init__(self, prompter: Prompter, checkpoint: Path, context_length: int) -> None:
        self._prompter = prompter
        self._context_length = context_length
        self._about = _about(checkpoint)

    def answer(self, asked: TextAsked) -> TextTold:
        """Answer one question."""
        try:
            match asked:
                case Encode():
                    return self._encoded(asked)
                case Decode(tokens=tokens):
                    return self._decoded(tokens)
                case Describe():
                    return Described(self._described())
        except TemplateError as error:
            return TextRefused(Problem(kind="invalid", message=str(error), field="messages"))
        except BadRequest as error:
            return TextRefused(Problem(kind="invalid", message=str(error), field=error.field))

    def _described(self) -> dict[str, Any]:
        template, size = self._prompter.template, self._prompter.tokenizer.size
        # what prompts are written by, without the newline at its end: Jinja leaves that out, but for
        # clients that have it keep such
        written = {} if template is None else {"chat_template": template.source.removesuffix("\n")}
        return {**self._about, **written, "vocab_size": size}

    def _encoded(self, asked: Encode) -> Encoded:
        data, prompter = asked.data, self._prompter
        if data.prompt is not None:
            tokens = tuple(raw_tokens(data.prompt, prompter.tokenizer))
        else:
            rendering = Rendering(**{name: getattr(data, name) for name in Rendering.__struct_fields__})
            calling = Calling(data.tool_choice, data.tool, data.parallel_tool_calls)
            tokens = prompter.prompt(data.messages, data.tools, rendering, calling).tokens
        told = tokens if asked.pieces else ()
        pieces = tuple(prompter.tokenizer.piece(token).decode(errors="replace") for token in told)
        return Encoded(tuple(tokens), pieces, self._context_length)

    def _decoded(self, tokens: tuple[int, ...]) -> Decoded:
        tokenizer = self._prompter.tokenizer
        wrong = next((token for token in tokens if not 0 <= token < tokenizer.size), None)
        if wrong is not None:
            raise BadRequest("tokens", f"{wrong} is no token of this model, which has {tokenizer.size}")
        return Decoded(b"".join(map(tokenizer.piece, tokens)).decode(errors="replace"))


async def offer_texts(connection: Connection, name: str, version: str, texts: Texts) -> None:
    """Offer it.

    Raises:
        Unavailable: the connection is closed.
    """

    async def answer(data: bytes, send: Send) -> None:
        try:
            told = texts.answer(msgspec.json.decode(data, type=TextAsked))
        except msgspec.DecodeError as error:
            told = TextRefused(Problem(kind="invalid", message=str(error)))
        await send(codec.encode(told))

    service = f"text-{subjects.encoded(name)}"
    await offer(connection, service, version, subjects.ask_text(name), {"model": name}, answer)


def _about(checkpoint: Path) -> dict[str, Any]:
    """Read what the checkpoint says; special tokens are told by their texts."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        try:
            found |= json.loads((checkpoint / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    found.pop("added_tokens_decoder", None)
    told = {name: _text(value) for name, value in found.items()}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": None, **told}


def _text(value: Any) -> Any:
    return value["content"] if isinstance(value, dict) and "content" in value else value
