"""Whose budgets count what agents spend that are asked by other agents."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from msgspec.structs import replace

from actors.agent.definition import Agent
from actors.delegates import agent_tool
from actors.models.budgets import Books, Budgeted, Ledger
from actors.models.pricing import Pricing
from actors.models.provider import ModelCall
from actors.testing import FixedClock, Say, ScriptedModel
from bus.connection import Connection
from bus.projected import daily_usage, tokens_used
from bus.projector import bring_up
from bus.spending import recorded_spending
from bus.spent import ends_of_runs
from bus.store import Store
from bus.streams import ensure_streams
from infra.client import Client
from infra.errors import NoAnswer
from schemas.commands import Parent, RunAgent
from schemas.memory import ThreadCreated
from schemas.messages import ToolCall, Usage
from schemas.models import Budget, Spent
from schemas.runs import RunFinished
from schemas.standing import GoalJudged
from tests.actors.models.calls import REGISTRY
from tests.actors.runtime.bench import Bench, owning
from tests.bus.test_following import Writer, accepted, called, returned, started
from tests.bus.test_projector import write

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(30)]


async def read_back(*_: Any) -> list[Any]:
    return []


async def no_store() -> Store:
    raise AssertionError("nothing is read back")


def passed_on(call: ModelCall) -> Say:
    """Have the next agent do it, and that one the next; the last one says so."""
    if call.messages[-1].role == "user" and call.tools:
        return ToolCall("k1", call.tools[0].name, '{"message": "do"}')
    return "done"


@pytest.mark.parametrize("scope", ["run", "thread"])
async def test_what_an_agent_has_others_do_counts_for_its_run_and_thread(
    connection: Connection, nats_url: str, scope: Any
) -> None:
    await ensure_streams(connection, 1)
    clock, inner, told = FixedClock(), ScriptedModel(passed_on), list[Spent]()

    async def tell(spent: Spent) -> None:
        told.append(spent)

    ledger = Ledger([Budget(scope, tokens=10_000)], clock, Pricing(REGISTRY, {}).known_cost)
    agents = [
        Agent("boss", "Help.", tools=[agent_tool("worker", "Does.")]),
        Agent("worker", "Do.", tools=[agent_tool("digger", "Digs.")]),
        Agent("digger", "Dig."),
    ]
    bench = Bench(connection, nats_url, Budgeted("m", inner, Books(ledger, clock, tell)), agents=agents)  # type: ignore[arg-type]
    client = Client(connection, read_back, no_store, "acme")
    async with owning(bench.runtime("p1")):
        answer = await client.run("boss", "go", thread="t1")
        assert len(inner.calls) == 5
        assert {(spent.thread, spent.run) for spent in told} == {("t1", answer.run)}
        assert ledger.statistics()[0]["tokens"] == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_an_agent_further_down_is_refused_what_is_used_up(connection: Connection, nats_url: str) -> None:
    await ensure_streams(connection, 1)
    clock, inner = FixedClock(), ScriptedModel(passed_on)

    async def tell(spent: Spent) -> None:
        pass

    ledger = Ledger([Budget("run", tokens=2)], clock, Pricing(REGISTRY, {}).known_cost)
    agents = [
        Agent("boss", "Help.", tools=[agent_tool("worker", "Does.")], retries=0),
        Agent("worker", "Do.", retries=0),
    ]
    bench = Bench(connection, nats_url, Budgeted("m", inner, Books(ledger, clock, tell)), agents=agents)  # type: ignore[arg-type]
    client = Client(connection, read_back, no_store, "acme")
    async with owning(bench.runtime("p1")):
        with pytest.raises(NoAnswer) as refused:
            await client.run("boss", "go")
        assert refused.value.problem.kind == "budget"
        assert [call.agent for call in inner.calls] == ["boss"]


async def test_the_record_tells_whom_a_run_was_for(store: Store) -> None:
    first = Parent("t1", "r1", "r1-1-t0")
    second = Parent("s1", "s1-r", "s1-r-1-t0", 2, "t1", "r1")
    log = Writer()
    log.add(ThreadCreated(resource="ann"), "t1", "thread")
    log.add(accepted(RunAgent("boss", "go"), "r1"), "t1", "thread")
    log.run(started, called, replace(returned(10, 1), engine="m"))
    for thread, parent in (("s1", first), ("s2", second)):
        log.add(accepted(RunAgent("worker", "do", parent=parent), f"{thread}-r"), thread, "thread", thread)
        for event in (started, called, replace(returned(20, 2), engine="m")):
            log.add(event, f"{thread}-r", "run", thread)
    await write(store, log.events)
    await bring_up(store)
    found = [spent async for part in recorded_spending(store, 0) for spent in part]
    assert [(spent.thread, spent.run, spent.usage) for spent in found] == [
        ("t1", "r1", Usage(10, 1)), ("t1", "r1", Usage(20, 2)), ("t1", "r1", Usage(20, 2))]  # fmt: skip
    # what isolated agents took that were asked in a thread of Ann's is hers, also where one of them asks
    assert await tokens_used(store, ("acme", "t9", "ann"), "resource", 0) == 55
    assert await tokens_used(store, ("acme", "t1", ""), "resource", 0) == 55
    assert await tokens_used(store, ("acme", "t1", "ann"), "thread", 0) == 55
    assert await tokens_used(store, ("acme", "t9", "ann"), "tenant", 0) == 55
    assert await tokens_used(store, ("acme", "s1", "bob"), "resource", 0) == 0


async def test_what_a_thread_took_is_its_runs_and_its_judges(store: Store) -> None:
    ended = RunFinished(text="4", steps=1, usage=Usage(10, 1))
    judged = GoalJudged("r1-1-g", "done", usage=Usage(5, 2), agent="demo", engine="m")
    log = Writer()
    log.run(started, called, returned(10, 1), ended)
    log.add(judged, "t1", "thread")
    log.add(judged, "t2", "thread", "t2")
    await write(store, log.events)
    assert await ends_of_runs(store, "acme", "t1") == [ended, judged]
    await bring_up(store)
    assert await tokens_used(store, ("acme", "t1", ""), "thread", 0) == 18
    (used,) = (row for row in await daily_usage(store, date(1970, 1, 1)) if row.model == "m")
    assert (used.agent, used.prompt_tokens, used.completion_tokens) == ("demo", 20, 5)
