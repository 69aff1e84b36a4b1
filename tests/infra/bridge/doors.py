"""The bridge as clients meet it, over commands whose frames a test has written down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import count
from typing import Any, cast

import httpx
import httpx2
import msgspec
import pytest

from infra.bridge import app, late
from infra.bridge.app import Bridge
from infra.bridge.responses import routes
from schemas import codec
from schemas.answers import CallTold
from schemas.commands import Command
from schemas.live import Committed, Delta, Frame, Outcome
from schemas.memory import DeleteThread, ThreadDeleted
from schemas.messages import ToolCall, Usage
from schemas.runs import CommandAccepted, Event, ModelReturned
from tests.infra.bridge.documented import documented

Script = Callable[[Command], list[Frame]]


class Counted:
    """Time, ids and chance that count."""

    def __init__(self) -> None:
        self._next = count(1)

    def now(self) -> int:
        return next(self._next) * 1_000_000

    def new(self, prefix: str) -> str:
        return f"{prefix}{next(self._next)}"

    def bits(self, count: int) -> int:
        return next(self._next)


def one_by_one(follow: Callable[..., AsyncIterator[Frame]]) -> Callable[..., AsyncIterator[Sequence[Frame]]]:
    """Follow as the bridge does, where no two frames come at once."""

    async def followed(*about: Any) -> AsyncIterator[Sequence[Frame]]:
        async for frame in follow(*about):
            yield (frame,)

    return followed


class Scripted:
    """A bridge that answers as a script says, and the commands that it would have sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, script: Script, **more: Any) -> None:
        self.commands: list[Command] = []
        self.sent: list[Command] = []
        """Those that nobody follows."""
        self.recorded: list[tuple[str, Committed]] = []
        """By kind of entity."""

        async def follow(connection: object, read_back: object, command: Command) -> AsyncIterator[Frame]:
            self.commands.append(command)
            for frame in script(command):
                self._record(command, frame)
                yield frame

        async def send(connection: object, command: Command) -> None:
            self.sent.append(command)

        monkeypatch.setattr(app, "follow_together", one_by_one(follow))

        async def outcome(connection: object, command: Command) -> Outcome:
            self.sent.append(command)
            if isinstance(command.data, DeleteThread):
                gone = committed(command, 3, ThreadDeleted())
                self.recorded.append(("generation", msgspec.structs.replace(gone, subject=command.thread)))
            return accepted(command)

        async def opened() -> Any:
            return None

        async def behind(*about: object) -> int:
            return 0  # `recorded` is always complete

        monkeypatch.setattr(app, "send_command", send)
        monkeypatch.setattr(late, "behind", behind)
        monkeypatch.setattr(routes, "follow", follow)
        monkeypatch.setattr(routes, "send", outcome)
        counted, nothing = Counted(), cast("Any", None)
        about = {"ids": counted, "clock": counted, "chance": counted, "state": nothing, "tenant": "acme"}
        about |= {"store": opened}
        about |= more
        bridge = Bridge(connection=nothing, read_back=self._read_back, models=("m",), agents=("demo",), **about)
        self.application = bridge.application()

    def _record(self, command: Command, frame: Frame) -> None:
        agent = command.kind == "agent"
        if isinstance(frame, Outcome) and frame.result == "accepted":
            kind, entity = ("thread", command.thread) if agent else ("generation", command.id)
            event = committed(command, 1, CommandAccepted(command))
            self.recorded.append((kind, msgspec.structs.replace(event, subject=entity)))
        elif isinstance(frame, Committed):
            self.recorded.append(("run" if agent else "generation", frame))

    async def _read_back(self, tenant: str, thread: str, kind: str, entity: str, after: int) -> list[Committed]:
        return [
            event
            for known, event in self.recorded
            if (known, event.subject, event.thread, event.tenant) == (kind, entity, thread, tenant)
        ]

    @property
    def asked(self) -> Any:
        """What the last command asks for."""
        return self.commands[-1].data

    def http(self) -> httpx2.Client:
        """Give an HTTP client for clients that take one: their requests end in the application, nowhere else."""
        return httpx2.Client(transport=httpx2.MockTransport(self._handle), base_url="http://door")

    def _handle(self, request: httpx2.Request) -> httpx2.Response:
        answer = self.send(request.method, str(request.url.raw_path, "ascii"), dict(request.headers), request.read())
        return httpx2.Response(answer.status_code, headers=list(answer.headers.items()), content=answer.content)

    def send(self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> httpx.Response:
        async def sent() -> httpx.Response:
            transport = httpx.ASGITransport(self.application)
            async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
                return await client.request(method, path, headers=headers, content=body)

        answer = asyncio.run(sent())
        documented(self.application).hold(method, path, answer)
        return answer


def accepted(command: Command) -> Outcome:
    return Outcome(command.id, "accepted", command.thread)


def committed(command: Command, version: int, event: Event) -> Committed:
    payload = codec.payload(event)
    return Committed(f"{version}-0", codec.tag(event), command.id, command.thread, "", "acme", "", version, payload)


def said(command: Command, *texts: str) -> list[Delta]:
    """Give the deltas of a text that comes in pieces."""
    before = ["".join(texts[:at]) for at in range(len(texts))]
    return [_delta(command, offset=len(old), text=text) for old, text in zip(before, texts, strict=True)]


def thought(command: Command, *texts: str) -> list[Delta]:
    """Give the deltas of what is thought."""
    before = ["".join(texts[:at]) for at in range(len(texts))]
    return [_delta(command, reasoning_offset=len(old), reasoning=text) for old, text in zip(before, texts, strict=True)]


def called(command: Command, index: int, identity: str, name: str, *arguments: str) -> list[Delta]:
    """Give the deltas of a tool call."""
    before = ["".join(arguments[:at]) for at in range(len(arguments))]
    told = CallTold(index, identity, name)
    return [
        _delta(command, call=told, arguments_offset=len(old), arguments=piece)
        for old, piece in zip(before, arguments, strict=True)
    ]


def _delta(command: Command, offset: int = 0, text: str = "", **more: Any) -> Delta:
    return Delta(command.id, command.thread, f"{command.id}-1-m", 1, offset, text, **more)


USAGE = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=8, reasoning_tokens=2)


def returned(command: Command, text: str = "", finish: Any = "stop", **more: Any) -> Frame:
    return committed(command, 2, ModelReturned(f"{command.id}-1-m", text, finish, USAGE, **more))


def plain(command: Command) -> list[Frame]:
    return [accepted(command), *said(command, "Hel", "lo"), returned(command, "Hello")]


def everything(command: Command) -> list[Frame]:
    """Thought, text and two calls."""
    calls = (ToolCall("c0", "look", '{"at": "sky"}'), ToolCall("c1", "look", "{}"))
    return [
        accepted(command),
        *thought(command, "hm", "m"),
        *said(command, "I ", "look."),
        *called(command, 0, "c0", "look", '{"at"', ': "sky"}'),
        *called(command, 1, "c1", "look", "{}"),
        returned(command, "I look.", "tool_calls", tool_calls=calls, reasoning="hmm"),
    ]
