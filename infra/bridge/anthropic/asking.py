"""Anthropic messages as chat requests, and problems as Anthropic's errors. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from infra.bridge.anthropic.hosted import hosted_tools, is_hosted, kind_of, told_of
from infra.bridge.openai import AGENT_PREFIX, BadRequest, checked, decoded, in_its_words
from infra.bridge.seals import SealedMessage, unsealed
from schemas.anthropic import AnthropicMessage, AnthropicTool, Block, MessagesRequest
from schemas.messages import Thought, ToolSpec
from schemas.openai import (
    ChatMessage,
    ChatRequest,
    ChatTool,
    ChatToolCall,
    FunctionCall,
    ImageAddress,
    ImagePart,
    TextPart,
)

_RENAMED: Final = {
    "stop": "stop_sequences",
    "max_completion_tokens": "max_tokens",
    "response_format": "output_config",
    "reasoning_effort": "output_config",
    "chat_template_kwargs": "thinking",
    "thinking_token_budget": "thinking",
    "parallel_tool_calls": "tool_choice",
    "continue_final_message": "messages",
}
"""Fields of chat requests that are called something else here."""

_NUMBERED: Final = re.compile(r"messages\[(\d{1,9})\](.*)", re.DOTALL)

_BILLING: Final = "x-anthropic-billing-header"
"""Begins a part of the system prompt that differs in every request and is nothing to a model."""


def read_messages(body: bytes, *, counting: bool = False) -> tuple[MessagesRequest, ChatRequest]:
    """Decode and check a request; give it as it is, and as one for a chat.

    Raises:
        BadRequest: names the field and what it should be.
    """
    asked = decoded(body, MessagesRequest)
    if asked.max_tokens is None and not counting:
        raise _wrong("max_tokens", "say how many tokens the answer may have")
    for name in ("mcp_servers", "container"):
        if getattr(asked, name):
            raise _wrong(name, "nothing is run for a model here but its client's tools and agents: leave it out")
    chat, without = chat_request(asked), list(dict.fromkeys(hosted_tools(asked)))
    if without and asked.tool_choice is not None and asked.tool_choice.type in {"any", "tool"}:
        names = {tool.spec.name for tool in chat.tools or ()}
        if not names or (asked.tool_choice.type == "tool" and asked.tool_choice.name not in names):
            kinds = ", ".join(map(repr, without))
            raise _wrong("tool_choice", f"tools of type {kinds} are not run here: give one with an `input_schema`")
    try:
        return asked, checked(chat, _RENAMED)
    except BadRequest as problem:
        raise in_client_words(problem, asked) from None


def in_client_words(problem: BadRequest, asked: MessagesRequest) -> BadRequest:
    """Have a refusal number messages as its client does, not what they became; so tools where some are left out."""
    found = _NUMBERED.match(problem.body.error.param or "")
    if found is None:
        return in_its_words(problem, {"tools": "tools"} if hosted_tools(asked) else {})
    came_of = [*("system" for _ in _system(asked)), *_places(asked)]
    at, part = int(found[1]), ".content" if found[2].startswith(".tool_call") else found[2]
    return in_its_words(problem, {"messages": came_of[at] + part if at < len(came_of) else "messages"})


def _places(asked: MessagesRequest) -> Iterator[str]:
    """Give the place of the message that each of a chat is of."""
    for at, one in enumerate(asked.messages):
        yield from (f"messages[{at}]" for _ in _messages(one, at))


def chat_request(asked: MessagesRequest) -> ChatRequest:
    """Give the request for a chat that asks the same."""
    choice, wanted = asked.tool_choice, asked.output_config
    form = asked.output_format if wanted is None or wanted.format is None else wanted.format
    messages = [message for at, one in enumerate(asked.messages) for message in _messages(one, at)]
    return ChatRequest(
        model=asked.model,
        messages=[*_system(asked), *messages],
        max_tokens=asked.max_tokens,
        stream=asked.stream,
        stop=asked.stop_sequences or None,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        tools=[_tool(tool, at) for at, tool in enumerate(asked.tools or ()) if not kind_of(tool)] or None,
        tool_choice=None if choice is None else _choice(choice.type, choice.name),
        parallel_tool_calls=False if choice is not None and choice.disable_parallel_tool_use else None,
        response_format=None if form is None else _format(form),
        reasoning_effort=None if wanted is None else wanted.effort,
        continue_final_message=_prefilled(asked) or None,
        user=None if asked.metadata is None else asked.metadata.user_id,
        **_thinking(asked),
    )


def _thinking(asked: MessagesRequest) -> dict[str, Any]:
    """Say how templates and engines are told of it; agents think as they are made to."""
    thinking = asked.thinking
    if thinking is None or asked.model.startswith(AGENT_PREFIX):
        return {}
    kwargs = {"chat_template_kwargs": {"enable_thinking": thinking.type != "disabled"}}
    return kwargs | ({} if thinking.budget_tokens is None else {"thinking_token_budget": thinking.budget_tokens})


def _prefilled(asked: MessagesRequest) -> bool:
    """Say whether the answer is to go on with the last message."""
    last = asked.messages[-1] if asked.messages else None
    return last is not None and last.role == "assistant" and not asked.model.startswith(AGENT_PREFIX)


def _system(asked: MessagesRequest) -> Iterator[ChatMessage]:
    given = asked.system or ""
    parts = [given] if isinstance(given, str) else [_text(part, "system") for part in given]
    text = "\n\n".join(part for part in parts if part and not part.startswith(_BILLING))
    if text:
        yield ChatMessage("system", text)


def _messages(given: AnthropicMessage, at: int) -> Iterator[ChatMessage]:
    """Give what a message stands for: results of tools are messages of their own, before what is said to them."""
    path = f"messages[{at}].content"
    blocks = [Block("text", text=given.content)] if isinstance(given.content, str) else given.content
    if given.role == "assistant":
        yield _assistant(blocks, path)
        return
    said, shown = list[Block](), list[Block]()
    for block in blocks:
        if block.type != "tool_result":
            said.append(block)
            continue
        text, images = _result(block, path)
        yield ChatMessage("tool", text, tool_call_id=block.tool_use_id)
        if images:
            shown += [Block("text", text=f"[images of the result of {block.tool_use_id}]"), *images]
    # models are shown images by the user alone
    said = [*shown, *said]
    if any(block.type == "image" for block in said):
        yield ChatMessage(given.role, [_part(block, path) for block in said])
    elif said or not blocks:
        yield ChatMessage(given.role, "".join(_text(block, path) for block in said))


def _assistant(blocks: list[Block], path: str) -> ChatMessage:
    said, thought = list[str](), list[str]()
    calls, thoughts = list[ChatToolCall](), list[Thought]()
    for block in blocks:
        match block.type:
            case "thinking":
                thought.append(block.thinking)
            case "redacted_thinking":
                thoughts += unsealed(block.data)
            case "tool_use":
                arguments = json.dumps(block.input, ensure_ascii=False)
                calls.append(ChatToolCall(block.id, FunctionCall(block.name, arguments)))
            case _:
                said.append(told_of(block) if is_hosted(block) else _text(block, path))
    return SealedMessage(
        role="assistant",
        content="".join(said),
        tool_calls=calls or None,
        reasoning="".join(thought) or None,
        thoughts=tuple(thoughts),
    )


def _result(block: Block, path: str) -> tuple[str, list[Block]]:
    """Give a result's text, with a word in place of each of its images, and those."""
    content, images = block.content, list[Block]()
    if isinstance(content, list):
        try:
            parts = msgspec.convert(content, list[Block])
        except msgspec.ValidationError as error:
            raise _wrong(path, f"what a tool_result holds is a text or a list of blocks: {error}") from error
        images = [part for part in parts if part.type == "image"]
        content = "".join("[image]" if part.type == "image" else _text(part, path) for part in parts)
    text = str(content or "")
    return (f"error: {text}" if block.is_error and not text.startswith("error:") else text), images


