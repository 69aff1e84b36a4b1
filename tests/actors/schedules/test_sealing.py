"""What schedules ask is sealed, each with a key of its own, which is destroyed when the schedule is removed."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from actors.testing import ScriptedModel
from bus.batch import on_leader
from bus.connection import Connection
from bus.dead import dead_command, keep, letters
from bus.keyring import Keyring
from bus.projector import bring_up
from bus.scheduled import schedules_of
from bus.store import Store
from bus.streams import CMD, EV, ensure_streams
from infra.erasing import StackEraser
from infra.follow import send
from infra.privacy import opened_store
from schemas import codec
from schemas.commands import Command
from schemas.envelope import Fact
from schemas.memory import DeleteThread
from schemas.schedules import AddSchedule, FireSchedule, RemoveSchedule, Schedule, ScheduleErased
from tests.actors.runtime.bench import Bench, answering, ends, hearing, owning, run, until
from tests.actors.runtime.test_shard_waits import happened
from tests.actors.schedules.clocks import HOUR, NOON, Alarm, about, adding, firing
from tests.bus.recording import record
from tests.bus.test_keyring import MASTER, giving, ring

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(60)]

ROOT = Path(__file__).parents[3]
TEXT = "What is new?"
FIRST = "hourly-1767272400"


@pytest.fixture
async def bench(connection: Connection, store: Store, nats_url: str) -> Bench:
    await ensure_streams(connection, 1)
    connection.keys = ring(store)
    return Bench(connection, nats_url, ScriptedModel(answering))


def eraser(bench: Bench, store: Store) -> StackEraser:
    return StackEraser(bench.connection, giving(store))


async def of_schedule(bench: Bench, name: str = "hourly") -> list[Fact]:
    return [fact for _, _, fact in await bench.facts() if (fact.kind, fact.entity) == ("schedule", name)]


async def in_the_log(bench: Bench, word: str) -> bool:
    """Say whether a word stands in the stream of events, as it is stored."""
    last = (await bench.connection.api(f"STREAM.INFO.{EV}"))["state"]["last_seq"]
    items = [await on_leader(bench.connection, EV, {"seq": at}) for at in range(1, last + 1)]
    return any(word.encode() in item.data for item in items if item is not None)


async def in_tables(store: Store, word: str) -> set[str]:
    names = [row["relname"] for row in await store.rows(_TABLES)]
    found = set()
    for name in names:
        for row in await store.rows(f'SELECT each::text AS row FROM "{name}" AS each'):
            if word in row["row"] or word.encode().hex() in row["row"]:
                found.add(name)
    return found


async def test_what_a_schedule_asks_stands_nowhere_in_clear_and_its_book_shows_it(
    bench: Bench, store: Store, database: str
) -> None:
    async with owning(firing(bench, "p1", Alarm())):
        await send(bench.connection, adding())
    await record(bench.connection, store, (EV,))
    async with await opened_store(database, MASTER) as reading:
        await bring_up(reading)
        (hourly,) = await schedules_of(reading, "acme")
    assert (hourly.schedule.text, hourly.status, hourly.next) == (TEXT, "active", NOON + HOUR)
    assert not await in_the_log(bench, TEXT)
    assert await in_tables(store, TEXT) == set()
    (key,) = {fact.key for fact in await of_schedule(bench)}
    assert key is not None


async def test_the_key_goes_with_the_schedule_and_one_of_the_same_name_has_another(
    bench: Bench, store: Store, database: str
) -> None:
    erase = eraser(bench, store).erase_schedule
    dead = dead_command("cmd.0.acme.schedule.hourly.add", b"?", "odd", 1, "p1")
    await keep(bench.connection, 0, "schedule", dead, "x")
    async with owning(firing(bench, "p1", Alarm(), erase=erase)), hearing(bench, "schedule.hourly") as watcher:
        await send(bench.connection, adding())
        await send(bench.connection, about("s2", RemoveSchedule()))
        await until(watcher, happened("schedule.erased"))
        first = {fact.key for fact in await of_schedule(bench)} - {None}
        assert (await store.rows("SELECT id FROM sealing_key WHERE id = ANY($1)", list(first))) == []
        gone = {fact.type for fact in await of_schedule(bench) if codec.is_erased(fact.payload)}
        assert gone == {"command.accepted", "schedule.added", "schedule.planned"}
        assert await letters(bench.connection, 9) == []
        assert (await send(bench.connection, adding("s3"))).result == "accepted"
    facts = await of_schedule(bench)
    assert len({fact.key for fact in facts} - {None, *first}) == 1
    assert [fact.type for fact in facts if not codec.is_erased(fact.payload)][-3:] == [
        "command.accepted", "schedule.added", "schedule.planned",
    ]  # fmt: skip
    # another owner folds what it can read
    async with owning(firing(bench, "p2", Alarm(NOON + HOUR))), hearing(bench, f"run.{FIRST}") as watcher:
        await until(watcher, ends)
    await record(bench.connection, store, (EV,))
    async with await opened_store(database, MASTER) as reading:
        await bring_up(reading)
        (hourly,) = await schedules_of(reading, "acme")
    assert (hourly.schedule.text, hourly.status) == (TEXT, "active")


async def test_an_owner_that_is_killed_while_it_erases_loses_nothing(bench: Bench, store: Store, database: str) -> None:
    async with owning(firing(bench, "p1", Alarm())), hearing(bench, "run.hourly-n1") as watcher:
        await send(bench.connection, adding())
        await send(bench.connection, about("now", FireSchedule()))
        await until(watcher, ends)
    argv = (sys.executable, "-m", "tests.actors.schedules.owner", bench.url, "erased", database)
    process = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, cwd=ROOT)
    async with hearing(bench, "schedule.hourly", "run.hourly-n2") as watcher:
        await send(bench.connection, about("gone", RemoveSchedule()))
        assert process.stdout is not None
        assert await process.stdout.readline() == b"erased\n"
        process.kill()
        await process.wait()
        assert (await of_schedule(bench))[-1].type == "schedule.closed"
        bench.connection.keys = ring(store)
        async with owning(firing(bench, "p2", Alarm(), erase=eraser(bench, store).erase_schedule)):
            await until(watcher, happened("schedule.erased"))
            await send(bench.connection, adding("s2"))
            await send(bench.connection, about("then", FireSchedule()))
            await until(watcher, ends)  # as another run than the first
    assert not await in_the_log(bench, TEXT)


async def test_what_is_said_to_one_that_is_being_erased_waits_and_is_not_lost(bench: Bench, store: Store) -> None:
    hold, asked = asyncio.Event(), asyncio.Event()

    async def erase(tenant: str, schedule: str, key: str | None) -> int:
        asked.set()
        await hold.wait()
        return await eraser(bench, store).erase_schedule(tenant, schedule, key)

    async with owning(firing(bench, "p1", Alarm(), erase=erase)):
        await send(bench.connection, adding())
        await send(bench.connection, about("s2", RemoveSchedule()))
        await asked.wait()
        adding_again = asyncio.create_task(send(bench.connection, adding("s3")))
        while not await put_off(bench):
            assert not adding_again.done()
        hold.set()
        assert (await adding_again).result == "accepted"
    added = [fact for fact in await of_schedule(bench) if fact.type == "schedule.added"]
    assert [codec.is_erased(fact.payload) for fact in added] == [True, False]


async def put_off(bench: Bench) -> bool:
    """Say whether a command came a second time."""
    names = (await bench.connection.api(f"CONSUMER.NAMES.{CMD}"))["consumers"]
    told = [await bench.connection.api(f"CONSUMER.INFO.{CMD}.{name}") for name in names]
    return any(one["num_redelivered"] for one in told)


async def test_what_an_earlier_release_wrote_unsealed_is_read_and_counted(
    bench: Bench, store: Store, database: str
) -> None:
    keys, bench.connection.keys = bench.connection.keys, None
    async with owning(firing(bench, "p1", Alarm())):
        await send(bench.connection, adding())
    bench.connection.keys = keys
    await record(bench.connection, store, (EV,))
    async with await opened_store(database, MASTER) as reading:
        await bring_up(reading)
        (hourly,) = await schedules_of(reading, "acme")
    assert hourly.schedule.text == TEXT
    erase = eraser(bench, store).erase_schedule
    async with (
        owning(firing(bench, "p2", Alarm(NOON + HOUR), erase=erase)),
        hearing(bench, f"run.{FIRST}", "schedule.hourly") as watcher,
    ):
        await until(watcher, ends)
        await send(bench.connection, about("s2", RemoveSchedule()))
        await until(watcher, happened("schedule.erased"))
    facts = await of_schedule(bench)
    assert next(fact for fact in facts if fact.type == "command.accepted" and fact.cause == "s2").key is not None
    event = codec.event_of(facts[-1])
    assert event == ScheduleErased(effect="hourly-e", unsealed=3)


async def test_a_thread_and_a_schedule_of_one_name_are_erased_apart(bench: Bench, store: Store) -> None:
    erased = eraser(bench, store)
    runtime = firing(bench, "p1", Alarm(), erase=erased.erase_schedule)
    async with owning(runtime), hearing(bench, "run.c1", "run.c2", "schedule.one") as watcher:
        for name in ("one", "two"):
            await send(bench.connection, about(f"s-{name}", AddSchedule(Schedule("0 * * * *", "demo", TEXT)), name))
            await send(bench.connection, run("c1" if name == "one" else "c2", "hi", name))
            await until(watcher, ends)
        await send(bench.connection, about("s2", RemoveSchedule(), "one"))
        await until(watcher, happened("schedule.erased"))
        await send(bench.connection, Command("d2", "acme", "agent", "two", "delete", DeleteThread(), "test"))
        await record(bench.connection, store)
        await erased.erase("acme", "two")
    keys = ring(store)
    assert isinstance(keys, Keyring)
    bench.connection.keys = keys
    gone = {(fact.kind, fact.thread) for _, _, fact in await bench.facts() if codec.is_erased(fact.payload)}
    assert gone == {("schedule", "one"), ("thread", "two"), ("run", "two")}


_TABLES = """
SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = 'public' AND relkind = 'r'
"""
