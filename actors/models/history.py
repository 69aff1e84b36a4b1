"""Mends a conversation for a provider that did not write it: small functions, each for one thing that is refused.

A conversation may come from another model, may have been cut to fit, or have been broken off in the middle of a tool
call. Each function gives a conversation; none changes one that is well.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from msgspec.structs import replace

from actors.models.registry import Provider, ToolIds
from schemas.messages import Message, ToolCall

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
UNANSWERED = "error: this call was not answered"
"""What stands for the result of a tool call that has none."""
OPENING = "(the conversation began before this)"
"""What stands for a user's first turn where there is none."""
_FITTING: dict[ToolIds, re.Pattern[str]] = {
    "any": re.compile(r"(?s).+"),
    "short": re.compile(r"(?s).{1,40}"),
    "plain": re.compile(r"[a-zA-Z0-9_-]{1,64}"),
    "nine": re.compile(r"[a-zA-Z0-9]{9}"),
}
"""What a tool call's id may be."""

Conversation = Sequence[Message]


def repaired(messages: Conversation, provider: Provider) -> list[Message]:
    """Mend everything that a provider refuses."""
    mended = renamed(answered(spoken(messages)), provider.tool_ids)
    if provider.alternate:
        mended = joined(mended)
    first = provider.alternate or provider.wire in {"anthropic", "vertex", "gemini", "bedrock"}
    return opened(mended) if first else mended


def spoken(messages: Conversation) -> list[Message]:
    """Leave out turns that say nothing: an empty text is refused nearly everywhere."""
    return [
        message
        for message in messages
        if message.role == "tool" or message.tool_calls or message.images or message.content.strip()
    ]


def answered(messages: Conversation) -> list[Message]:
    """Have each tool call answered once, directly after it, and no result without its call."""
    mended: list[Message] = []
    waiting: list[ToolCall] = []
    results: dict[str, Message] = {}

    def settle() -> None:
        for call in waiting:
            unanswered = Message(role="tool", content=UNANSWERED, tool_call_id=call.id)
            mended.append(results.pop(call.id, unanswered))
        waiting.clear()
        results.clear()

    for message in messages:
        if message.role == "tool":
            identity = message.tool_call_id or ""
            if identity not in results and any(call.id == identity for call in waiting):
                results[identity] = message
            continue
        settle()
        mended.append(_single(message))
        waiting.extend(mended[-1].tool_calls)
    settle()
    return mended


def _single(message: Message) -> Message:
    """Leave out calls whose id another call of the same turn has."""
    calls = {call.id: call for call in reversed(message.tool_calls)}
    if len(calls) == len(message.tool_calls):
        return message
    return replace(message, tool_calls=tuple(reversed(calls.values())))


def renamed(messages: Conversation, ids: ToolIds) -> list[Message]:
    """Give tool calls ids that a provider takes: made of theirs, so that the same call has the same one always."""
    fitting = _FITTING[ids]

    def name(identity: str) -> str:
        return identity if fitting.fullmatch(identity) else _made(identity)

    return [
        replace(
            message,
            tool_call_id=message.tool_call_id and name(message.tool_call_id),
            tool_calls=tuple(replace(call, id=name(call.id)) for call in message.tool_calls),
            thoughts=tuple(
                replace(thought, call_id=thought.call_id and name(thought.call_id)) for thought in message.thoughts
            ),
        )
        if message.tool_call_id or message.tool_calls
        else message
        for message in messages
    ]


def _made(identity: str) -> str:
    number = int.from_bytes(hashlib.sha256(identity.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    made = ""
    for _ in range(9):
        number, digit = divmod(number, len(_ALPHABET))
        made += _ALPHABET[digit]
    return made


def joined(messages: Conversation) -> list[Message]:
    """Make one turn of several of the same speaker in a row, where neither is about tools."""
    mended: list[Message] = []
    for message in messages:
        last = mended[-1] if mended else None
        plain = message.role in {"user", "assistant", "system"} and not message.tool_calls
        if last is not None and plain and last.role == message.role and not last.tool_calls:
            content = f"{last.content}\n\n{message.content}"
            after = len(content) - len(last.content)
            images = tuple(replace(image, rest=image.rest + after) for image in last.images) + message.images
            mended[-1] = replace(last, content=content, reasoning="", thoughts=(), images=images)
        else:
            mended.append(message)
    return mended


def opened(messages: Conversation) -> list[Message]:
    """Begin with the user, after what the system says."""
    first = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
    if first < len(messages) and messages[first].role == "user":
        return list(messages)
    return [*messages[:first], Message(role="user", content=OPENING), *messages[first:]]


def parted(messages: Conversation) -> tuple[str, list[Message]]:
    """Take what the system says at the beginning apart; what it says later is said as the user, and marked."""
    first = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
    system = "\n\n".join(message.content for message in messages[:first])
    later = [
        replace(message, role="user", content=f"<system>\n{message.content}\n</system>")
        if message.role == "system"
        else message
        for message in messages[first:]
    ]
    return system, later


def last_asked(messages: Conversation) -> int:
    """Give the index of the last user turn: what follows is the turn under way, of which all thoughts are wanted."""
    return max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
