"""Answers commands as the processes behind the bridge do, out of thin air: what `benchmarks/bridge.py` streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec

from bus import subjects
from bus.connection import Connection, Message
from schemas import codec
from schemas.live import Committed, Delta, Outcome
from schemas.messages import Usage
from schemas.runs import ModelReturned

_TEXT = " token"


@dataclass
class Answers:
    """One engine: every step gives each generation under way a token, all at once, as a batch does."""

    connection: Connection
    interval_s: float = 0.01
    silent: bool = False
    """Whether nothing comes after the first token."""
    under_way: dict[str, list[int]] = field(default_factory=dict)
    """Generation to tokens given and wanted."""
    begun: int = 0

    async def take(self, message: Message) -> None:
        """Take a command on."""
        _, tenant, _, thread, verb = message.subject.split(".")
        if verb != "generate":
            self.under_way.pop(thread, None)
            return
        body = json.loads(message.data)
        outcome = Outcome(body["id"], "accepted", thread)
        await self.connection.publish(subjects.live(tenant, "command", body["id"]), codec.encode(outcome))
        for version, type_ in ((1, "command.accepted"), (2, "model.called")):
            await self._commit(thread, version, type_, msgspec.Raw(b"{}"))
        self.under_way[thread] = [0, int(body["data"]["max_tokens"])]
        self.begun += 1
        await self._token(thread)

    async def _commit(self, thread: str, version: int, type_: str, data: msgspec.Raw) -> None:
        frame = Committed(f"1-{version}", type_, thread, thread, "", "default", "", version, data)
        await self.connection.publish(subjects.live("default", "generation", thread), codec.encode(frame))

    async def _token(self, thread: str) -> None:
        given, wanted = self.under_way[thread]
        frame = Delta(thread, thread, f"{thread}-1-m", 2, given * len(_TEXT), _TEXT, token_offset=given)
        await self.connection.publish(subjects.live("default", "generation", thread), codec.encode(frame))
        self.under_way[thread][0] += 1
        if given + 1 == wanted:
            del self.under_way[thread]
            returned = ModelReturned(f"{thread}-1-m", _TEXT * wanted, "length", Usage(8, wanted))
            await self._commit(thread, 3, "model.returned", codec.payload(returned))

    async def step(self) -> None:
        """Go on until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + self.interval_s, loop.time())
            await asyncio.sleep(due - loop.time())
            if not self.silent:
                for thread in list(self.under_way):
                    await self._token(thread)


@asynccontextmanager
async def answering(connection: Connection) -> AsyncIterator[Answers]:
    """Answer for as long as the block runs."""
    answers = Answers(connection)
    subscription = await connection.subscribe("in.>", answers.take)
    await connection.flush()
    stepping = asyncio.create_task(answers.step())
    try:
        yield answers
    finally:
        stepping.cancel()
        await subscription.unsubscribe()
