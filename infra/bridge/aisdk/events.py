"""A run as the chunks of a UI message stream. Pure: the same frames give the same bytes.

All of a run is one message, whose id comes from the run's: what is streamed, streamed again, or read back later are
the same message. Each step of the run is a step of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from infra.bridge.framing import IDLE
from infra.bridge.openai import BadRequest, refusal
from infra.bridge.telling.encoder import PieceEncoder
from infra.bridge.telling.pieces import (
    Answered,
    CallGrew,
    CallOpened,
    CallWhole,
    Closed,
    Failed,
    Finished,
    Grew,
    Opened,
    Paused,
    Piece,
    Progressed,
    Remembered,
    Settled,
    StepBegan,
    StepEnded,
    StepReset,
    Waits,
)
from infra.bridge.telling.reader import RunReader
from infra.running import Waiting
from schemas import codec
from schemas.commands import Command
from schemas.messages import ToolCall, Usage

MARK: Final = "msg_"
"""What ids of our messages begin with."""
HEADERS: Final = {"x-vercel-ai-ui-message-stream": "v1"}

_STEPS: Final[dict[type, str]] = {StepBegan: "start-step", StepReset: "reset-step", StepEnded: "finish-step"}

Chunk = dict[str, Any]


def message_id(command: Command) -> str:
    """Name the message that a run is."""
    return MARK + command.id


class UiFraming:
    """Chunks without names, and `[DONE]`."""

    idle: bytes = IDLE

    def event(self, chunk: Chunk) -> bytes:
        """Write a chunk."""
        return b"data: " + codec.encode(chunk) + b"\n\n"

    def failed(self, problem: BadRequest) -> bytes:
        """Write an error."""
        return self.event(_error(problem))

    def end(self, usage: Chunk | None) -> bytes:
        """Write that it is the end."""
        return b"data: [DONE]\n\n"


class UiEncoder(PieceEncoder):
    """Turns a run's frames into chunks."""

    framing = UiFraming()

    def __init__(
        self, command: Command, reader: RunReader | None = None, below: Sequence[tuple[ToolCall, Waiting | None]] = ()
    ) -> None:
        """Begin with the run that a command leads to; with a reader that has read some of it, after that.

        Args:
            command: which leads to the run.
            reader: of the run, where it goes on.
            below: calls of other agents' runs that go on, which nobody has told the client of: the stream before had
                ended.
        """
        super().__init__(RunReader() if reader is None else reader)
        self._command = command
        self._open: set[str] = set()
        """Parts that have not ended."""
        self._below = below

    def begin(self) -> list[Chunk]:
        """Say whose message it is."""
        told = {"runId": self._command.id, "threadId": self._command.thread}
        start = {"type": "start", "messageId": message_id(self._command), "messageMetadata": told}
        return [start, *(chunk for call, wait in self._below for chunk in _untold(call, wait))]

    def tell(self, piece: Piece) -> list[Chunk]:
        """Give the chunks of one piece."""
        match piece:
            case StepBegan() | StepReset() | StepEnded():
                return [{"type": _STEPS[type(piece)]}]
            case Opened() | Grew() | Closed():
                return [self._part(piece)]
            case CallOpened() | CallGrew() | CallWhole() | Settled():
                return [_call(piece)]
            case Paused() | Finished() | Failed():
                return _end(piece)
            case _:
                return _around(piece)

    def _part(self, piece: Opened | Grew | Closed) -> Chunk:
        match piece:
            case Opened(kind=kind, id=identity):
                self._open.add(f"{kind} {identity}")
                return {"type": f"{kind}-start", "id": identity}
            case Grew(kind=kind, id=identity, text=text):
                return {"type": f"{kind}-delta", "id": identity, "delta": text}
            case Closed(kind=kind, id=identity):
                self._open.discard(f"{kind} {identity}")
                return {"type": f"{kind}-end", "id": identity}

    def broken(self, problem: BadRequest) -> list[Chunk]:
        """Say why it cannot go on."""
        parts = [part.split(" ", 1) for part in sorted(self._open)]
        self._open = set()
        return [*({"type": f"{kind}-end", "id": identity} for kind, identity in parts), _error(problem)]


