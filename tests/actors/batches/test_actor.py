"""What batches do in the world, on a real Postgres: done twice, it leaves what it leaves when it is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from actors.batches.actor import BatchLimits, BatchPerformer, LineAsked
from actors.batches.lines import LineAnswer, error_file, output_file
from actors.batches.machine import AnswerLine, CloseFiles, ReadFile
from actors.runtime.context import SystemClock
from actors.runtime.performer import Site
from bus.files import Files
from bus.store import Store
from schemas import codec
from schemas.batches import Batch, BatchLineEnded, BatchRead, BatchWritten, Outcome
from schemas.messages import Usage
from schemas.runs import Event

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(30)]

BATCH = Batch("file-in", "/v1/completions", window_s=60)
SITE = Site("acme", "batch_1", 1)
ABOUT = ("batch", "batch_1", "")


class Echo:
    """Answers with what is asked, and counts who waits; `refused` are errors."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.go, self.full = asyncio.Event(), asyncio.Event()
        self.refused: set[str] = set()
        self.asked: list[str] = []

    async def answer(self, asked: LineAsked) -> tuple[LineAnswer, Usage]:
        self.asked.append(asked.name)
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == 3:
            self.full.set()
        await self.go.wait()
        self.now -= 1
        status = 400 if asked.name in self.refused else 200
        return LineAnswer(status, codec.encode(asked.body)), Usage(1, 2)

    async def abort(self, tenant: str, name: str) -> None:
        raise AssertionError("nobody was to be stopped")


class World:
    """A file of so many requests, and who answers them."""

    def __init__(self, store: Store, width: int = 3) -> None:
        self.echo = Echo()

        async def opened() -> Store:
            return store

        self.files = Files(opened, seals=True)
        self.performer = BatchPerformer(self.files, self.echo, BatchLimits(100, width), SystemClock())

    async def bring(self, count: int) -> BatchRead:
        await self.files.begin("acme", "file-in", "in", "batch", 0)
        for number in range(count):
            about = {"custom_id": f"c{number}", "method": "POST", "url": BATCH.endpoint, "body": {"n": number}}
            await self.files.put("acme", "file-in", number, codec.encode(about) + b"\n")
        await self.files.complete("acme", "file-in")
        event = await self.performer.perform(ReadFile("batch_1-r", *ABOUT, batch=BATCH), SITE, again=False)
        assert isinstance(event, BatchRead)
        return event

    async def line(self, number: int) -> Event:
        effect = AnswerLine(f"batch_1-{number}", *ABOUT, batch=BATCH, line=number, expires=1 << 60)
        return await self.performer.perform(effect, SITE, again=False)

    async def close(self, total: int, outcome: Outcome) -> BatchWritten:
        effect = CloseFiles("batch_1-w", *ABOUT, batch=BATCH, total=total, outcome=outcome)
        event = await self.performer.perform(effect, SITE, again=False)
        assert isinstance(event, BatchWritten)
        return event

    async def told(self, name: str) -> list[dict[str, Any]]:
        parts = [part async for _, part in self.files.parts("acme", name)]
        return [codec.decode(line, dict) for line in b"".join(parts).splitlines()]


def names(lines: Sequence[dict[str, Any]]) -> list[str]:
    return [line["custom_id"] for line in lines]


async def test_only_so_many_lines_are_answered_at_a_time(store: Store) -> None:
    world = World(store, width=3)
    assert (await world.bring(9)).total == 9
    answering = [asyncio.create_task(world.line(number)) for number in range(9)]
    await world.echo.full.wait()
    world.echo.go.set()
    ended = await asyncio.gather(*answering)
    assert world.echo.most == 3
    assert [event.line for event in ended if isinstance(event, BatchLineEnded)] == list(range(9))
    assert names(await world.told(output_file("batch_1"))) == [f"c{n}" for n in range(9)]


