"""A run's frames as the events of a response, and the response that they come to. Pure.

What is streamed, what is answered whole and what is read back from the log come from the same items, whose ids are
made of the command's, so they cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from infra.bridge.chat import ChatEncoder, last_of
from infra.bridge.framing import NamedFraming
from infra.bridge.handed import Resumed, Told
from infra.bridge.openai import BadRequest, refusal
from infra.bridge.responses.asking import SEALED
from infra.bridge.responses.items import Called, CustomCalled, Event, Item, ItemStatus, Said, Sealed, Thinking
from infra.bridge.responses.noting import tool_told
from infra.bridge.seals import sealed
from schemas import codec
from schemas.commands import Command, Generate, PostResult, RunAgent
from schemas.live import Committed, Outcome
from schemas.messages import Thought, Usage
from schemas.runs import ModelReturned, Problem

_MARK: Final = "resp_"
_CALLS: Final[dict[bool, tuple[str, type[Called | CustomCalled], str]]] = {
    False: ("function_call", Called, "fc"),
    True: ("custom_tool_call", CustomCalled, "ctc"),
}
"""What calls of functions, and of custom tools, are told as, and what their ids begin with."""


def response_id(command: Command) -> str:
    """Name the response to a command, so that it is found again: an agent's is in a thread."""
    where = "" if isinstance(command.data, Generate) else f".{command.thread}"
    return f"{_MARK}{command.id}{where}"


def found_by(identity: str) -> tuple[str, str] | None:
    """Give the command and the thread that a response's id is about; a bare generation is its own thread."""
    command, _, thread = identity.removeprefix(_MARK).partition(".")
    return (command, thread or command) if identity.startswith(_MARK) and command else None


class ResponseEncoder:
    """Turns a run's frames into events."""

    def __init__(self, command: Command) -> None:
        """Begin; the command's note says what its client asked for."""
        self._command = command
        self._note = command.data.note if isinstance(command.data, Generate | RunAgent | PostResult) else {}
        self._head = _head(command, self._note)
        custom = self._note.get("custom", ())
        self._chat = ChatEncoder(command.id, str(self._note.get("model", "")), 0, last_of(command), custom=custom)
        self._items: list[Item] = []
        self._open: Item | None = None
        self._status = "in_progress"
        self._number = 0
        """Of the next event."""
        self._thoughts: tuple[Thought, ...] = ()

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

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self._status != "in_progress" or self.problem is not None

    @property
    def kept(self) -> bool:
        """Whether its client may ask for it again; what was no response in the first place has no note."""
        return "created" in self._note and self._note.get("store") is not False

    def feed(self, frame: Told, index: int = 0) -> list[Event]:
        """Give the events that follow from one frame."""
        if isinstance(frame, Committed) and frame.type == "model.returned":
            self._thoughts = codec.decode(frame.data, ModelReturned).thoughts
        chunks = self._chat.feed(frame)
        # nobody waits for one in the background: it is told of as soon as it is there
        begun = isinstance(frame, Resumed) or (isinstance(frame, Outcome) and frame.result == "accepted")
        early = begun and self._note.get("background")
        opening = self._opening() if chunks or early else []
        return self._numbered([*opening, *(event for chunk in chunks for event in self._events(chunk))])

    def _events(self, chunk: dict[str, Any]) -> list[Event]:
        (choice,) = chunk["choices"]
        delta, events = choice["delta"], list[Event]()
        if delta.get("reasoning"):
            thinking = self._opened("reasoning", Thinking, "rs", events)
            thinking.sealing = SEALED in self._note.get("include", ())
            events += thinking.grow(delta["reasoning"])
        logprobs = (choice["logprobs"] or {}).get("content", [])
        if delta.get("content") or (logprobs and isinstance(self._open, Said)):
            said = self._opened("message", Said, "msg", events)
            events += said.say(delta.get("content") or "", logprobs)
        for call in delta.get("tool_calls", ()):
            events += self._call(call)
        if choice["finish_reason"] is not None:
            events += self._ending(choice["finish_reason"])
        return events

    def _opened(self, kind: str, shape: Any, prefix: str, events: list[Event]) -> Any:
        """Give the item of a kind that is open; begin it if it is not."""
        if self._open is not None and self._open.kind == kind:
            return self._open
        events += self._close("completed")
        return self._begin(shape(len(self._items), self._name(prefix), kind), events)

    def _begin(self, item: Item, events: list[Event]) -> Item:
        self._open = item
        self._items.append(item)
        events += item.begin()
        return item

    def _name(self, prefix: str) -> str:
        return f"{prefix}_{self._command.id}_{len(self._items)}"

    def _call(self, call: dict[str, Any]) -> list[Event]:
        events, custom = list[Event](), call.get("custom")
        about = call["function"] if custom is None else custom
        if "id" in call:
            events += self._close("completed")
            kind, shape, prefix = _CALLS[custom is not None]
            named = (self._name(prefix), f"{kind} {call['index']}", call["id"], about["name"])
            self._begin(shape(len(self._items), *named), events)
        piece = about["arguments"] if custom is None else about["input"]
        if piece and self._open is not None:
            events += self._open.grow(piece)
        return events

    def _close(self, status: ItemStatus) -> list[Event]:
        item, self._open = self._open, None
        return [] if item is None else item.end(status)

    def _ending(self, reason: str) -> list[Event]:
        self._status = "incomplete" if reason == "length" else "completed"
        events = self._close("incomplete" if reason == "length" else "completed")
        if self._thoughts and SEALED in self._note.get("include", ()):
            self._begin(Sealed(len(self._items), self._name("rs"), sealed(self._thoughts)), events)
            events += self._close("completed")
        return [*events, {"type": f"response.{self._status}", "response": self.response()}]

    def _opening(self) -> list[Event]:
        if self._number:
            return []
        return [{"type": f"response.{step}", "response": self.response()} for step in ("created", "in_progress")]

    def _numbered(self, events: list[Event]) -> list[Event]:
        for event in events:
            event["sequence_number"] = self._number
            self._number += 1
        return events

    def failed(self) -> list[Event]:
        """Give the events that tell of the problem."""
        return self._numbered([*self._opening(), {"type": "response.failed", "response": self.response()}])

    def response(self) -> dict[str, Any]:
        """Give the response as it stands."""
        status, error = self._status, None
        if self.problem is not None:
            status = "cancelled" if self.problem.kind == "aborted" else "failed"
            error = {"code": refusal(self.problem).body.error.code, "message": self.problem.message}
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            **self._head,
            "status": status,
            "error": error if status == "failed" else None,
            "incomplete_details": cut,
            "output": [item.copied() for item in self._items],
            "usage": _usage(self._chat.usage) if status in {"completed", "incomplete"} else None,
        }

    def usage_chunk(self) -> dict[str, Any]:
        """Give nothing: the usage is part of every response."""
        return {}

    def whole(self, chunks: Sequence[Event]) -> dict[str, Any]:
        """Give the response that the events came to."""
        return self.response()


class ResponsesFraming(NamedFraming):
    """Events with names, and at the end of one that came to nothing the response as it stands."""

    def __init__(self, encoder: ResponseEncoder) -> None:
        self._encoder = encoder

    def failed(self, problem: BadRequest) -> bytes:
        """Write why."""
        if self._encoder.problem is None:
            return super().failed(problem)
        return b"".join(map(self.event, self._encoder.failed()))


def _head(command: Command, note: Any) -> dict[str, Any]:
    """Give what a response tells of its request."""
    return {
        "id": response_id(command),
        "object": "response",
        "created_at": note.get("created", 0),
        "model": note.get("model", ""),
        **(_of_model(command.data, note) if isinstance(command.data, Generate) else _of_run(command.data, note)),
        "metadata": note.get("metadata", {}),
        "tool_choice": note.get("tool_choice", "auto"),
        "previous_response_id": note.get("previous_response_id"),
        "text": note.get("text", {"format": {"type": "text"}}),
        "reasoning": note.get("reasoning", {"effort": None, "summary": None}),
        "truncation": note.get("truncation", "disabled"),
        "user": note.get("user"),
        "safety_identifier": note.get("safety_identifier"),
        "prompt_cache_key": note.get("prompt_cache_key"),
        "store": note.get("store", True),
        "background": note.get("background", False),
        "service_tier": "default",
    }


def _of_model(data: Generate, note: Any) -> dict[str, Any]:
    return {
        "instructions": data.messages[0].content if note.get("instructed") else None,
        "parallel_tool_calls": data.parallel_tool_calls,
        "tools": [tool_told(tool, note.get("custom", {})) for tool in data.tools],
        "temperature": data.temperature,
        "top_p": data.top_p,
        "top_logprobs": data.logprobs,
        "max_output_tokens": data.max_tokens,
    }


def _of_run(data: Any, note: Any) -> dict[str, Any]:
    asked = note.get("asked", {})
    return {
        "instructions": asked.get("instructions"),
        "parallel_tool_calls": asked.get("parallel_tool_calls", True),
        "tools": note.get("tools", []),
        "temperature": asked.get("temperature", getattr(data, "temperature", None)),
        "top_p": asked.get("top_p"),
        "top_logprobs": None,
        "max_output_tokens": asked.get("max_output_tokens", getattr(data, "max_tokens", None)),
    }


def _usage(counted: Usage) -> dict[str, Any]:
    return {
        "input_tokens": counted.prompt_tokens,
        "input_tokens_details": {"cached_tokens": counted.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counted.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": counted.reasoning_tokens},
        "total_tokens": counted.prompt_tokens + counted.completion_tokens,
    }