def _call(piece: CallOpened | CallGrew | CallWhole | Settled) -> Chunk:
    match piece:
        case CallOpened(id=identity, name=name):
            return {"type": "tool-input-start", "toolCallId": identity, "toolName": name}
        case CallGrew(id=identity, arguments=arguments):
            return {"type": "tool-input-delta", "toolCallId": identity, "inputTextDelta": arguments}
        case CallWhole(call=call):
            return _whole(call)
        case Settled():
            return _settled(piece)


def _around(piece: Piece) -> list[Chunk]:
    """Tell of what a call waits for, and of what it does beside."""
    match piece:
        case Waits(wait=wait):
            return [_waits(wait)]
        case Answered(effect=effect, approved=approved, reason=reason):
            told = {"type": "tool-approval-response", "approvalId": effect, "approved": approved}
            return [{**told, "reason": reason} if reason else told]
        case Progressed(call_id=call_id, effect=effect, number=number, data=data):
            told = {"toolCallId": call_id, "number": number, "data": data}
            return [{"type": "data-progress", "id": f"{effect}-{number}", "data": told, "transient": True}]
        case Remembered(write=write):
            told = {"scope": write.scope, "topic": write.topic, "text": write.text}
            return [{"type": "data-memory", "data": told, "transient": True}]
        case _:
            return []


def _whole(call: ToolCall) -> Chunk:
    told = {"toolCallId": call.id, "toolName": call.name}
    try:
        given = msgspec.json.decode(call.arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        problem = "the arguments are no JSON"
        return {"type": "tool-input-error", **told, "input": call.arguments, "errorText": problem}
    return {"type": "tool-input-available", **told, "input": given}


def _untold(call: ToolCall, wait: Waiting | None) -> list[Chunk]:
    return [_whole(call), *([] if wait is None else [_waits(wait)])]


def _waits(wait: Waiting) -> Chunk:
    if wait.kind == "approval":
        return {"type": "tool-approval-request", "approvalId": wait.effect, "toolCallId": wait.call.id}
    told: dict[str, Any] = {"kind": wait.kind, "effect": wait.effect, "toolCallId": wait.call.id}
    if wait.kind == "data":
        told |= {"payload": wait.payload, "schema": wait.schema, "problem": wait.problem}
    return {"type": "data-waiting", "id": wait.call.id, "data": told}


def _settled(piece: Settled) -> Chunk:
    match piece.outcome:
        case "returned":
            output = piece.content if piece.result is None else piece.result
            return {"type": "tool-output-available", "toolCallId": piece.call_id, "output": output}
        case "failed":
            return {"type": "tool-output-error", "toolCallId": piece.call_id, "errorText": piece.content}
        case "denied":
            return {"type": "tool-output-denied", "toolCallId": piece.call_id}


def _end(piece: Paused | Finished | Failed) -> list[Chunk]:
    match piece:
        case Paused():
            return [{"type": "finish", "finishReason": "tool-calls"}]
        case Finished(reason=reason, usage=usage, steps=steps):
            told = {"usage": _usage(usage), "steps": steps}
            return [{"type": "finish", "finishReason": reason, "messageMetadata": told}]
        case Failed(problem=problem) if problem.kind == "aborted":
            return [{"type": "abort", "reason": problem.message}]
        case Failed(problem=problem):
            return [_error(refusal(problem))]


def _error(problem: BadRequest) -> Chunk:
    return {"type": "error", "errorText": problem.body.error.message}


def _usage(counted: Usage) -> dict[str, int]:
    """Shape token counts as the AI SDK does."""
    return {
        "inputTokens": counted.prompt_tokens,
        "outputTokens": counted.completion_tokens,
        "totalTokens": counted.prompt_tokens + counted.completion_tokens,
        "cachedInputTokens": counted.cached_tokens,
        "reasoningTokens": counted.reasoning_tokens,
    }
