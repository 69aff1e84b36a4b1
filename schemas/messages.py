"""Conversation messages, in the shape every chat template and chat API shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from schemas.wire import Wire

Role = Literal["system", "user", "assistant", "tool"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

MOST_TOOLS: Final = 128
"""That the caller of a run may carry out."""


class ToolCall(Wire, frozen=True):
    """A model's wish to call a tool. `arguments` is the JSON text exactly as the model wrote it."""

    id: str
    name: str
    arguments: str


class Thought(Wire, frozen=True):
    """A part of what a model thought, with the seal that its provider wants back with it, word for word."""

    origin: str
    """The provider that made it; no other one is shown it."""
    length: int = 0
    """Characters of the message's `reasoning` that it is about: thoughts follow one another."""
    seal: str = ""
    """A signature, or what was thought in a form that only the provider can read."""
    kind: Literal["signed", "sealed", "detail"] = "signed"
    """`sealed` has no readable text; `detail` is a JSON object of the provider's own."""
    call_id: str = ""
    """The tool call that it belongs to, where it does."""
    after: int = 0
    """Characters of the message's `content` that were said before it was thought."""


class Image(Wire, frozen=True):
    """A picture in a message: bytes that the object store keeps, or an address."""

    blob: str = ""
    """The content hash of what the store keeps: the bytes, sealed with `key`. Empty where there is an address."""
    size: int = 0
    """Bytes of that."""
    key: str = ""
    """Opens it, and is nowhere else: who erases the message has erased the picture. Hexadecimal."""
    media_type: str = ""
    """Such as `image/png`."""
    url: str = ""
    """`https://…`, for who shows it to the model to fetch; or `data:…;base64,…`, for messages that are not kept yet."""
    detail: Literal["", "auto", "low", "high"] = ""
    """How closely it is to be looked at, where that can be said."""
    rest: int = 0
    """Characters of the message's `content` that come after it."""


class Message(Wire, frozen=True):
    """One entry of a conversation."""

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    """For role `tool`: the call that this answers."""
    reasoning: str = ""
    """For role `assistant`: what was thought before it was said. The template decides whether the model sees it."""
    thoughts: tuple[Thought, ...] = ()
    """For role `assistant`: what its provider wants back of what was thought."""
    images: tuple[Image, ...] = ()
    """For role `user`: what is shown, in the order of its places."""


def misplaced_in(messages: Sequence[Message]) -> str | None:
    """Name the first field that breaks a conversation: each tool call is answered once, before anything else is said.

    Returns:
        Its path, such as `messages[2].tool_call_id`; None when all is well.
    """
    waiting: list[str] = []
    for index, message in enumerate(messages):
        if message.role == "tool":
            if message.tool_call_id not in waiting:
                return f"messages[{index}].tool_call_id"
            waiting.remove(message.tool_call_id)
        elif waiting:
            return f"messages[{index}].role"
        else:
            waiting = [call.id for call in message.tool_calls]
    return "messages" if waiting else None


class ToolSpec(Wire, frozen=True):
    """What a model is told about a tool."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    """A JSON Schema of type `object`."""
    strict: bool = False
    """Whether a call's arguments are to keep to it, wherever what a model writes can be bound."""


ToolChoice = Literal["auto", "none", "required"]


class Calling(Wire, frozen=True):
    """What may be called in an answer."""

    choice: ToolChoice = "auto"
    """`none` keeps the tools from the model; `required` wants at least one call."""
    tool: str = ""
    """The one that `required` is about; empty is any."""
    parallel: bool = True
    """Whether there may be more than one call; the answer ends after the first where not."""


class Rendering(Wire, frozen=True):
    """How a conversation becomes a prompt, where that is not as always."""

    chat_template: str = ""
    """In place of the model's own, where the engine trusts requests with it."""
    chat_template_kwargs: Mapping[str, Any] = {}
    """Further names for the template, such as `enable_thinking`."""
    documents: tuple[dict[str, Any], ...] = ()
    """For templates that put documents into the prompt."""
    add_generation_prompt: bool = True
    """Whether the prompt ends where the assistant begins to speak."""
    continue_final_message: bool = False
    """Whether the answer goes on with the last message, which the prompt ends with."""


def told_of_effort(effort: str) -> dict[str, Any]:
    """Give the names by which templates are told how much is to be thought; `none` switches it off."""
    if not effort:
        return {}
    return {"reasoning_effort": effort} | ({"enable_thinking": False} if effort == "none" else {})


def added(cost: float | None, more: float | None) -> float | None:
    """Add up what was paid: what is not known of a part is not known of the whole."""
    return None if cost is None or more is None else cost + more


class Usage(Wire, frozen=True):
    """Tokens of one model call, or the sum over several."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens whose KV entries came from the prefix cache."""
    preemptions: int = 0
    """How often it gave its KV blocks up to another request."""
    recomputed_tokens: int = 0
    """Tokens whose KV entries were computed again because of that."""
    reasoning_tokens: int = 0
    """Of the completion's tokens, those that were thought and not said."""

    def __sub__(self, other: Usage) -> Usage:
        """Leave out of a usage what is part of it."""
        fields = self.__struct_fields__
        return Usage(**{name: getattr(self, name) - getattr(other, name) for name in fields})

    def __add__(self, other: Usage) -> Usage:
        """Sum two usages field by field."""
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            preemptions=self.preemptions + other.preemptions,
            recomputed_tokens=self.recomputed_tokens + other.recomputed_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )
