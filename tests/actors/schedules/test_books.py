"""The books that are kept of schedules and of what waits, filled from what real owners logged."""

from __future__ import annotations

import pytest

from actors.testing import ScriptedModel
from bus.connection import Connection
from bus.projector import bring_up
from bus.rebuild import rebuild
from bus.scheduled import schedules_of
from bus.store import Store
from bus.streams import EV, ensure_streams
from bus.waits import waits
from infra.cli.schedules import lines
from infra.cli.waits import Shown
from infra.follow import send
from infra.redaction import Redactor
from schemas.commands import Approve, Resume
from schemas.schedules import AddSchedule, FireSchedule, PauseSchedule, RemoveSchedule, Schedule, UnpauseSchedule
from tests.actors.runtime.bench import Bench, answer_of, ends, hearing, owning, run, settling, until
from tests.actors.runtime.test_shard_waits import happened
from tests.actors.schedules.clocks import HOUR, NOON, Alarm, about, adding, firing
from tests.actors.test_examples import agent_of, call
from tests.bus.recording import record

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(60)]


@pytest.fixture
async def bench(connection: Connection, nats_url: str) -> Bench:
    await ensure_streams(connection, 1)
    return Bench(connection, nats_url, ScriptedModel(lambda call: "hello"))


async def project(bench: Bench, store: Store) -> None:
    """Record all, and bring the books up to that."""
    await record(bench.connection, store, (EV,))
    await bring_up(store)


async def test_a_schedule_is_in_the_book_as_it_stands(bench: Bench, store: Store) -> None:
    clock = Alarm()
    async with owning(firing(bench, "p1", clock)), hearing(bench, "run.hourly-1767272400", "run.hourly-n1") as watcher:
        await send(bench.connection, adding(timezone="Europe/Vienna"))
        await send(bench.connection, about("s2", AddSchedule(Schedule("0 8 * * *", "demo", "?")), "daily"))
        await send(bench.connection, about("s3", AddSchedule(Schedule("0 9 * * *", "demo", "?")), "gone"))
        await send(bench.connection, about("s4", RemoveSchedule(), "gone"))
        clock.set(NOON + HOUR)
        await until(watcher, ends)
        await send(bench.connection, about("s5", FireSchedule()))
        await until(watcher, ends)
        await send(bench.connection, about("s6", PauseSchedule(), "daily"))
    await project(bench, store)
    hourly, daily = await schedules_of(store, "acme")
    assert (hourly.id, hourly.status, hourly.next, hourly.fired) == ("hourly", "active", NOON + 2 * HOUR, 2)
    assert hourly.schedule.timezone == "Europe/Vienna"
    assert (daily.id, daily.status, daily.next, daily.fired, daily.last) == ("daily", "paused", None, 0, None)
    assert await schedules_of(store, "others") == []
    head, first, second = lines([hourly, daily])
    assert head.split()[:4] == ["schedule", "tenant", "status", "next"]
    assert first.split()[:4] == ["hourly", "acme", "active", "2026-01-01T14:00Z"]
    assert second.split()[:4] == ["daily", "acme", "paused", "-"]
    await rebuild(store, ["schedules"])
    assert await schedules_of(store) == [hourly, daily]


async def test_a_schedule_that_asks_at_length_is_in_the_book_whole(bench: Bench, store: Store) -> None:
    long = Schedule("0 8 * * *", "demo", "What is new? " * 100)
    async with owning(firing(bench, "p1", Alarm())):
        await send(bench.connection, about("s1", AddSchedule(long)))
    await project(bench, store)
    (found,) = await schedules_of(store)
    assert found.schedule == long


async def test_a_schedule_goes_on_after_a_pause_in_the_book_too(bench: Bench, store: Store) -> None:
    async with owning(firing(bench, "p1", Alarm())):
        for number, data in enumerate((PauseSchedule(), UnpauseSchedule())):
            if not number:
                await send(bench.connection, adding())
            await send(bench.connection, about(f"c{number}", data))
    await project(bench, store)
    (hourly,) = await schedules_of(store)
    assert (hourly.status, hourly.next) == ("active", NOON + HOUR)


async def test_what_waits_is_listed_over_all_threads_until_it_is_answered(bench: Bench, store: Store) -> None:
    bench.model = ScriptedModel(lambda asked: call("pay", to="Ann", amount=500) if len(asked.messages) < 3 else "done")
    bench.agents = [agent_of("payments")]
    async with owning(bench.runtime("p1")), hearing(bench, "run.c1", "run.c2") as watcher:
        for name in ("c1", "c2"):
            await send(bench.connection, run(name, "pay Ann", f"t-{name}", agent="payments"))
            await until(watcher, happened("approval.requested"))
        await project(bench, store)
        first, second = await waits(store, "acme")
        assert (first.thread, first.run, first.agent, first.kind) == ("t-c1", "c1", "payments", "approval")
        assert (second.effect, second.call.name) == ("c2-1-t0", "pay")
        assert first.call.arguments == '{"to": "Ann", "amount": 500}'
        assert await waits(store, "others") == []
        assert await waits(store, limit=1) == [first]

        await send(bench.connection, settling("a1", Approve("c1-1-t0", first.call.arguments), "t-c1"))
        await until(watcher, happened("tool.suspended"))
        await project(bench, store)
        data, approval = await waits(store)
        assert (data.kind, data.effect, data.payload) == ("data", "c1-1-t0", {"from which account?": "500 to Ann"})
        assert data.call.name == "pay"
        assert approval == second

        await send(bench.connection, settling("a2", Resume("c1-1-t0", {"name": "household"}), "t-c1"))
        await until(watcher, ends)
        await project(bench, store)
        assert await waits(store) == [second]


async def test_a_list_of_what_waits_tells_no_secrets_unless_asked(bench: Bench, store: Store) -> None:
    bench.model = ScriptedModel(lambda asked: call("pay", to="Ann", amount=500))
    bench.agents = [agent_of("payments")]
    async with owning(bench.runtime("p1")), hearing(bench, "run.c1") as watcher:
        await send(bench.connection, run("c1", "pay", agent="payments"))
        await until(watcher, happened("approval.requested"))
    await project(bench, store)
    (wait,) = await waits(store)
    hidden, clear = Shown(Redactor(b"secret")), Shown(None)
    now = wait.since + 2 * HOUR
    assert "Ann" not in hidden.line(wait, now) + str(hidden.as_json(wait))
    assert "Ann" in clear.line(wait, now)
    assert clear.line(wait, now).split()[:5] == ["2", "h", "approval", "acme/t1", "c1-1-t0"]
    assert clear.as_json(wait)["tool"] == "pay"


async def test_nothing_waits_where_nobody_asked(bench: Bench, store: Store) -> None:
    async with owning(bench.runtime("p1")):
        assert await answer_of(bench, run("c1", "hi")) == "hello"
    await project(bench, store)
    assert await waits(store) == []