async def test_a_line_that_is_answered_again_stands_in_its_place_once(store: Store) -> None:
    world = World(store)
    world.echo.go.set()
    assert not (await world.bring(3)).problems
    assert not (await world.bring(3)).problems
    for number in (2, 0, 1, 0):
        await world.line(number)
    world.echo.refused = {"batch_1-1"}
    event = await world.line(1)
    assert event == BatchLineEnded("batch_1-1", 1, failed=True, usage=Usage(1, 2))
    written = await world.close(3, "completed")
    assert (written.completed, written.failed) == (2, 1)
    assert names(await world.told(output_file("batch_1"))) == ["c0", "c2"]
    assert names(await world.told(error_file("batch_1"))) == ["c1"]
    await world.line(1)  # whoever was overtaken writes nothing into files that are closed
    again = await world.close(3, "completed")
    assert (again.output_file, again.error_file, again.completed, again.failed) == (
        *(written.output_file, written.error_file, 2, 1),
    )


@pytest.mark.parametrize(("outcome", "code"), [("expired", "batch_expired"), ("cancelled", "batch_cancelled")])
async def test_what_was_not_answered_is_told_of_when_it_is_over(store: Store, outcome: Outcome, code: str) -> None:
    world = World(store)
    world.echo.go.set()
    await world.bring(4)
    await world.line(2)
    written = await world.close(4, outcome)
    assert (written.completed, written.failed, written.outcome) == (1, 3, outcome)
    errors = await world.told(error_file("batch_1"))
    assert names(errors) == ["c0", "c1", "c3"]
    assert {line["error"]["code"] for line in errors} == {code}


async def test_a_batch_of_which_nothing_was_read_leaves_no_files(store: Store) -> None:
    world = World(store)
    written = await world.close(0, "cancelled")
    assert (written.output_file, written.error_file, written.completed, written.failed) == ("", "", 0, 0)


async def test_the_lines_of_a_file_that_was_deleted_fail(store: Store) -> None:
    world = World(store)
    world.echo.go.set()
    await world.bring(2)
    await world.files.delete("acme", "file-in")
    assert not world.echo.asked
    event = await world.line(1)
    assert isinstance(event, BatchLineEnded)
    assert event.failed
    (error,) = await world.told(error_file("batch_1"))
    assert error["response"]["body"]["error"]["code"] == "gone"
    effect = ReadFile("batch_1-r", *ABOUT, batch=BATCH)
    read = await world.performer.perform(effect, SITE, again=True)
    assert isinstance(read, BatchRead)
    assert [problem.code for problem in read.problems] == ["file_not_found"]


class Breaking(Files):
    """Files of which something breaks, in a way that nobody thought of."""

    def __init__(self, files: Files, name: str) -> None:
        self._files = files
        self._name = name

    def __getattribute__(self, name: str) -> Any:
        if name == object.__getattribute__(self, "_name"):
            raise RuntimeError(f"{name} is broken")
        return getattr(object.__getattribute__(self, "_files"), name)


@pytest.mark.parametrize("broken", ["part_of", "put", "find", "complete", "numbers"])
async def test_nothing_that_breaks_leaves_a_batch_standing(store: Store, broken: str) -> None:
    world = World(store)
    world.echo.go.set()
    await world.bring(2)
    world.performer = BatchPerformer(Breaking(world.files, broken), world.echo, BatchLimits(100, 3), SystemClock())
    event = await world.line(1)
    assert isinstance(event, BatchLineEnded)
    assert event.failed is (broken in {"part_of", "put"})
    read = await world.performer.perform(ReadFile("batch_1-r", *ABOUT, batch=BATCH), SITE, again=True)
    assert isinstance(read, BatchRead)
    assert [problem.code for problem in read.problems] == (["internal_error"] if broken == "find" else [])
    written = await world.close(2, "completed")
    assert (written.completed + written.failed == 2) is (broken == "part_of")


async def test_a_line_that_could_not_be_written_is_told_of_at_the_end(store: Store) -> None:
    world = World(store)
    world.echo.go.set()
    await world.bring(2)
    await world.line(0)
    whole = world.performer
    world.performer = BatchPerformer(Breaking(world.files, "put"), world.echo, BatchLimits(100, 3), SystemClock())
    await world.line(1)
    world.performer = whole
    written = await world.close(2, "completed")
    assert (written.completed, written.failed) == (1, 1)
    (lost,) = await world.told(error_file("batch_1"))
    assert (lost["custom_id"], lost["error"]["code"]) == ("c1", "internal_error")
