"""A run as AG-UI's events. Pure: the same frames give the same events.

An AG-UI run is one request. A run of ours that waits for its client is several of them: it ends one with an interrupt,
or with calls that the client is to carry out, and goes on in the next.
"""

from __future__ import annotations

from typing import Any, Final

from infra.bridge.agui.state import ThreadState
from infra.bridge.framing import IDLE
from infra.bridge.openai import BadRequest, refusal
from infra.bridge.telling.encoder import PieceEncoder
from infra.bridge.telling.pieces import (
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
)
from infra.bridge.telling.reader import RunReader
from infra.running import Waiting
from schemas import codec
from schemas.agui import AguiInput
from schemas.commands import Command
from schemas.messages import Usage

VERSION: Final = "1.0"
MARK: Final = "msg_"
"""What ids of our messages begin with."""
_APPROVAL: Final = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["approved"],
}

Event = dict[str, Any]


class AguiFraming:
    """Events without names, and nothing at the end: the last event says that it is."""

    idle: bytes = IDLE

    def event(self, chunk: Event) -> bytes:
        """Write an event."""
        return b"data: " + codec.encode(chunk) + b"\n\n"

    def failed(self, problem: BadRequest) -> bytes:
        """Write an error."""
        return self.event(run_error(problem))

    def end(self, usage: Event | None) -> bytes:
        """Write nothing."""
        return b""


class AguiEncoder(PieceEncoder):
    """Turns a run's frames into events."""

    framing = AguiFraming()

    def __init__(self, command: Command, asked: AguiInput, state: ThreadState, reader: RunReader | None = None) -> None:
        """Begin with the run that a command leads to; with a reader that has read some of it, after that.

        Args:
            command: which leads to the run.
            asked: the request; its ids are told as they are.
            state: what the thread keeps in mind when it begins.
            reader: of the run, where it goes on.
        """
        super().__init__(RunReader() if reader is None else reader)
        self._command = command
        self._asked = asked
        self._state = state
        self._theirs = {message.tool_call_id for message in asked.messages if message.role == "tool"}
        """Calls whose results the client has: it would have them twice."""
        self._step = 0
        self._message = ""
        """The step's, which its calls belong to."""
        self._open: list[Event] = []
        """What closes what is open, the last first."""

    def begin(self) -> list[Event]:
        """Say which run it is."""
        return [run_started(self._asked)]

    def tell(self, piece: Piece) -> list[Event]:
        """Give the events of one piece."""
        match piece:
            case Opened(kind=kind, id=identity):
                return self._opened(kind, MARK + identity)
            case Grew(kind=kind, id=identity, text=text):
                name = "TEXT_MESSAGE" if kind == "text" else "REASONING_MESSAGE"
                return [{"type": f"{name}_CONTENT", "messageId": MARK + identity, "delta": text}]
            case Closed():
                ends = 1 if piece.kind == "text" else 2
                closing, self._open = self._open[:ends], self._open[ends:]
                return closing
            case CallOpened() | CallGrew() | CallWhole() | Settled():
                known = isinstance(piece, Settled) and piece.call_id in self._theirs
                return [] if known else self._call(piece)
            case Paused() | Finished() | Failed():
                return [self._end(piece)]
            case _:
                return self._step_or_more(piece)

    def _opened(self, kind: str, identity: str) -> list[Event]:
        if kind == "text":
            self._message = identity
            self._open.insert(0, {"type": "TEXT_MESSAGE_END", "messageId": identity})
            return [{"type": "TEXT_MESSAGE_START", "messageId": identity, "role": "assistant"}]
        ends = ("REASONING_MESSAGE_END", "REASONING_END")
        self._open[:0] = [{"type": end, "messageId": identity} for end in ends]
        return [
            {"type": "REASONING_START", "messageId": identity},
            {"type": "REASONING_MESSAGE_START", "messageId": identity, "role": "reasoning"},
        ]

    def _call(self, piece: CallOpened | CallGrew | CallWhole | Settled) -> list[Event]:
        match piece:
            case CallOpened(id=identity, name=name):
                parent = self._message or f"{MARK}{self._command.id}-{self._step}"
                self._open.insert(0, {"type": "TOOL_CALL_END", "toolCallId": identity})
                told = {"toolCallId": identity, "toolCallName": name, "parentMessageId": parent}
                return [{"type": "TOOL_CALL_START", **told}]
            case CallGrew(id=identity, arguments=arguments):
                return [{"type": "TOOL_CALL_ARGS", "toolCallId": identity, "delta": arguments}]
            case CallWhole(call=call):
                end = {"type": "TOOL_CALL_END", "toolCallId": call.id}
                self._open.remove(end)
                return [end]
            case Settled(call_id=call_id, effect=effect, content=content):
                told = {"messageId": f"{MARK}{effect}-result", "toolCallId": call_id}
                return [{"type": "TOOL_CALL_RESULT", **told, "content": content, "role": "tool"}]

    def _step_or_more(self, piece: Piece) -> list[Event]:
        match piece:
            case Progressed() | Remembered():
                return [self._beside(piece)]
            case StepBegan(number=number):
                self._step, self._message = number, ""
                self._open.append({"type": "STEP_FINISHED", "stepName": f"step {number}"})
                return [{"type": "STEP_STARTED", "stepName": f"step {number}"}]
            case StepEnded(number=number):
                end = {"type": "STEP_FINISHED", "stepName": f"step {number}"}
                if end not in self._open:
                    return []  # it began in the request before
                self._open.remove(end)
                return [end]
            case StepReset():
                self._message = ""
                return [{"type": "CUSTOM", "name": "step_reset", "value": {"step": self._step}}]
            case _:
                return []

    def _beside(self, piece: Progressed | Remembered) -> Event:
        if isinstance(piece, Remembered):
            return {"type": "STATE_DELTA", "delta": self._state.after(piece.write)}
        told = {"toolCallId": piece.call_id, "number": piece.number, "data": piece.data}
        return {"type": "CUSTOM", "name": "progress", "value": told}

    def _end(self, piece: Paused | Finished | Failed) -> Event:
        match piece:
            case Paused(waits=waits):
                return run_finished(self._asked, _outcome(waits))
            case Finished(text=text, usage=usage):
                return run_finished(self._asked, {"type": "success"}) | {"result": text, "usage": [_usage(usage)]}
            case Failed(problem=problem, usage=usage) if problem.kind == "aborted":
                return run_finished(self._asked, {"type": "cancelled"}) | {"usage": [_usage(usage)]}
            case Failed(problem=problem, usage=usage):
                return run_error(refusal(problem)) | {"usage": [_usage(usage)]}

    def broken(self, problem: BadRequest) -> list[Event]:
        """Say why it cannot go on."""
        closing, self._open = self._open, []
        return [*closing, run_error(problem)]


