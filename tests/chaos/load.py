"""Clients under fire: each asks in a thread of its own, one question after the other, and writes down what it was told.

What a client does with a failure is what any client must do: it sends the same command again, with the same id.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import asyncpg
import msgspec

from bus import subjects
from bus.commands import send_command
from bus.connection import Connection, accepted
from bus.errors import BusError
from bus.store import Store, read_events
from bus.streams import EV
from infra.cli.asking import agent_command, model_command
from infra.follow import follow, send
from infra.readback import LateStore
from schemas import codec
from schemas.commands import Command
from schemas.live import Committed, Frame, Outcome
from schemas.messages import Message
from tests.chaos import laws

ANSWER_S = 30.0
TURNS = 6
"""Questions of one thread: the model has room for no more than about thirty."""
AGAIN_S = 0.2
_POISON_S = 0.5
PROBE_S = 60.0


@dataclass(slots=True)
class Asked:
    """One question, as its client knows it."""

    command: Command
    expected: str
    """What an answer holds."""
    taken: bool = False
    """The command stream acknowledged it."""
    heard: list[Committed] = field(default_factory=list)
    kind: str = ""
    """Of the errand that it belongs to: then a scripted model answers it, and it may ask for more; see `errands.py`."""
    refused: bool = False
    """What it needs was not there."""
    answers: list[Command] = field(default_factory=list)
    """What is to be said to what its run waits for."""
    answered: int = 0
    """How many of those the stream took."""
    over: bool = False
    began: float = field(default_factory=time.time)
    ended: float = math.inf


@dataclass(slots=True)
class Ledger:
    """Everything that clients intended and were told."""

    asked: list[Asked] = field(default_factory=list)
    twice: bool = False
    """Whether everything is sent twice now, and as another message too."""

    @property
    def open(self) -> list[Asked]:
        """Questions that the stream took and that are not over."""
        return [asked for asked in self.asked if asked.taken and not asked.over]

    def up_to(self, last: Asked) -> list[Asked]:
        """List what was asked in its thread before it, and it."""
        before = self.asked[: self.asked.index(last) + 1]
        return [asked for asked in before if asked.command.thread == last.command.thread]


class Line:
    """A client's connections, made anew when the stack has moved."""

    def __init__(self, urls: Callable[[], dict[str, str]], name: str) -> None:
        self.urls = urls
        self._name = name
        self._connection: Connection | None = None
        self._store: LateStore | None = None

    async def open(self) -> tuple[Connection, LateStore]:
        """Connect unless connected.

        Raises:
            Unavailable: there is nobody.
        """
        if self._connection is None or self._store is None:
            urls = self.urls()
            self._connection = await Connection.open(urls["nats"], self._name)
            self._store = LateStore(urls["postgres"], urls.get("master", "").encode())
        return self._connection, self._store

    async def close(self) -> None:
        """Let go."""
        if self._store is not None:
            await self._store.__aexit__(None, None, None)
        if self._connection is not None:
            await self._connection.close()
        self._connection = self._store = None


class Client:
    """Asks a calculator until told to stop; every question it began it sees through."""

    def __init__(self, line: Line, ledger: Ledger, number: int, seed: int, duplicates: bool) -> None:
        self._line = line
        self._ledger = ledger
        self._chance = random.Random(f"{seed}-{number}")
        self._agent = ("strict", "patient")[number % 2]
        self._name = f"chaos-{seed}-{number}"
        self._duplicates = duplicates
        self.stopping = asyncio.Event()
        self.at = ""
        """What it waits for, for whoever finds it hanging."""

    async def run(self) -> None:
        """Ask, hear the answer, ask again."""
        try:
            for number in itertools.count():
                if self.stopping.is_set():
                    return
                left, right = self._chance.randrange(2, 99), self._chance.randrange(2, 99)
                thread = f"{self._name}-{number // TURNS}"
                command = question(self._agent, f"What is {left} times {right}?", thread)
                await self.see_through(Asked(command, str(left * right)))
        finally:
            await self._line.close()

    async def see_through(self, asked: Asked) -> None:
        """Ask, and ask again, until the run is over."""
        self._ledger.asked.append(asked)
        self.at = f"{asked.command.id} in {asked.command.thread}"
        while not asked.over:
            await self._attempt(asked)

    async def _attempt(self, asked: Asked) -> None:
        try:
            connection, late = await self._line.open()
            await self._send(connection, asked.command)
            asked.taken = True
            await self._answer(connection, asked)
            async for frame in follow(connection, late.read_back, asked.command, ANSWER_S, _version(asked)):
                self.note(asked, frame)
                await self._answer(connection, asked)
        except (BusError, TimeoutError, OSError):
            await self._line.close()
            await asyncio.sleep(AGAIN_S)

    async def _send(self, connection: Connection, command: Command) -> None:
        await send_command(connection, command)
        if self._ledger.twice:
            await send_command(connection, command)
        if self._ledger.twice or self._duplicates:
            await _send_twin(connection, command)

    async def _answer(self, connection: Connection, asked: Asked) -> None:
        """Say what is to be said to what the run waits for, and has not been taken yet."""
        while asked.answered < len(asked.answers):
            await self._send(connection, asked.answers[asked.answered])
            asked.answered += 1

    def note(self, asked: Asked, frame: Frame) -> None:
        """Take in what is heard of a question's run.

        Raises:
            AssertionError: it was refused.
        """
        if isinstance(frame, Committed):
            asked.heard.append(frame)
            if frame.type in {"run.finished", "run.failed"}:
                asked.over, asked.ended = True, time.time()
        elif isinstance(frame, Outcome) and frame.result != "accepted":
            raise AssertionError(f"a good question was {frame.result}: {frame}")


