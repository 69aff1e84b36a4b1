"""What `useChat` sends, and what it comes to: a run of an agent, or answers to one that waits. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import msgspec

from infra.bridge.aisdk.events import MARK
from infra.bridge.openai import BadRequest, decoded
from infra.bridge.telling.counter import Answer
from infra.running import Waiting
from schemas.commands import PostResult, RunAgent
from schemas.messages import Message, ToolCall
from schemas.uimessages import ChatAsked, UiApproval, UiMessage, UiPart

NOTE: Final = "ui"
"""Where a command notes the ids that its messages have with the client."""
_SETTLED: Final = frozenset({"output-available", "output-error", "output-denied"})


def read_chat(body: bytes) -> ChatAsked:
    """Decode and check a request.

    Raises:
        BadRequest: names the field and what it should be.
    """
    asked = decoded(body, ChatAsked)
    if not asked.messages:
        raise _wrong("messages", "give at least one message")
    return asked


def answering(asked: ChatAsked) -> UiMessage | None:
    """Return the message whose tool calls the client answers, if that is what it does."""
    last = asked.messages[-1]
    return last if last.role == "assistant" and asked.trigger == "submit-message" else None


def answered_in(message: UiMessage) -> frozenset[str]:
    """Name what a message answers: ids of approvals and of calls."""
    parts = [part for part in message.parts if part.tool]
    approvals = {part.approval.id for part in parts if part.approval is not None and part.approval.approved is not None}
    return frozenset(approvals | {part.toolCallId for part in parts if part.state in _SETTLED})


def answers(message: UiMessage, waits: Sequence[Waiting]) -> list[Answer]:
    """Give the answers to what a run waits for.

    Raises:
        BadRequest: there are none.
    """
    parts = [part for part in message.parts if part.tool]
    found = [answer for wait in waits for part in parts if (answer := _answer(wait, part)) is not None]
    if not found:
        raise BadRequest(409, "messages: nothing that it answers is waited for any more", "messages", "not_waiting")
    return found


def _answer(wait: Waiting, part: UiPart) -> Answer | None:
    if wait.kind == "approval":
        return _agreed(wait, part.approval)
    if part.toolCallId != wait.call.id or part.state not in _SETTLED:
        return None
    if wait.kind == "data":
        return wait.resume(part.output)
    if part.state == "output-available":
        return wait.result(_content(part.output))
    return PostResult(effect=wait.effect, error=part.errorText or "the call was refused")


def _agreed(wait: Waiting, approval: UiApproval | None) -> Answer | None:
    if approval is None or approval.id != wait.effect or approval.approved is None:
        return None
    if approval.approved:
        return wait.approve()
    return wait.deny(approval.reason or "")


def run_agent(asked: ChatAsked, agent: str, known: Collection[str]) -> RunAgent:
    """Give the run that new messages ask for.

    Args:
        asked: the request; its client sends the whole conversation each time.
        agent: which to run.
        known: ids of messages that the thread has already.

    Raises:
        BadRequest: there is nothing new, or something that no model here reads.
    """
    messages = asked.messages
    last = max((at for at, one in enumerate(messages) if one.role == "assistant"), default=-1)
    ours = any(one.role == "assistant" and one.id.startswith(MARK) for one in messages)
    again = asked.trigger == "regenerate-message"
    fresh = [one for one in messages[last + 1 if ours or again else 0 :] if again or one.id not in known]
    fresh = [one for one in fresh if one.role != "system"]
    told = ["".join(map(_text, one.parts)) for one in messages if one.role == "system"]
    if not fresh:
        raise _wrong("messages", "the last one is to be new, and the user's")
    waited = last >= 0 and any(part.state == "approval-requested" for part in messages[last].parts)
    return RunAgent(
        agent=agent,
        messages=tuple(message for one in fresh for message in _messages(one)),
        note={NOTE: [one.id for one in fresh if one.role == "user"]},
        # who says something else in place of an answer does not want the run that waits for it
        when_busy="replace" if waited else "queue",
        system="\n\n".join(filter(None, told)),
    )


def _messages(given: UiMessage) -> Iterator[Message]:
    """Give what a message stands for: of an assistant's, each call is followed by its result."""
    if given.role != "assistant":
        yield Message("user", "".join(_text(part) for part in given.parts))
        return
    said = ""
    for part in given.parts:
        if part.tool and part.state in _SETTLED:
            call = ToolCall(part.toolCallId, part.name, _content(part.input))
            yield Message("assistant", said, (call,))
            yield Message("tool", _content(part.errorText or part.output), tool_call_id=call.id)
            said = ""
        elif part.type == "text":
            said += part.text
    if said:
        yield Message("assistant", said)


def _text(part: UiPart) -> str:
    if part.type == "file":
        raise _wrong("messages", "no model here reads files: send their texts")
    return part.text if part.type == "text" else ""


def _content(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _wrong(param: str, wanted: str) -> BadRequest:
    return BadRequest(400, f"{param}: {wanted}", param, "invalid_value")
