"""What is not there over REST is waited for while the record is behind the log, and for nothing else."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.requests import Request

from bus.connection import Connection
from bus.recorder import Recorder
from bus.store import Store
from bus.streams import EV
from infra.bridge import late
from infra.bridge.desk import Desk
from infra.bridge.doors import Door, Operation
from infra.bridge.openai import BadRequest
from infra.bridge.rest.answering import Rest
from infra.bridge.telling.recorded import Record
from infra.errors import NothingRecorded, SettlementRefused
from infra.readback import opener, read_back_from
from schemas.live import Committed
from schemas.runs import Problem
from tests.conftest import History

pytestmark = [pytest.mark.anyio, pytest.mark.servers]


class Looked:
    """Finds a thread once so many envelopes are recorded; notes how many were at each look."""

    def __init__(self, store: Store, nothing: Exception, wants: int) -> None:
        self._store, self._nothing, self._wants = store, nothing, wants
        self.looks: list[int] = []
        self.looked = asyncio.Event()

    async def __call__(self, request: Request) -> object:
        cursor = await self._store.cursor(EV)
        self.looks.append(0 if cursor is None else cursor.sequence)
        self.looked.set()
        if self.looks[-1] < self._wants:
            raise self._nothing
        return {"thread": "t1"}


class World:
    """A route of the REST API on a log and its record."""

    def __init__(self, connection: Connection, store: Store, history: History) -> None:
        self.asked = 0
        desk = SimpleNamespace(connection=connection, store=opener(store), read_back=self._read_back)
        self.rest = Rest(cast("Desk", desk))
        self.conversations = Record(cast("Desk", desk))
        self.connection, self.store, self.history = connection, store, history

    async def _read_back(self, *of: Any) -> list[Committed]:
        self.asked += 1
        return await read_back_from(self.store)(*of)

    async def record(self) -> None:
        """Record what was written by now."""
        recorder = Recorder(self.connection, self.store, "rec1")
        copying = asyncio.create_task(recorder.run())
        await recorder.drain(deadline_s=20)
        copying.cancel()
        await asyncio.wait({copying})

    async def ask(self, looked: Looked, method: str = "GET") -> int:
        door: Door = self.rest.door("/x", looked, Operation("Look"), method)
        return int((await cast("Any", door.endpoint)(Request({"type": "http", "method": method}))).status_code)


@pytest.fixture
def world(connection: Connection, store: Store, history: History) -> World:
    return World(connection, store, history)


GONE = SettlementRefused(Problem(kind="invalid", message="thread 't1' does not exist", field="thread"))


@pytest.mark.parametrize("nothing", [NothingRecorded("t1"), GONE], ids=["recorded", "remembered"])
async def test_what_is_not_in_the_log_either_is_not_waited_for(world: World, nothing: Exception) -> None:
    last = await world.history.commit()
    await world.record()
    looked = Looked(world.store, nothing, last + 1)
    with pytest.raises(BadRequest) as refused:
        await world.ask(looked)
    assert (refused.value.status, looked.looks) == (404, [last, last])


async def test_what_was_begun_a_moment_ago_is_found_when_it_is_recorded(world: World) -> None:
    first = await world.history.commit()
    await world.record()
    last = await world.history.commit()
    looked = Looked(world.store, NothingRecorded("t1"), last)
    asking = asyncio.create_task(world.ask(looked))
    await looked.looked.wait()
    await world.record()
    assert await asking == 200
    assert looked.looks == [first, last]


async def test_a_record_that_stands_still_is_not_waited_for_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "LATE_S", 0.05)
    await world.history.commit()
    looked = Looked(world.store, NothingRecorded("t1"), 1)
    with pytest.raises(BadRequest):
        await world.ask(looked)
    assert looked.looks == [0, 0]


async def test_what_is_to_be_done_is_not_tried_twice(world: World) -> None:
    looked = Looked(world.store, NothingRecorded("t1"), 1)
    with pytest.raises(BadRequest):
        await world.ask(looked, "POST")
    assert looked.looks == [0]


async def test_a_conversation_that_nobody_began_is_not_waited_for(world: World) -> None:
    await world.history.commit()
    await world.record()
    assert await world.conversations.waiting_run("default", "t-none", ["e1"]) is None
    assert world.asked == 2
