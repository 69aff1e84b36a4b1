"""Requests for responses as chat requests. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from infra.bridge.openai import CHOOSING, checked, decoded
from infra.bridge.responses.hosted import is_hosted, told_of
from infra.bridge.responses.offered import offered
from infra.bridge.responses.refusing import wrong
from infra.bridge.seals import SealedMessage, unsealed, unsealed_text
from infra.bridge.unserved import TIERS
from schemas import codec
from schemas.messages import Message, Thought
from schemas.openai import (
    ChatMessage,
    ChatRequest,
    ChatToolCall,
    CustomCall,
    FunctionCall,
    ImageAddress,
    ImagePart,
    TextPart,
)
from schemas.responses import InputItem, Part, ResponsesRequest

LOGPROBS: Final = "message.output_text.logprobs"
SEALED: Final = "reasoning.encrypted_content"
_INCLUDES: Final = (LOGPROBS, SEALED)
_OF_HOSTED: Final = (
    *("file_search_call.results", "web_search_call.results", "web_search_call.action.sources"),
    "code_interpreter_call.outputs",
)
"""Of calls that are never made here: clients add these of themselves where they offer a tool that is left out."""
RENAMED: Final = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
    "reasoning_effort": "reasoning.effort",
    "truncate_prompt_tokens": "truncation",
    "logprobs": "include",
}
"""Fields of chat requests that are called something else here."""
_UNSERVED: Final[dict[str, tuple[tuple[object, ...], str]]] = {
    "conversation": ((), "there are no conversations of that kind: give `previous_response_id`, or the whole input"),
    "prompt": ((), "no prompts are kept here: give `instructions`"),
    "max_tool_calls": ((), "the client calls the tools here: count them there"),
    "service_tier": (TIERS, f"there is one tier, whichever is asked for: {', '.join(TIERS)}"),
    "moderation": ((), "nothing is judged here: leave it out, or ask an agent with guards"),
    "prompt_cache_retention": (("in_memory", "in-memory"), "blocks stay while there is room: leave it out"),
    "prompt_cache_options": (({},), "blocks stay while there is room: leave it out"),
}
"""The values that change nothing, and what can be done."""

_MORE: Final = frozenset({
    *(name for name in CHOOSING if name not in {"n", "use_beam_search", "length_penalty", "return_token_ids"}),
    *("chat_template", "chat_template_kwargs", "documents", "thinking_token_budget", "structured_outputs"),
    *("session_id", "timeout_s", "vllm_xargs"),
}) - {"prompt_logprobs", "prompt_logprob_token_ids", "prompt_logprob_start", "truncate_prompt_tokens"}  # fmt: skip
"""Fields of vLLM's that mean here what they mean to a chat."""

_CHATS: Final = frozenset(ChatRequest.__struct_fields__) - set(ResponsesRequest.__struct_fields__)
"""Fields of chat requests that are none here, unless they are among the former."""


def read_responses(body: bytes) -> ResponsesRequest:
    """Decode a request and see that nothing in it would be left out in silence.

    Raises:
        BadRequest: names the field and what it should be.
    """
    asked = decoded(body, ResponsesRequest)
    given = decoded(body, dict[str, Any])
    for name in sorted(_CHATS & given.keys()):
        if name not in _MORE and given[name] is not None:
            known = RENAMED.get(name)
            raise wrong(name, f"it is `{known}` here" if known else "not served here: ask /v1/chat/completions")
    more = {name: given[name] for name in sorted(_MORE & given.keys()) if given[name] is not None}
    asked = msgspec.structs.replace(asked, more=more)
    for param, fits, wanted in _checks(asked):
        if not fits:
            raise wrong(param, wanted)
    return asked


def _checks(asked: ResponsesRequest) -> Iterator[tuple[str, bool, str]]:
    for name, (neutral, mend) in _UNSERVED.items():
        yield name, getattr(asked, name) in (None, *neutral), mend
    padded = asked.stream_options is not None and bool(asked.stream_options.include_obfuscation)
    yield "stream_options.include_obfuscation", not padded, "events are not padded: leave it out"
    yield "input", bool(asked.input), "give at least one item, or a text"
    known = all(one in {*_INCLUDES, *_OF_HOSTED} for one in asked.include or ())
    yield "include", known, f"what can be told besides is {' and '.join(_INCLUDES)}"
    kept = asked.store is not False
    yield "background", kept or not asked.background, "what nobody waits for must be kept: leave `store` out"


