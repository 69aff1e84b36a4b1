"""A run's frames as Anthropic's events of a message: blocks that begin, grow and end, one after another. Pure.

A streamed answer and a whole one come from the same events, so they cannot differ.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec

from infra.bridge.anthropic.asking import anthropic_error
from infra.bridge.chat import ChatEncoder, LastEvent
from infra.bridge.framing import NamedFraming
from infra.bridge.handed import Told
from infra.bridge.openai import BadRequest
from infra.bridge.seals import sealed
from schemas import codec
from schemas.live import Committed
from schemas.messages import Thought, Usage
from schemas.runs import ModelReturned, Problem

_REASONS: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_KEYS: Final = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
"""Where a block has what deltas bring."""


class AnthropicFraming(NamedFraming):
    """Events with names; `ping` while nothing is said."""

    idle = b'event: ping\ndata: {"type": "ping"}\n\n'

    def failed(self, problem: BadRequest) -> bytes:
        """Write an error."""
        return b"event: error\ndata: " + codec.encode(anthropic_error(problem)) + b"\n\n"


ANTHROPIC: Final = AnthropicFraming()


class MessageEncoder:
    """Turns a run's frames into events."""

    def __init__(
        self, identity: str, model: str, last: LastEvent, *, thinking: bool = True, stops: Collection[str] = ()
    ) -> None:
        """Begin.

        Args:
            identity: of the command.
            model: what the client called it.
            last: the event after which the answer is over.
            thinking: whether the client is told what was thought.
            stops: texts that it wants to end the answer; it is told which did, and not of an agent's own.
        """
        self._chat = ChatEncoder(identity, model, 0, last, reasoning=thinking)
        self._identity = identity
        self._message: dict[str, Any] | None = {
            "id": f"msg_{identity}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        self._thoughts: tuple[Thought, ...] = ()
        self._stops, self._stopped_at = stops, ""
        self._open = ""
        """What block is open: its type, and of calls the number."""
        self._blocks = 0
        """That have begun."""

    @property
    def accepted(self) -> bool:
        """Whether the command was taken on."""
        return self._chat.accepted

    @property
    def usage(self) -> Usage:
        """What it took, as far as that is known."""
        return self._chat.usage

    @property
    def problem(self) -> Problem | None:
        """Why there is no (whole) answer."""
        return self._chat.problem

    def feed(self, frame: Told, index: int = 0) -> list[dict[str, Any]]:
        """Give the events that follow from one frame."""
        if isinstance(frame, Committed) and frame.type == "model.returned":
            answer: ModelReturned = codec.decode(frame.data, ModelReturned)
            self._thoughts, self._stopped_at = answer.thoughts, answer.stopped_at
        return [event for chunk in self._chat.feed(frame) for event in self._events(chunk)]

    def _events(self, chunk: dict[str, Any]) -> list[dict[str, Any]]:
        (choice,) = chunk["choices"]
        delta, events = choice["delta"], self._opening()
        if delta.get("reasoning"):
            events += self._block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            events.append(self._delta("thinking_delta", "thinking", delta["reasoning"]))
        if delta.get("content"):
            events += self._block("text", {"type": "text", "text": ""})
            events.append(self._delta("text_delta", "text", delta["content"]))
        for call in delta.get("tool_calls", ()):
            events += self._call(call)
        if choice["finish_reason"] is not None:
            events += self._ending(choice["finish_reason"])
        return events

    def _opening(self) -> list[dict[str, Any]]:
        if self._message is None:
            return []
        message, self._message = self._message, None
        return [{"type": "message_start", "message": message}, {"type": "ping"}]

    def _call(self, call: dict[str, Any]) -> list[dict[str, Any]]:
        events, function = [], call["function"]
        if "id" in call:
            block = {"type": "tool_use", "id": call["id"], "name": function["name"], "input": {}}
            events += self._block(f"tool_use {call['index']}", block)
        if function["arguments"]:
            events.append(self._delta("input_json_delta", "partial_json", function["arguments"]))
        return events

    def _block(self, name: str, block: dict[str, Any]) -> list[dict[str, Any]]:
        """Begin a block, unless it is open."""
        if name == self._open:
            return []
        events = self._close()
        self._open, self._blocks = name, self._blocks + 1
        return [*events, {"type": "content_block_start", "index": self._blocks - 1, "content_block": block}]

    def _delta(self, kind: str, name: str, piece: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._blocks - 1, "delta": {"type": kind, name: piece}}

    def _close(self) -> list[dict[str, Any]]:
        if not self._open:
            return []
        # clients want a signature of what was thought; nobody here looks at it
        signed = [self._delta("signature_delta", "signature", self._identity)] if self._open == "thinking" else []
        self._open = ""
        return [*signed, {"type": "content_block_stop", "index": self._blocks - 1}]

    def _ending(self, reason: str) -> list[dict[str, Any]]:
        events = self._close()
        if self._thoughts:
            events += self._block("sealed", {"type": "redacted_thinking", "data": sealed(self._thoughts)})
            events += self._close()
        told = {"stop_reason": _REASONS.get(reason, "end_turn"), "stop_sequence": None, "stop_details": None}
        if reason == "stop" and self._stopped_at in self._stops:
            told |= {"stop_reason": "stop_sequence", "stop_sequence": self._stopped_at}
        events.append({"type": "message_delta", "delta": told, "usage": _usage(self._chat.usage)})
        return [*events, {"type": "message_stop"}]

    def usage_chunk(self) -> dict[str, Any]:
        """Give nothing: the usage is part of every answer."""
        return {}

    def whole(self, chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Join all events into the message."""
        message: dict[str, Any] = {}
        blocks, written = list[dict[str, Any]](), dict[int, str]()
        for event in chunks:
            match event["type"]:
                case "message_start":
                    message = dict(event["message"])
                case "content_block_start":
                    blocks.append(dict(event["content_block"]))
                case "content_block_delta":
                    _grow(event["index"], event["delta"], blocks, written)
                case "message_delta":
                    message |= {**event["delta"], "usage": event["usage"]}
                case _:
                    pass
        for index, arguments in written.items():
            blocks[index]["input"] = _read(arguments)
        return {**message, "content": [block for block in blocks if block.get("input", {}) is not None]}


def _grow(index: int, delta: dict[str, Any], blocks: list[dict[str, Any]], written: dict[int, str]) -> None:
    if delta["type"] == "input_json_delta":
        written[index] = written.get(index, "") + delta["partial_json"]
    else:
        blocks[index][_KEYS[delta["type"]]] += delta[_KEYS[delta["type"]]]


def _read(arguments: str) -> dict[str, Any] | None:
    """Read a call's arguments; those that are none are of an answer that was cut off."""
    try:
        return msgspec.json.decode(arguments, type=dict[str, Any])
    except msgspec.DecodeError:
        return None


def _usage(counted: Usage) -> dict[str, Any]:
    """Shape token counts as Anthropic does: what was cached is not among the input."""
    return {
        "input_tokens": counted.prompt_tokens - counted.cached_tokens,
        "cache_read_input_tokens": counted.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": counted.completion_tokens,
        "output_tokens_details": {"thinking_tokens": counted.reasoning_tokens},
    }
