"""The projections in Postgres are what folding the log from its beginning gives, whoever fills them, and whenever."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import msgspec
import pytest

import bus.projecting
import bus.rebuild
from bus.connection import Connection
from bus.errors import NoMasterKey, Unavailable
from bus.following import WHOLE
from bus.migrate import migrate, migrations
from bus.projecting import At, Build, live_builds
from bus.projections import PROJECTIONS
from bus.projector import Projector
from bus.rebuild import RebuildBusy, Rebuilt, rebuild, unfit
from bus.record import rewrite
from bus.recorder import Recorder
from bus.repair import repair
from bus.store import Batch, Cursor, Store, StoredEvent
from bus.streams import EV
from infra.services.postgres import Postgres
from schemas.envelope import Fact
from tests.bus.test_following import THREADS, Books, books

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(20)]

NAMES = list(PROJECTIONS)
_ALL = 1 << 30
"""No envelope comes after it."""
_UNKNOWN = Fact("acme", "strange", "run", "r1", 1, "model.dreamt", "c1", msgspec.Raw(b'{"type":"model.dreamt"}'))


def log() -> list[StoredEvent]:
    """Every recorded thread, in envelopes of one to four events, and one that nobody can follow."""
    facts = [stored for events in THREADS for stored in events]
    facts.insert(7, facts[7]._replace(fact=_UNKNOWN))
    facts.append(facts[-1]._replace(fact=msgspec.structs.replace(_UNKNOWN, version=2)))
    placed, sequence, idx = [], 1, 0
    for number, stored in enumerate(facts):
        placed.append(stored._replace(incarnation=1, sequence=sequence, idx=idx))
        sequence, idx = (sequence, idx + 1) if number % 4 and idx < 3 else (sequence + 1, 0)
    return placed


def current(events: Sequence[StoredEvent]) -> dict[str, Any]:
    """What a projector says that has taken all."""
    place = {"sequence": events[-1].sequence, "incarnation": 1, "behind": 0}
    return {**dict.fromkeys(NAMES, place), "problem": ""}


def between(events: Sequence[StoredEvent], first: int, last: int) -> list[StoredEvent]:
    """The events of the envelopes after `first`, up to `last`."""
    return [stored for stored in events if first < stored.sequence <= last]


async def write(store: Store, events: Sequence[StoredEvent]) -> None:
    """Record events as the recorder would."""
    rows = [
        (
            at.incarnation, at.sequence, at.idx, at.fact.tenant, at.fact.thread, at.fact.kind, at.fact.entity,
            # what is recorded twice here for other reasons has a version of its own
            number, at.fact.type, at.fact.cause, at.time, at.fact.traceparent, at.fact.key, bytes(at.fact.payload),
            None,
        )
        for number, at in enumerate(events, start=events[0].sequence * 10)
    ]  # fmt: skip
    before = await store.claim(EV, "rec1")
    end = Cursor(EV, events[-1].incarnation, events[-1].sequence, "h")
    await store.advance(before, Batch(end, {"event": rows}, {}), "rec1")


async def kept(store: Store) -> Books:
    """Read the projections as readers do."""
    found: Books = {}
    for name, projection in PROJECTIONS.items():
        keys = [column.name for column in projection.columns if column.rule == "key"]
        rows = [dict(row) for row in await store.rows(f"SELECT * FROM {name}")]
        found[name] = {tuple(row.pop(key) for key in keys): _said(row) for row in rows}
    return found


def _said(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out what nothing was said of."""
    return {name: value for name, value in row.items() if value}


def expected(events: Sequence[StoredEvent]) -> Books:
    return {name: {key: _said(row) for key, row in rows.items()} for name, rows in books(events).items()}


@asynccontextmanager
async def running(store: Store, *projectors: Projector) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(projector.run()) for projector in projectors]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not [task for task in tasks if task.done() and not task.cancelled() and task.exception()]


async def reached(store: Store, at: At) -> None:
    """Wait until every projection has taken all up to a place."""
    async with asyncio.timeout(10):
        while True:
            builds, _ = await live_builds(store)
            if len(builds) == len(NAMES) and all(build.at >= at for build in builds):
                return


@pytest.mark.parametrize("page", [1, 2, 7, 10_000])
async def test_batches_of_any_size_come_to_the_same(store: Store, page: int) -> None:
    events = log()
    await rebuild(store, NAMES, page=page)
    for first, last in itertools.pairwise([0, 20, 21, 60, _ALL]):
        await write(store, between(events, first, last))
        await Projector(store, page).catch_up()
    assert await kept(store) == expected(events)
    builds, end = await live_builds(store)
    assert {build.at for build in builds} == {end}
    assert {row["count"] for row in await store.rows("SELECT count(*) FROM projection_state GROUP BY build")} == {1}


