"""Requests about tokens, as vLLM's clients write them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from schemas.commands import TokenId
from schemas.openai import ChatMessage, ChatTool
from schemas.wire import Wire


class TokenizeRequest(Wire, frozen=True, kw_only=True):
    """`POST /tokenize`: of a raw prompt, or of messages."""

    model: str = ""
    prompt: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    messages: list[ChatMessage] | None = None
    tools: list[ChatTool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Wire, frozen=True, kw_only=True):
    """`POST /detokenize`."""

    model: str = ""
    tokens: Annotated[tuple[TokenId, ...], msgspec.Meta(max_length=1 << 20)]