class Saboteur:
    """Sends what nobody can decode into the threads of the others, and counts what the stream took."""

    def __init__(self, line: Line, seed: int, clients: int) -> None:
        self._line = line
        self._chance = random.Random(f"{seed}-poison")
        self._names = [f"chaos-{seed}-{number}-0" for number in range(clients)]
        self.taken: set[str] = set()
        self.stopping = asyncio.Event()
        self.at = "poison"

    async def run(self) -> None:
        """Send one after the other until told to stop."""
        try:
            for number in itertools.count():
                name = f"poison-{number}"
                subject = subjects.command("default", "agent", self._chance.choice(self._names), "run")
                while name not in self.taken and not self.stopping.is_set():
                    await self._attempt(name, subject)
                if self.stopping.is_set():
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POISON_S):
                        await self.stopping.wait()
        finally:
            await self._line.close()

    async def _attempt(self, name: str, subject: str) -> None:
        try:
            connection, _ = await self._line.open()
            accepted(
                await connection.request(
                    subject, b'{"id": "%b", "data": {"agent": 7}}' % name.encode(), 1.0, {"Nats-Msg-Id": name}
                )
            )
            self.taken.add(name)
        except (BusError, TimeoutError, OSError):
            await self._line.close()
            await asyncio.sleep(AGAIN_S)


def question(agent: str, text: str, thread: str) -> Command:
    """Ask an agent in a thread that may be there or not."""
    command = agent_command(agent, text, thread)
    return msgspec.structs.replace(command, data=msgspec.structs.replace(command.data, thread="any"))


def _version(asked: Asked) -> int:
    return asked.heard[-1].version if asked.heard else 0


_twins = itertools.count()


async def _send_twin(connection: Connection, command: Command) -> None:
    """Publish a command once more, with a message id of its own: the stream takes it for another one."""
    body = {"id": command.id, "source": command.source, "data": command.data, "traceparent": command.traceparent}
    subject = subjects.command(command.tenant, command.kind, command.thread, command.verb)
    await connection.request(subject, codec.encode(body), 2.0, {"Nats-Msg-Id": f"twin-{next(_twins)}-{command.id}"})


async def until_served(line: Line, threads: int) -> float:
    """Ask something that is refused at once, in many threads, until all are answered; return the seconds it took."""
    began = time.monotonic()
    connection, _ = await line.open()

    async def probe(number: int) -> None:
        while time.monotonic() - began < PROBE_S:
            try:
                await send(connection, agent_command("nobody", "?", f"probe-{number}"), 1.0)
            except (BusError, TimeoutError):
                await asyncio.sleep(0.02)
            else:
                return
        raise TimeoutError(f"thread 'probe-{number}' was not served within {PROBE_S:.0f} s")

    await asyncio.gather(*(probe(number) for number in range(threads)))
    return time.monotonic() - began


async def until_answered(line: Line, model: str) -> float:
    """Ask the bare model until it answers; return the seconds it took."""
    began = time.monotonic()
    connection, late = await line.open()
    while time.monotonic() - began < PROBE_S:
        command = model_command(model, [Message(role="user", content="Hello!")])
        try:
            async for frame in follow(connection, late.read_back, command, 5.0):
                if isinstance(frame, Committed) and frame.type == "model.returned":
                    return time.monotonic() - began
        except (BusError, TimeoutError):
            await asyncio.sleep(0.02)
    raise TimeoutError(f"the model did not answer within {PROBE_S:.0f} s")


async def until_recorded(line: Line) -> None:
    """Wait until what the log holds now is in Postgres."""
    async with asyncio.timeout(PROBE_S):
        last: int | None = None
        while True:
            with contextlib.suppress(BusError, OSError, asyncpg.PostgresError):
                if last is None:
                    connection, _ = await line.open()
                    last = int((await connection.api(f"STREAM.INFO.{EV}", timeout_s=1.0))["state"]["last_seq"])
                async with await Store.open(line.urls()["postgres"]) as store:
                    cursor = await store.cursor(EV)
                if cursor is not None and cursor.sequence >= last:
                    return
            await asyncio.sleep(0.02)


async def until_at_rest(line: Line, within_s: float) -> None:
    """Wait until all that was begun has ended, or so many seconds: what has not by then is the oracle's to tell."""
    end = time.monotonic() + within_s
    try:
        while time.monotonic() < end:
            await until_recorded(line)
            _, late = await line.open()
            store = await late.opened()
            rows = await store.rows("SELECT * FROM event WHERE kind IN ('run', 'thread', 'schedule') ORDER BY seq, idx")
            if not laws.fold([stored.fact for stored in await read_events(store, rows)]).open():
                return
            await asyncio.sleep(AGAIN_S)
    finally:
        await line.close()
