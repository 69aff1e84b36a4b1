"""What an AG-UI client sends, and what it comes to: a run of an agent, or answers to one that waits. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from infra.bridge.agui.events import MARK
from infra.bridge.asked_of_agents import INSTRUCTING
from infra.bridge.openai import BadRequest, decoded
from infra.bridge.telling.counter import Answer
from infra.running import Waiting
from schemas.agui import AguiInput, AguiMessage, AguiResume
from schemas.commands import AbortRun, PostResult, RunAgent
from schemas.messages import Message, ToolCall, ToolSpec

NOTE: Final = "agui"
"""Where a command notes the ids that its messages have with the client."""
_SAID: Final = frozenset({"user", "assistant", "tool"})


def read_input(body: bytes) -> AguiInput:
    """Decode a request.

    Raises:
        BadRequest: names the field and what it should be.
    """
    return decoded(body, AguiInput)


def results_in(asked: AguiInput) -> tuple[AguiMessage, ...]:
    """Return the results of calls that a request ends with."""
    found: list[AguiMessage] = []
    for message in reversed(asked.messages):
        if message.role != "tool":
            break
        found.append(message)
    return tuple(reversed(found))


def answered_in(asked: AguiInput) -> frozenset[str]:
    """Name what a request answers: interrupts and calls."""
    interrupts = {entry.interrupt_id for entry in asked.resume or ()}
    return frozenset(interrupts | {message.tool_call_id for message in results_in(asked)})


def answers(asked: AguiInput, run: str, waits: Sequence[Waiting]) -> list[Answer]:
    """Give the answers to what a run waits for.

    Raises:
        BadRequest: there are none.
    """
    resumed = {entry.interrupt_id: entry for entry in asked.resume or ()}
    results = {message.tool_call_id: message for message in results_in(asked)}
    found: list[Answer] = []
    for wait in waits:
        entry, result = resumed.get(wait.effect), results.get(wait.call.id)
        if entry is not None and wait.kind != "caller":
            found.append(_answer(wait, entry, run))
        elif result is not None and wait.kind == "caller":
            failed = PostResult(effect=wait.effect, error=result.error or "")
            found.append(failed if result.error else wait.result(_text(result)))
    if not found:
        raise BadRequest(409, "resume: nothing that it answers is waited for any more", "resume", "not_waiting")
    # what ends the run leaves nothing to answer
    return next(([answer] for answer in found if isinstance(answer, AbortRun)), found)


def _answer(wait: Waiting, entry: AguiResume, run: str) -> Answer:
    payload = entry.payload
    if wait.kind == "data":
        if entry.status == "cancelled":
            return AbortRun(run=run, reason="its client would not answer")
        return wait.resume(payload)
    given: Mapping[str, Any] = payload if isinstance(payload, Mapping) else {"approved": payload}
    if entry.status == "resolved" and given.get("approved") is True:
        return wait.approve()
    return wait.deny(str(given.get("reason") or ""))


def run_agent(asked: AguiInput, agent: str, known: Collection[str], working: str) -> RunAgent:
    """Give the run that new messages ask for.

    Args:
        asked: the request; its client sends the whole conversation each time.
        agent: which to run.
        known: ids of messages that the thread has already.
        working: what it is to have in mind from here on; empty leaves that.

    Raises:
        BadRequest: there is nothing new, or something that no model here reads.
    """
    messages = [one for one in asked.messages if one.role in _SAID]
    ours = any(one.role == "assistant" and one.id.startswith(MARK) for one in messages)
    last = max((at for at, one in enumerate(messages) if one.role != "user"), default=-1)
    fresh = [one for one in messages[last + 1 if ours else 0 :] if one.id not in known]
    if not fresh or fresh[-1].role != "user":
        raise _wrong("messages", "the last one is to be new, and the user's")
    about = {"state": asked.state, "context": asked.context, "forwardedProps": asked.forwarded_props}
    return RunAgent(
        agent=agent,
        messages=tuple(_messages(fresh)),
        tools=tuple(ToolSpec(tool.name, tool.description, _schema(tool.parameters)) for tool in asked.tools or ()),
        context={name: value for name, value in about.items() if value},
        note={NOTE: [one.id for one in fresh if one.role == "user"], "runId": asked.run_id},
        working=working,
        system="\n\n".join(filter(None, (_text(one) for one in asked.messages if one.role in INSTRUCTING))),
    )


def _schema(given: dict[str, Any] | None) -> dict[str, Any]:
    return given or {"type": "object", "properties": {}}


def _messages(given: Sequence[AguiMessage]) -> Iterator[Message]:
    for one in given:
        match one.role:
            case "user":
                yield Message("user", _text(one))
            case "assistant":
                calls = tuple(ToolCall(c.id, c.function.name, c.function.arguments) for c in one.tool_calls or ())
                yield Message("assistant", _text(one), calls)
            case _:
                yield Message("tool", one.error or _text(one), tool_call_id=one.tool_call_id)


def _text(message: AguiMessage) -> str:
    """Give a message's text.

    Raises:
        BadRequest: there is more than that, and no model here could make anything of it.
    """
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    parts = message.content if isinstance(message.content, list) else [message.content]
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise _wrong("messages", "no model here reads anything but texts: send texts alone")
    return "".join(map(str, texts))


def _wrong(param: str, wanted: str) -> BadRequest:
    return BadRequest(400, f"{param}: {wanted}", param, "invalid_value")
