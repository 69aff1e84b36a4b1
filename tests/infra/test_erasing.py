"""What else is erased with a thread: those of the agents that it called, and its dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from actors.agent.delegation import child_thread
from actors.models.cache import Answers
from actors.models.provider import ModelAnswer
from bus import subjects
from bus.batch import on_leader
from bus.connection import Connection, Message
from bus.dead import dead_command, keep, letters
from bus.erasure import delete_letters
from bus.store import Store, StoredEvent
from bus.streams import CMD, TRACE, ensure_streams
from infra.erasing import StackEraser, heed_erasure
from schemas import codec
from schemas.envelope import Fact
from schemas.memory import ThreadDeleted
from schemas.messages import ToolCall, Usage
from schemas.pushes import PushForgotten, push_id
from schemas.runs import Event, RunStarted, ToolCalled
from schemas.tasks import TaskStarted
from tests.bus.recording import record
from tests.bus.test_following import EXAMPLES
from tests.bus.test_keyring import giving
from tests.bus.test_projector import write
from tests.bus.test_threads import events

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

STARTED = next(event for event in EXAMPLES if isinstance(event, RunStarted))


def calling(effect: str) -> ToolCalled:
    return ToolCalled(effect=effect, call=ToolCall("k1", "writer", "{}"), effect_class="idempotent")


async def only_command(connection: Connection) -> tuple[str, str]:
    """Name the one command that was sent: its subject, and its id."""
    assert (await connection.api(f"STREAM.INFO.{CMD}"))["state"]["messages"] == 1
    item = await on_leader(connection, CMD, {"seq": 1})
    assert item is not None
    return item.subject, msgspec.json.decode(item.data)["id"]


def starting(effect: str) -> TaskStarted:
    return TaskStarted(effect, ToolCall("k1", "writer", "{}"))


@pytest.mark.parametrize(("called", "index"), [(calling, "t0"), (starting, "t0b")])
async def test_threads_that_a_thread_called_are_deleted_with_it_and_no_others(
    connection: Connection, store: Store, called: Callable[[str], Event], index: str
) -> None:
    await ensure_streams(connection, shards=1)
    child = child_thread("acme", "t1", f"r1-1-{index}")
    await write(
        store,
        events(
            ("acme", "t1", called(f"r1-1-{index}")),
            ("acme", "t1", called("r1-1-t1")),
            ("acme", child, STARTED),
            ("acme", "t2", STARTED),
        ),
    )

    await StackEraser(connection, giving(store))._end_children(store, "acme", "t1")
    assert await only_command(connection) == (f"cmd.0.acme.agent.{child}.delete", f"{child}-e")


async def test_whoever_was_to_be_told_of_a_task_that_never_began_is_forgotten_with_its_thread_and_nobody_else(
    connection: Connection, store: Store
) -> None:
    await ensure_streams(connection, shards=1)
    mine = push_id("t1", "never-begun")
    told = ("acme", mine), ("acme", push_id("t11", "r1")), ("other", push_id("t1", "r2"))
    facts = [
        Fact(tenant, push, "push", push, 1, "push.forgotten", "c", codec.payload(PushForgotten()))
        for tenant, push in told
    ]
    await write(store, [StoredEvent(1, number, 0, number, fact) for number, fact in enumerate(facts, start=1)])
    await StackEraser(connection, giving(store))._forget_pushes(store, "acme", "t1")
    assert await only_command(connection) == (f"cmd.0.acme.push.{mine}.forget", f"{mine}-e")


async def test_dead_letters_of_a_thread_are_deleted_and_those_of_others_stay(connection: Connection) -> None:
    await ensure_streams(connection, shards=1)
    for thread in ("t1", "t2"):
        dead = dead_command(f"cmd.0.acme.agent.{thread}.run", b"my secret", "no such thing", 1, "p1")
        await keep(connection, 0, "agent", dead, thread)
    await delete_letters(connection, "acme", "t1")
    assert [letter.dead.subject for letter in await letters(connection, 9)] == ["cmd.0.acme.agent.t2.run"]


async def test_every_process_gives_up_the_answers_that_it_keeps_of_an_erased_thread(
    connection: Connection, nats_url: str, store: Store
) -> None:
    await ensure_streams(connection, shards=1)
    await record(connection, store, (TRACE,))
    await write(store, events(("acme", "t1", STARTED), ("acme", "t1", ThreadDeleted())))
    async with await Connection.open(nats_url, "another process") as other:
        answers, told = Answers(9), asyncio.Event()
        for thread in ("t1", "t2"):
            answers.keep(thread, ModelAnswer(f"of {thread}", "stop", Usage()), ("acme", thread))
        await heed_erasure(other, answers)

        async def heard(message: Message) -> None:
            told.set()

        await other.subscribe(subjects.THREAD_ERASED, heard)
        await other.flush()
        await StackEraser(connection, giving(store)).erase("acme", "t1")
        async with asyncio.timeout(5):
            await told.wait()
        assert answers.get("t1") is None
        assert answers.get("t2") is not None