def run_started(asked: AguiInput) -> Event:
    """Give the first event of a run."""
    told = {"type": "RUN_STARTED", "threadId": asked.thread_id, "runId": asked.run_id, "protocolVersion": VERSION}
    return told if asked.parent_run_id is None else {**told, "parentRunId": asked.parent_run_id}


def run_finished(asked: AguiInput, outcome: dict[str, Any]) -> Event:
    """Give the last event of a run."""
    return {"type": "RUN_FINISHED", "threadId": asked.thread_id, "runId": asked.run_id, "outcome": outcome}


def run_error(problem: BadRequest) -> Event:
    """Give the last event of a run that came to nothing."""
    error = problem.body.error
    told = {"type": "RUN_ERROR", "message": error.message}
    return told if error.code is None else {**told, "code": error.code}


def _outcome(waits: tuple[Waiting, ...]) -> dict[str, Any]:
    """Say what the client is to do: answer interrupts, or carry calls out."""
    interrupts = [_interrupt(wait) for wait in waits if wait.kind != "caller"]
    if interrupts:
        return {"type": "interrupt", "interrupts": interrupts}
    return {"type": "success", "pendingToolCallIds": [wait.call.id for wait in waits]}


def _interrupt(wait: Waiting) -> dict[str, Any]:
    told: dict[str, Any] = {"id": wait.effect, "toolCallId": wait.call.id}
    if wait.kind == "approval":
        asked = f"may {wait.call.name!r} be called with {wait.call.arguments}?"
        return told | {"reason": "tool_approval", "message": asked, "responseSchema": _APPROVAL}
    told |= {"reason": "input_required", "metadata": {"payload": wait.payload}}
    if wait.problem:
        told["message"] = wait.problem
    return told | {"responseSchema": wait.schema} if wait.schema else told


def _usage(counted: Usage) -> dict[str, int]:
    """Shape token counts as AG-UI does."""
    return {
        "inputTokens": counted.prompt_tokens,
        "outputTokens": counted.completion_tokens,
        "totalTokens": counted.prompt_tokens + counted.completion_tokens,
        "reasoningTokens": counted.reasoning_tokens,
        "cachedInputTokens": counted.cached_tokens,
    }
