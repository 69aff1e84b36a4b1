"""Schedules on a real server: each fire is one run, whoever sees it due and whoever dies of it."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from actors.machines import MACHINES
from actors.runtime.replay import Recorded, verify
from actors.testing import ScriptedModel
from bus.commands import send_command
from bus.connection import Connection
from bus.streams import ensure_streams
from infra.follow import send
from schemas.commands import RunAgent
from schemas.runs import CommandAccepted, RunFinished
from schemas.schedules import (
    AddSchedule,
    FireSchedule,
    PauseSchedule,
    RemoveSchedule,
    Schedule,
    ScheduleFired,
    ScheduleMissed,
    UnpauseSchedule,
)
from tests.actors.runtime.bench import Bench, answering, ends, hearing, owning, until
from tests.actors.schedules.clocks import HOUR, NOON, Alarm, about, adding, firing

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(60)]

ROOT = Path(__file__).parents[3]
FIRST = "hourly-1767272400"


@pytest.fixture
async def bench(connection: Connection, nats_url: str) -> Bench:
    await ensure_streams(connection, 1)
    return Bench(connection, nats_url, ScriptedModel(answering))


async def runs(bench: Bench) -> list[str]:
    accepted = [event.command for event in await bench.events(CommandAccepted)]
    return [command.id for command in accepted if isinstance(command.data, RunAgent)]


async def fired(bench: Bench) -> list[str]:
    return [event.run for event in await bench.events(ScheduleFired)]


async def verified(bench: Bench) -> None:
    """Decide again all that the schedule's log says was decided."""
    log = [
        Recorded(
            f"{at}/{index}", 0, fact.kind, fact.entity, fact.version, fact.type, bytes(fact.payload), fact.cause, at
        )
        for at, index, fact in await bench.facts()
        if fact.kind == "schedule"
    ]
    assert log
    verify(MACHINES["schedule"], "acme", "hourly", log)


async def test_a_schedule_asks_its_agent_when_it_is_due(bench: Bench) -> None:
    clock = Alarm()
    async with owning(firing(bench, "p1", clock)), hearing(bench, f"run.{FIRST}") as watcher:
        assert (await send(bench.connection, adding(thread="news"))).result == "accepted"
        clock.set(NOON + HOUR)
        await until(watcher, ends)
    assert await runs(bench) == [FIRST]
    (finished,) = await bench.events(RunFinished)
    assert finished.text == "re: What is new?"
    assert {fact.thread for _, _, fact in await bench.facts() if fact.kind == "run"} == {"news"}
    await verified(bench)


async def test_of_many_schedulers_one_fires(bench: Bench) -> None:
    clock = Alarm()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(owning(firing(bench, "p1", clock)))
        await send(bench.connection, adding())
        for process in ("p2", "p3", "p4"):
            await stack.enter_async_context(owning(firing(bench, process, clock)))  # each thinks that it is the owner
        watcher = await stack.enter_async_context(hearing(bench, f"run.{FIRST}"))
        clock.set(NOON + HOUR)
        await until(watcher, ends)
    assert await fired(bench) == [FIRST]
    assert await runs(bench) == [FIRST]
    await verified(bench)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_fire_whose_process_is_killed_is_one_run(bench: Bench, when: str) -> None:
    async with owning(firing(bench, "p1", Alarm())):
        await send(bench.connection, adding())
    argv = (sys.executable, "-m", "tests.actors.schedules.owner", bench.url, when)
    process = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"firing\n"
    process.kill()
    await process.wait()
    async with hearing(bench, f"run.{FIRST}") as watcher, owning(firing(bench, "p2", Alarm(NOON + HOUR))):
        await until(watcher, ends)
    assert await fired(bench) == [FIRST]
    assert await runs(bench) == [FIRST]
    assert [event.text for event in await bench.events(RunFinished)] == ["re: What is new?"]
    await verified(bench)


async def test_what_was_missed_while_nobody_was_there_is_made_up_for_once(bench: Bench) -> None:
    async with owning(firing(bench, "p1", Alarm())):
        await send(bench.connection, adding())
    last = f"hourly-{(NOON + 7 * HOUR) // 1_000_000}"
    async with hearing(bench, f"run.{last}") as watcher, owning(firing(bench, "p2", Alarm(NOON + 7 * HOUR + 5))):
        await until(watcher, ends)
    assert await runs(bench) == [last]
    assert await bench.events(ScheduleMissed) == [ScheduleMissed(NOON + HOUR, NOON + 7 * HOUR)]
    await verified(bench)


async def test_a_pause_holds_it_and_a_fire_by_hand_does_not_wait(bench: Bench) -> None:
    clock = Alarm()
    async with owning(firing(bench, "p1", clock)), hearing(bench, "run.hourly-n1", f"run.hourly-{_at(3)}") as watcher:
        for number, data in enumerate((PauseSchedule(), FireSchedule())):
            if number == 0:
                await send(bench.connection, adding())
            assert (await send(bench.connection, about(f"c{number}", data))).problem is None
        await until(watcher, ends)
        clock.set(NOON + 2 * HOUR + 1)
        assert (await send(bench.connection, about("c3", UnpauseSchedule()))).problem is None
        clock.set(NOON + 3 * HOUR)
        await until(watcher, ends)
        assert (await send(bench.connection, about("c4", RemoveSchedule()))).problem is None
        clock.set(NOON + 9 * HOUR)
        again = await send(bench.connection, about("c5", FireSchedule()))
        assert again.problem is not None
    assert await runs(bench) == ["hourly-n1", f"hourly-{_at(3)}"]
    await verified(bench)


def _at(hours: int) -> int:
    return (NOON + hours * HOUR) // 1_000_000


async def test_the_same_command_posted_often_at_once_fires_once(bench: Bench) -> None:
    async with owning(firing(bench, "p1", Alarm())), hearing(bench, "run.hourly-n1") as watcher:
        await send(bench.connection, adding())
        await asyncio.gather(*(send_command(bench.connection, about("now", FireSchedule())) for _ in range(20)))
        await until(watcher, ends)
    assert await runs(bench) == ["hourly-n1"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"cron": "0 8 * *", "agent": "demo"}, "cron"),
        ({"cron": "0 8 * * *", "agent": "nobody"}, "agent"),
        ({"cron": "0 8 * * *", "agent": "demo", "timezone": "Vienna"}, "timezone"),
    ],
)
async def test_a_schedule_that_cannot_be_is_refused(bench: Bench, fields: dict[str, Any], field: str) -> None:
    async with owning(firing(bench, "p1", Alarm())):
        outcome = await send(bench.connection, about("s1", AddSchedule(Schedule(text="?", **fields))))
    assert outcome.result == "refused"
    assert outcome.problem is not None
    assert outcome.problem.field == field
    await verified(bench)
