"""Functions that are not async: where they run, and whom one that hangs holds up."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from actors.agent.definition import Agent
from actors.agent.hooks import StepView
from actors.blocking import MOST_THREADS, called, left_behind
from actors.errors import NoThreadLeft
from actors.models.provider import ModelCall
from actors.request_context import RequestContext
from actors.testing import Say, ScriptedModel
from actors.tools import tool
from bus.connection import Connection
from bus.store import Store
from bus.streams import ensure_streams
from infra.client import Client
from schemas.messages import ToolCall
from tests.actors.runtime.bench import Bench, owning
from tests.actors.test_tools import context

pytestmark = [pytest.mark.anyio, pytest.mark.deadline(30)]


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a function that hangs waits for; open in the end, so that no thread outlives its test for long."""
    event = threading.Event()
    yield event
    event.set()


async def given_up(count: int, gate: threading.Event, owner: str = "tool 'hang'") -> None:
    """Leave so many threads behind."""
    began = threading.Semaphore(0)

    def hang() -> None:
        began.release()
        gate.wait(25)

    tasks = [asyncio.create_task(called(owner, hang)) for _ in range(count)]
    for _ in tasks:
        await asyncio.to_thread(began.acquire, timeout=5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110  what is waited for is a thread's end
            await asyncio.sleep(0.01)


async def test_threads_of_calls_that_are_over_are_counted_and_told(
    gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "actors.blocking")
    await given_up(2, gate)
    assert left_behind() == {"tool 'hang'": 2}
    assert "tool 'hang' goes on in its thread though its call is over: 2 such threads" in caplog.text
    gate.set()
    await until(lambda: not left_behind())
    assert "0 such threads are left" in caplog.text


async def test_who_hangs_in_all_of_its_threads_is_refused_at_once_and_nobody_else_is(gate: threading.Event) -> None:
    await given_up(MOST_THREADS, gate)
    with pytest.raises(NoThreadLeft, match="tool 'hang': 32 calls of it that are over"):
        await called("tool 'hang'", lambda: "not called")
    assert await called("tool 'quick'", lambda: "quick") == "quick"
    assert await asyncio.to_thread(lambda: "the loop's own") == "the loop's own"
    gate.set()
    await until(lambda: not left_behind())
    assert await called("tool 'hang'", lambda: "again") == "again"


async def test_more_calls_than_threads_wait_their_turn(gate: threading.Event) -> None:
    most, now, lock = 0, 0, threading.Lock()

    def work(number: int) -> int:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        if number < MOST_THREADS:
            gate.wait(25)
        with lock:
            now -= 1
        return number

    tasks = [asyncio.create_task(called("tool 'work'", work, number)) for number in range(3 * MOST_THREADS)]
    await until(lambda: now == MOST_THREADS)
    tasks[-1].cancel()  # who waits may be ended, too
    gate.set()
    assert await asyncio.gather(*tasks[:-1]) == list(range(3 * MOST_THREADS - 1))
    assert most == MOST_THREADS


async def test_who_waits_is_refused_once_nobody_will_make_room(gate: threading.Event) -> None:
    began, owner = threading.Semaphore(0), "tool 'hang'"

    def hang() -> None:
        began.release()
        gate.wait(25)

    tasks = [asyncio.create_task(called(owner, hang)) for _ in range(MOST_THREADS)]
    for _ in tasks:
        await asyncio.to_thread(began.acquire, timeout=5)
    waits = asyncio.create_task(called(owner, lambda: "never"))
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    with pytest.raises(NoThreadLeft):
        await asyncio.wait_for(waits, 5)


async def test_the_functions_of_a_tool_run_off_the_event_loop() -> None:
    seen: dict[str, int] = {}

    def note(name: str) -> None:
        seen[name] = threading.get_ident()

    def needed(amount: int) -> bool:
        note("needs_approval")
        return amount > 1

    def shown(result: int) -> str:
        note("to_model_output")
        return f"{result}!"

    @tool(needs_approval=needed, to_model_output=shown)
    async def pay(amount: int) -> int:
        """Pay."""
        return amount

    assert await pay.needs_approval('{"amount": 2}')
    assert (await pay.call('{"amount": 2}', context())).content == "2!"
    assert set(seen) == {"needs_approval", "to_model_output"}
    assert threading.get_ident() not in seen.values()


def using(call: ModelCall) -> Say:
    last = call.messages[-1]
    if last.role == "user" and call.tools:
        return ToolCall("k1", call.tools[0].name, "{}")
    return f"{call.agent}: {last.content}"


@asynccontextmanager
async def served(connection: Connection, url: str, *agents: Agent) -> AsyncIterator[Client]:
    async def none_read(*_: Any) -> list[Any]:
        return []

    async def no_store() -> Store:
        raise AssertionError("nothing is read back")

    await ensure_streams(connection, 1)
    async with owning(Bench(connection, url, ScriptedModel(using), agents=agents).runtime("p1")):
        yield Client(connection, none_read, no_store, "acme")


@pytest.mark.servers
async def test_tools_that_hang_stop_neither_other_tools_nor_hooks_of_the_same_process(
    connection: Connection, nats_url: str, gate: threading.Event
) -> None:
    @tool(effect="pure", timeout_s=0.2)
    def hang() -> str:
        """Hang."""
        gate.wait(25)
        return "late"

    @tool(effect="pure", timeout_s=10)
    def quick() -> str:
        """Be quick."""
        return "quick"

    def looked_at(view: StepView) -> None:
        assert view.agent == "quicker"

    agents = (Agent("hanger", "Help.", tools=[hang]), Agent("quicker", "Help.", tools=[quick], prepare_step=looked_at))
    async with served(connection, nats_url, *agents) as client:
        hung = await asyncio.gather(*(client.run("hanger", "go") for _ in range(MOST_THREADS)))
        assert {answer.text for answer in hung} == {"hanger: error: it took longer than 0.2 s"}
        assert (await client.run("quicker", "go")).text == "quicker: quick"
        assert (await client.run("hanger", "go")).text.startswith("hanger: error: tool 'hang': 32 calls of it")
        assert left_behind() == {"tool 'hang'": MOST_THREADS}


@pytest.mark.servers
async def test_functions_of_the_context_and_of_approval_may_block(connection: Connection, nats_url: str) -> None:
    def instructions(context: RequestContext) -> str:
        time.sleep(0.01)  # blockbuster refuses it in the event loop
        return "Help."

    def needed() -> bool:
        time.sleep(0.01)
        return False

    @tool(effect="pure", needs_approval=needed)
    def pay() -> str:
        """Pay."""
        return "paid"

    async with served(connection, nats_url, Agent("boss", instructions, tools=[pay])) as client:
        assert (await client.run("boss", "go")).text == "boss: paid"