async def test_a_rebuild_gives_what_was_there(store: Store) -> None:
    events = log()
    await write(store, events)
    await rebuild(store, NAMES, page=50)
    before, told = await kept(store), []
    done = await rebuild(store, ["runs", "usage"], lambda at, end: told.append((at, end)), page=50)
    assert done == [Rebuilt(name, len(before[name]), 1, events[-1].sequence) for name in ("runs", "usage")]
    assert await kept(store) == before == expected(events)
    assert told == sorted(told)
    assert told[-1] == (events[-1].sequence, events[-1].sequence)
    for table in (*(projection.table for projection in PROJECTIONS.values()), "projection_state"):
        (row,) = await store.rows(f"SELECT count(DISTINCT build) AS builds FROM {table}")
        assert row["builds"] <= (len(NAMES) if table == "projection_state" else 1), table


async def test_several_projectors_count_nothing_twice(store: Store) -> None:
    events = log()
    async with running(store, *(Projector(store, page) for page in (1, 2, 3))):
        await write(store, events)
        await reached(store, At(1, events[-1].sequence))
    assert await kept(store) == expected(events)


async def test_readers_see_the_old_rows_until_the_new_are_complete(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = log()
    await write(store, between(events, 0, 50))
    await rebuild(store, NAMES)
    before = await kept(store)
    half, go = asyncio.Event(), asyncio.Event()

    async def stopping(store: Store, builds: list[Build], until: At, page: int) -> bool:
        if builds[0].at.sequence > 10:
            half.set()
            await go.wait()
        return await bus.projecting.advance(store, builds, until, page)

    monkeypatch.setattr(bus.rebuild, "advance", stopping)
    again = asyncio.create_task(rebuild(store, NAMES, page=10))
    await half.wait()
    assert await kept(store) == before
    with pytest.raises(RebuildBusy):
        await rebuild(store, ["runs"])
    await write(store, between(events, 50, _ALL))
    await Projector(store).catch_up()
    assert await kept(store) == expected(events)
    go.set()
    await again
    assert await kept(store) == expected(events)


async def test_a_rebuild_that_was_broken_off_leaves_nothing_once_there_is_another(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(store, log())
    await rebuild(store, NAMES)

    async def failing(store: Store, builds: list[Build], until: At, page: int) -> bool:
        if builds[0].at.sequence > 10:
            raise Unavailable("away")
        return await bus.projecting.advance(store, builds, until, page)

    with monkeypatch.context() as patched:
        patched.setattr(bus.rebuild, "advance", failing)
        with pytest.raises(Unavailable):
            await rebuild(store, NAMES, page=10)
    assert await kept(store) == expected(log())
    assert len(await store.rows("SELECT 1 FROM projection_build")) == 2 * len(NAMES)
    await rebuild(store, ["threads"])
    assert len(await store.rows("SELECT 1 FROM projection_build")) == len(NAMES)
    assert len(await store.rows("SELECT 1 FROM cursor WHERE name LIKE 'projection.%'")) == len(NAMES)
    assert await kept(store) == expected(log())


async def test_a_rebuild_during_which_the_record_is_mended_is_not_taken_for_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(store, log())
    await rebuild(store, NAMES)

    async def mended(store: Store, builds: list[Build], until: At, page: int) -> bool:
        if builds[0].at.sequence > 10:
            await rewrite(store, 1, 99_999, {"event": [], "commit": []})
        return await bus.projecting.advance(store, builds, until, page)

    with monkeypatch.context() as patched:
        patched.setattr(bus.rebuild, "advance", mended)
        with pytest.raises(Unavailable, match="mended meanwhile"):
            await rebuild(store, NAMES, page=10)
    assert unfit((await live_builds(store))[0]) == NAMES
    await rebuild(store, NAMES)
    assert await kept(store) == expected(log())


async def test_what_other_code_made_is_made_again(store: Store) -> None:
    await write(store, log())
    assert unfit((await live_builds(store))[0]) == NAMES
    await rebuild(store, NAMES)
    assert unfit((await live_builds(store))[0]) == []
    await store.rows("UPDATE projection SET code = 'older' WHERE name = 'usage'")
    await store.rows("UPDATE projected_usage SET runs = 99")
    assert unfit((await live_builds(store))[0]) == ["usage"]
    async with running(store, Projector(store)):
        async with asyncio.timeout(5):
            while unfit((await live_builds(store))[0]):
                pass
    assert await kept(store) == expected(log())


@pytest.mark.deadline(30)
async def test_events_that_are_mended_in_the_record_are_counted_again(
    history: Any, connection: Connection, store: Store
) -> None:
    for version, stored in enumerate(log(), start=1):
        await history.commit(0, [msgspec.structs.replace(stored.fact, version=version)])
    recorder = Recorder(connection, store, "rec1", (EV,))
    recording = asyncio.create_task(recorder.run())
    await recorder.drain()
    recording.cancel()
    await asyncio.gather(recording, return_exceptions=True)
    await rebuild(store, NAMES)
    whole = await kept(store)
    await store.rows("DELETE FROM event WHERE seq BETWEEN 20 AND 40")
    await store.rows("UPDATE event SET type = 'memory.written' WHERE type = 'message.added'")
    await rebuild(store, NAMES)
    assert await kept(store) != whole

    async def cut(items: list[Any]) -> None:
        raise AssertionError(items)

    await repair(connection, store, "mender", cut)
    assert unfit((await live_builds(store))[0]) == NAMES
    async with running(store, Projector(store)):
        async with asyncio.timeout(10):
            while unfit((await live_builds(store))[0]):
                pass
    assert await kept(store) == whole


async def test_a_new_incarnation_goes_on_after_the_last(store: Store) -> None:
    events = log()
    await write(store, between(events, 0, 40))
    await rebuild(store, NAMES)
    later = [stored._replace(incarnation=2) for stored in between(events, 40, _ALL)]
    await write(store, later)
    await Projector(store).catch_up()
    assert await kept(store) == expected([*between(events, 0, 40), *later])


async def test_postgres_being_away_is_waited_for(store: Store, postgres_server: Postgres, database: str) -> None:
    events = log()
    projector = Projector(store, page=20)
    async with running(store, projector):
        await write(store, between(events, 0, 40))
        await reached(store, At(1, 40))
        await postgres_server.stop()
        async with asyncio.timeout(10):
            while not projector.statistics()["problem"]:
                with suppress(Unavailable):
                    await live_builds(store)
        await postgres_server.restart()
        async with await Store.open(database) as again:
            await write(again, between(events, 40, _ALL))
            await reached(again, At(1, events[-1].sequence))
            async with asyncio.timeout(10):
                while projector.statistics() != current(events):
                    await live_builds(again)


async def test_an_envelope_larger_than_a_page_is_taken_in_parts(store: Store) -> None:
    events = [stored._replace(sequence=1, idx=idx) for idx, stored in enumerate(log())]
    await write(store, events)
    await rebuild(store, NAMES, page=16)
    assert (await kept(store))["usage"] == expected(events)["usage"]


async def test_large_payloads_come_a_few_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus.projecting, "PAGE_BYTES", 2_000)
    await write(store, log())
    await rebuild(store, NAMES)
    assert await kept(store) == expected(log())


async def test_the_projector_says_how_far_it_is(store: Store) -> None:
    await rebuild(store, NAMES)
    projector = Projector(store)
    await write(store, log())
    await projector.catch_up()
    assert projector.statistics() == current(log())


async def test_a_database_of_older_code_gets_its_projections(empty_database: str) -> None:
    known = await asyncio.to_thread(lambda: list(migrations()))
    client = await asyncpg.connect(empty_database)
    await migrate(client, known[:3])
    await client.close()
    async with await Store.open(empty_database) as store:
        await write(store, log())
        async with running(store, Projector(store)):
            await reached(store, At(1, log()[-1].sequence))
        assert await kept(store) == expected(log())


async def test_without_the_keys_sealed_threads_are_not_taken_for_threads_that_nobody_can_follow(store: Store) -> None:
    first = next(stored for stored in log() if stored.fact.type in WHOLE)
    await rebuild(store, NAMES)
    sealed = msgspec.structs.replace(first.fact, payload=msgspec.Raw(b'"c2VhbGVk"'), key="k7")
    await write(store, [first._replace(fact=sealed)])
    before = await kept(store)
    with pytest.raises(NoMasterKey, match=r"k7.*OSTINATO_PRIVACY_MASTER_KEY"):
        await Projector(store).catch_up()
    assert await kept(store) == before