def chat_request(asked: ResponsesRequest, before: Sequence[Message] = ()) -> ChatRequest:
    """Give the request for a chat that asks the same.

    Args:
        asked: what was read.
        before: what was said in earlier responses.

    Raises:
        BadRequest: names the field and what it should be.
    """
    instructed = [ChatMessage("system", asked.instructions)] if asked.instructions else []
    text, logprobs = asked.text, LOGPROBS in (asked.include or ()) or asked.top_logprobs is not None
    choice, tools = offered(asked)
    request = ChatRequest(
        model=asked.model,
        messages=[*instructed, *map(_as_chat, before), *_messages(asked.input)],
        stream=asked.stream,
        max_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        logprobs=logprobs or None,
        top_logprobs=asked.top_logprobs,
        tools=tools or None,
        tool_choice=choice,
        parallel_tool_calls=asked.parallel_tool_calls,
        response_format=None if text is None or text.format is None else _format(text.format),
        verbosity=None if text is None else text.verbosity,
        reasoning_effort=None if asked.reasoning is None else asked.reasoning.effort,
        truncate_prompt_tokens=-1 if asked.truncation == "auto" else None,
    )
    return checked(_with_more(request, asked.more), RENAMED)


def _with_more(request: ChatRequest, more: Mapping[str, Any]) -> ChatRequest:
    """Put into a request what vLLM's clients say besides.

    Raises:
        BadRequest: names the field and what it should be.
    """
    if not more:
        return request
    alone = decoded(codec.encode({"model": request.model, "messages": [], **more}), ChatRequest)
    return msgspec.structs.replace(request, **{name: getattr(alone, name) for name in more})


def _as_chat(message: Message) -> ChatMessage:
    calls = [ChatToolCall(call.id, FunctionCall(call.name, call.arguments)) for call in message.tool_calls]
    return SealedMessage(
        role=message.role,
        content=message.content,
        tool_calls=calls or None,
        tool_call_id=message.tool_call_id,
        reasoning=message.reasoning or None,
        thoughts=message.thoughts,
        images=message.images,
    )


_ANSWERED: Final = {
    "local_shell_call": ("local_shell", "action"),
    "shell_call": ("shell", "action"),
    "computer_call": ("computer", "action"),
    "apply_patch_call": ("apply_patch", "operation"),
}
"""Calls of tools that a model knows from its training: what each is as a function, and the field of its arguments."""
CALLS: Final = ("custom_tool_call", *_ANSWERED)
"""Kinds of calls that are not of functions."""
_CALLS: Final = ("function_call", *CALLS)
_OUTPUTS: Final = tuple(f"{kind}_output" for kind in _CALLS)
_TURN: Final = (*_CALLS, "reasoning")
"""Items of an assistant's turn, besides what it says."""


def call_id_of(item: InputItem) -> str:
    """Say which call an item is, or answers; a local shell's answer may name it by `id`."""
    return item.call_id or item.id or ""