def _part(block: Block, path: str) -> TextPart | ImagePart:
    if block.type != "image":
        return TextPart(_text(block, path))
    match block.source:
        case {"type": "base64", "media_type": str(kind), "data": str(data)}:
            return ImagePart(ImageAddress(f"data:{kind};base64,{data}"))
        case {"type": "url", "url": str(url)}:
            return ImagePart(ImageAddress(url))
        case _:
            raise _wrong(path, "an image has a `source` of type 'base64' or 'url'")


def _text(block: Block, path: str) -> str:
    """Give a block's text.

    Raises:
        BadRequest: it has none that a model here could read.
    """
    source = block.source if isinstance(block.source, Mapping) else {}
    match block.type:
        case "text":
            return block.text
        case "document" if source.get("type") == "text":
            return str(source.get("data", ""))
        case "image":
            raise _wrong(path, "only what the user says has images: send a text")
        case kind:
            raise _wrong(path, f"a block of type {kind!r} is not served here: send its text")


def _tool(tool: AnthropicTool, at: int) -> ChatTool:
    if tool.type not in {None, "custom"} or tool.input_schema is None:
        raise _wrong(f"tools[{at}]", f"{tool.type or 'it'} is not run here: give a tool with an `input_schema`")
    return ChatTool(ToolSpec(tool.name, tool.description, tool.input_schema, bool(tool.strict)))


def _choice(kind: str, name: str) -> Any:
    named = {"type": "function", "function": {"name": name}}
    return {"auto": "auto", "any": "required", "none": "none", "tool": named}[kind]


def _format(given: dict[str, Any]) -> dict[str, Any]:
    """Write a form as OpenAI does; what is none is refused by those checks."""
    return {"type": given.get("type"), "json_schema": {"name": "answer", "schema": given.get("schema")}}


def _wrong(param: str, wanted: str) -> BadRequest:
    return BadRequest(400, f"{param}: {wanted}", param, "invalid_value")


_KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error(problem: BadRequest) -> object:
    """Write an error as Anthropic does."""
    kind = _KINDS.get(problem.status, "invalid_request_error" if problem.status < 500 else "api_error")
    error = problem.body.error
    # the last two are ours: what is wrong, for programs
    told = {"type": kind, "message": error.message, "param": error.param, "code": error.code}
    return {"type": "error", "error": told}