@dataclass(slots=True)
class _Turn:
    """What of an assistant's turn was given so far."""

    said: list[str] = field(default_factory=list)
    thought: list[str] = field(default_factory=list)
    thoughts: list[Thought] = field(default_factory=list)
    calls: list[ChatToolCall] = field(default_factory=list)

    def take(self, item: InputItem, path: str) -> None:
        """Add an item."""
        match item.type:
            case "function_call":
                arguments = item.arguments
                text = arguments if isinstance(arguments, str) else codec.encode(arguments).decode()
                self.calls.append(ChatToolCall(item.call_id, FunctionCall(item.name, text)))
            case "custom_tool_call":
                self.calls.append(ChatToolCall(item.call_id, custom=CustomCall(item.name, item.input)))
            case kind if kind in _ANSWERED:
                name, field_ = _ANSWERED[kind]
                arguments = codec.encode(getattr(item, field_) or {}).decode()
                self.calls.append(ChatToolCall(call_id_of(item), FunctionCall(name, arguments)))
            case _ if is_hosted(item):
                self.said += filter(None, [told_of(item)])
            case "reasoning":
                text = _joined(item.content or item.summary or (), path)
                seal = item.encrypted_content or ""
                self.thought.append(text or unsealed_text(seal))
                self.thoughts += unsealed(seal)
            case _:
                self.said.append(_joined(item.content or "", path))

    def over(self) -> Iterator[ChatMessage]:
        """Give the message that it is, if there is anything, and begin anew."""
        if self.said or self.thought or self.calls or self.thoughts:
            yield SealedMessage(
                role="assistant",
                content="".join(self.said),
                tool_calls=self.calls or None,
                reasoning="".join(self.thought) or None,
                thoughts=tuple(self.thoughts),
            )
        self.said, self.thought, self.thoughts, self.calls = [], [], [], []


def _messages(given: str | list[InputItem]) -> Iterator[ChatMessage]:
    """Give what items stand for: those of an assistant's turn are one message."""
    if isinstance(given, str):
        yield ChatMessage("user", given)
        return
    turn = _Turn()
    for at, item in enumerate(given):
        path = f"input[{at}]"
        match item.type, item.role:
            case (kind, _) if kind in _TURN or is_hosted(item):
                turn.take(item, path)
            case "message", "assistant":
                turn.take(item, path)
            case (kind, _) if kind in _OUTPUTS:
                yield from turn.over()
                yield ChatMessage("tool", _put_out(item, path), tool_call_id=call_id_of(item))
            case "message", str(role):
                yield from turn.over()
                said = item.content or ""
                yield ChatMessage(role, _shown(said, path) if role == "user" else _joined(said, path))
            case kind, _:
                wanted = (
                    "a message has a `role`" if kind == "message" else f"items of type {kind!r} are not served here"
                )
                raise wrong(path, wanted)
    yield from turn.over()


def _put_out(item: InputItem, path: str) -> str:
    """Give what a call came to."""
    match item.output:
        case None | str() as text:
            return text or ""
        case dict():
            return "[screenshot]"  # models here are shown pictures by the user alone
        case list() as parts if item.type == "shell_call_output":
            return "".join(f"{part.get('stdout', '')}{part.get('stderr', '')}" for part in parts)
        case list() as parts:
            try:
                return _joined(msgspec.convert(parts, list[Part]), path)
            except msgspec.ValidationError as error:
                raise wrong(f"{path}.output", f"a text, or parts of one: {error}") from error


def _shown(content: str | Iterable[Part], path: str) -> str | list[TextPart | ImagePart]:
    """Give what the user says: a text, or one with images."""
    parts = () if isinstance(content, str) else tuple(content)
    if not any(part.type == "input_image" for part in parts):
        return _joined(content, path)
    return [_image(part, path) if part.type == "input_image" else TextPart(_text(part, path)) for part in parts]


def _image(part: Part, path: str) -> ImagePart:
    if part.image_url is None:
        raise wrong(path, "an image has an `image_url`: files are not kept here")
    return ImagePart(ImageAddress(part.image_url, part.detail))


def _joined(content: str | Iterable[Part], path: str) -> str:
    if isinstance(content, str):
        return content
    return "".join(_text(part, path) for part in content)


def _text(part: Part, path: str) -> str:
    match part.type:
        case "input_text" | "output_text" | "text" | "reasoning_text" | "summary_text" | "refusal":
            return part.text
        case "input_image":
            raise wrong(path, "only what the user says has images: send a text")
        case kind:
            raise wrong(path, f"a part of type {kind!r} is not served here: send its text")


def _format(given: dict[str, Any]) -> dict[str, Any]:
    """Write a form as chat requests have it."""
    if given.get("type") != "json_schema":
        return given
    return {"type": "json_schema", "json_schema": {name: given.get(name) for name in ("name", "schema")}}
