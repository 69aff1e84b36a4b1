"""Agents as tools, on a real server: a run in a thread of its own, begun once, that goes when its caller goes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from actors.agent.definition import Agent
from actors.agent.delegation import child_abort, child_run, child_thread
from actors.agent.effects import EndChild
from actors.delegates import Delegated, Delegation, Refused, agent_tool, handoff
from actors.models.provider import ModelCall
from actors.runtime.performer import Site
from actors.testing import Say, ScriptedModel
from actors.tools import ToolContext, tool
from bus.commands import send_command
from bus.connection import Connection
from bus.errors import Unavailable
from bus.streams import ensure_streams
from infra.runs import BusRuns
from schemas import codec
from schemas.commands import AbortRun, Approve, Command, Parent
from schemas.delegation import RunHandedOver
from schemas.live import Committed, Progress
from schemas.messages import ToolCall
from schemas.runs import CommandAccepted, MemoryWritten, RunFailed, RunFinished, RunStarted, ToolFailed, ToolReturned
from tests.actors.runtime.bench import Bench, answer_of, answering, ends, hearing, owning, run, settling, until
from tests.actors.runtime.test_shard_waits import outcome_of

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(60)]

CHILD = child_thread("acme", "t1", "c1-1-t0")


def working(call: ModelCall) -> Say:
    """The boss has the worker do what it is asked; the worker pays where it is told to."""
    last = call.messages[-1]
    tools = [spec.name for spec in call.tools]
    if last.role == "user" and "worker" in tools:
        return ToolCall("k1", "worker", codec.encode({"message": last.content}).decode())
    if last.role == "user" and "pay" in tools and last.content == "pay":
        return ToolCall("k2", "pay", "{}")
    return f"{call.agent}: {last.content}"


@pytest.fixture
async def bench(connection: Connection, nats_url: str) -> Bench:
    await ensure_streams(connection, 1)
    made = Bench(connection, nats_url, ScriptedModel(working))
    boss = Agent("boss", "Have it done.", tools=[agent_tool("worker", "Does anything.")])
    made.agents = [boss, Agent("worker", "Do it.", tools=[pay])]
    return made


@tool(effect="once", needs_approval=True)
def pay() -> str:
    """Pay."""
    return "paid"


def fits(kind: type[Any], **wanted: Any) -> Any:
    return lambda frame: (
        isinstance(frame, kind) and all(getattr(frame, name) == value for name, value in wanted.items())
    )


async def test_an_agent_is_asked_like_a_tool_and_its_tokens_count(bench: Bench) -> None:
    bench.model.price = 0.25
    async with owning(bench.runtime("p1")):
        asked = run("c1", "sum up", agent="boss", context={"user": "ann"})
        assert await answer_of(bench, asked) == "boss: worker: sum up"
    (returned,) = await bench.events(ToolReturned)
    assert (returned.content, returned.usage.completion_tokens) == ("worker: sum up", 1)
    child, parent = await bench.events(RunFinished)
    assert (child.cost, parent.cost) == (0.25, 0.75)
    assert (child.usage.completion_tokens, parent.usage.completion_tokens) == (1, 3)
    commands = [event.command for event in await bench.events(CommandAccepted)]
    (ran,) = [command for command in commands if command.thread == CHILD]
    assert (ran.data.text, ran.data.context, ran.data.parent.run) == ("sum up", {"user": "ann"}, "c1")
    assert [call.messages[0].content for call in bench.model.calls] == ["Have it done.", "Do it.", "Have it done."]
    for thread in ("t1", CHILD):
        await bench.verified(thread)


async def test_a_run_that_was_asked_for_is_begun_once_whoever_dies(bench: Bench) -> None:
    bench.model.hold = asyncio.Event()
    async with hearing(bench, "run.c1", f"run.{CHILD}-r") as watcher:
        async with owning(bench.runtime("p1")):
            await send_command(bench.connection, run("c1", "sum up", agent="boss"))
            await until(watcher, lambda frame: not isinstance(frame, Committed))
        bench.model.hold = None
        async with owning(bench.runtime("p2")):
            await until(watcher, fits(Committed, type="run.finished", subject="c1"))
    assert await bench.types("run", f"{CHILD}-r") == ["run.started", "model.called", "model.returned", "run.finished"]
    assert len(await bench.events(ToolReturned)) == 1
    assert [call.effect for call in bench.model.calls].count(f"{CHILD}-r-1-m") == 2
    await bench.verified("t1")


async def test_a_run_that_ended_while_nobody_listened_is_heard_of_all_the_same(bench: Bench) -> None:
    async with owning(bench.runtime("p1")):
        first = run("c1", "sum up", agent="boss")
        await answer_of(bench, first)
        child = Command(
            id=f"{CHILD}-r",
            tenant="acme",
            kind="agent",
            thread=CHILD,
            verb="run",
            data=msgspec.structs.replace(first.data, agent="worker"),
        )
        runs = bench.runtime("p9").performers["agent"]._runs  # type: ignore[attr-defined]
        frames = [frame async for frame in runs.follow(child)]
    assert isinstance(frames[-1], Committed)
    assert frames[-1].type == "run.finished"


async def test_who_is_ended_ends_what_it_asked_for(bench: Bench) -> None:
    bench.model.hold = asyncio.Event()
    async with owning(bench.runtime("p1")), hearing(bench, f"run.{CHILD}-r") as watcher:
        await send_command(bench.connection, run("c1", "sum up", agent="boss"))
        await until(watcher, lambda frame: not isinstance(frame, Committed))
        abort = Command(id="x", tenant="acme", kind="agent", thread="t1", verb="abort", data=AbortRun())
        await send_command(bench.connection, abort)
        await until(watcher, ends)
    parent, child = await bench.events(RunFailed)
    assert (parent.problem.kind, child.problem.kind) == ("aborted", "aborted")
    for thread in ("t1", CHILD):
        await bench.verified(thread)


async def test_what_is_asked_for_after_its_end_was_is_not_begun(bench: Bench) -> None:
    # whoever asks may have stood still between the log and the bus, and another one has ended all of it meanwhile
    end = child_abort(EndChild("c1-1-t0x", "run", "c1", "", call="c1-1-t0"), Site("acme", "t1", 1))
    asked = run(child_run(CHILD), "sum up", CHILD, "worker", parent=Parent("t1", "c1", "c1-1-t0"))
    async with owning(bench.runtime("p1")):
        assert (await outcome_of(bench, end)).result == "refused"
        refused = await outcome_of(bench, asked)
        assert refused.problem is not None
        assert refused.problem.kind == "aborted"
        assert refused.problem.message == "run 'c1' that asks for it was ended before"
        again = run("c2", "sum up", CHILD, "worker")
        assert await answer_of(bench, again) == "worker: sum up"
    await bench.verified(CHILD)


async def test_who_ends_between_an_abort_and_passing_it_on_has_it_passed_on_by_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.model.hold = asyncio.Event()
    reached = asyncio.Event()

    async def die(_runs: BusRuns, _command: Command) -> None:
        reached.set()
        await asyncio.Event().wait()

    async with hearing(bench, f"run.{CHILD}-r") as watcher:
        with monkeypatch.context() as patched:
            patched.setattr(BusRuns, "abort", die)
            async with owning(bench.runtime("p1")):
                await send_command(bench.connection, run("c1", "sum up", agent="boss"))
                await until(watcher, lambda frame: not isinstance(frame, Committed))
                abort = Command(id="x", tenant="acme", kind="agent", thread="t1", verb="abort", data=AbortRun())
                await send_command(bench.connection, abort)
                await asyncio.wait_for(reached.wait(), 5)
        assert [event.problem.kind for event in await bench.events(RunFailed)] == ["aborted"]
        async with owning(bench.runtime("p2")):
            await until(watcher, ends)
    assert await bench.types("run", "c1") == [
        "run.started", "model.called", "model.returned", "tool.called", "tool.indeterminate", "child.disowned",
        "run.failed", "child.ended",
    ]  # fmt: skip
    assert (await bench.types("run", f"{CHILD}-r"))[-1] == "run.failed"
    for thread in ("t1", CHILD):
        await bench.verified(thread)


async def test_hooks_around_another_agent_change_what_it_is_asked_and_what_is_read_of_it(bench: Bench) -> None:
    seen: list[Any] = []

    def before(delegation: Delegation) -> str | Refused | None:
        seen.append(delegation)
        return Refused("not that") if "secret" in delegation.message else f"{delegation.message}, please"

    async def after(came_to: Delegated) -> str:
        seen.append(came_to)
        return f"{came_to.text}!"

    asking = agent_tool("worker", "Does anything.", before=before, after=after)
    bench.agents = [Agent("boss", "Have it done.", tools=[asking]), bench.agents[1]]
    async with owning(bench.runtime("p1")):
        asked = run("c1", "sum up", agent="boss", context={"user": "ann"})
        assert await answer_of(bench, asked) == "boss: worker: sum up, please!"
        assert await answer_of(bench, run("c2", "the secret", agent="boss")) == (
            "boss: error: agent 'worker' is not asked: not that"
        )
    first, came_to, _ = seen
    assert (first.agent, first.by, first.run, first.context.need("user", str)) == ("worker", "boss", "c1", "ann")
    assert (came_to.text, came_to.usage.completion_tokens) == ("worker: sum up, please", 1)
    assert len({command.command.thread for command in await bench.events(CommandAccepted)}) == 2
    await bench.verified("t1")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LookupError("worker"), "failed: LookupError"),
        (TimeoutError("its own"), "failed: it took longer"),
        (Unavailable("its own"), "failed: Unavailable"),
    ],
)
async def test_a_hook_that_fails_keeps_the_other_agent_from_being_asked(
    bench: Bench, error: Exception, told: str
) -> None:
    def before(delegation: Delegation) -> None:
        raise error

    asking = agent_tool("worker", "Does anything.", before=before)
    bench.agents = [Agent("boss", "Have it done.", tools=[asking]), bench.agents[1]]
    async with owning(bench.runtime("p1")):
        assert told in await answer_of(bench, run("c1", "sum up", agent="boss"))
    assert {command.command.thread for command in await bench.events(CommandAccepted)} == {"t1"}


@tool(effect="pure")
def note(context: ToolContext) -> str:
    """Note."""
    context.write_note("colour", context.notes.get("colour", "none") + "+")
    return "noted"


@pytest.mark.parametrize(("memory", "colours"), [("isolated", ["none+"]), ("shared", ["blue", "blue+", "blue+"])])
async def test_another_agents_memory_is_its_own_or_shared(bench: Bench, memory: Any, colours: list[str]) -> None:
    def script(call: ModelCall) -> Say:
        last = call.messages[-1]
        tools = [spec.name for spec in call.tools]
        if last.role == "user" and tools:
            return ToolCall("k1", tools[0], '{"message": "note it"}' if tools[0] == "worker" else "{}")
        return f"{call.agent}: {last.content}"

    bench.model.script = script
    asking = agent_tool("worker", "Does anything.", memory=memory)
    bench.agents = [Agent("boss", "Have it done.", tools=[asking]), Agent("worker", "Do it.", tools=[note])]
    notes = {"colour": "blue"} if memory == "shared" else {}
    async with owning(bench.runtime("p1")):
        assert await answer_of(bench, run("c1", "hi", agent="boss", notes=notes, resource="ann")) == (
            "boss: worker: noted"
        )
    written = [(event.topic, event.text) for event in await bench.events(MemoryWritten)]
    assert written == [("colour", colour) for colour in (["blue"] if notes else []) + colours]
    (child,) = [event.command for event in await bench.events(CommandAccepted) if event.command.thread == CHILD]
    shared = memory == "shared"
    assert (child.data.resource, len(child.data.messages)) == (("ann", 1) if shared else ("", 0))
    for thread in ("t1", CHILD):
        await bench.verified(thread)


async def test_a_thread_is_handed_to_another_agent_for_this_step_and_the_turns_after_it(bench: Bench) -> None:
    def script(call: ModelCall) -> Say:
        last, tools = call.messages[-1], [spec.name for spec in call.tools]
        if last.role == "user" and last.content == "bill me" and tools:
            return ToolCall("k1", tools[0], "{}")
        return f"{call.agent}, who is told {call.messages[0].content!r}: {last.content}"

    bench.model.script = script
    bench.agents = [
        Agent("front", "Greet.", tools=[handoff("billing", "For invoices.")]),
        Agent("billing", "Bill.", tools=[handoff("nobody", "For nothing.")]),
    ]
    async with owning(bench.runtime("p1")):
        first = await answer_of(bench, run("c1", "bill me", agent="front"))
        assert first == "billing, who is told 'Bill.': The conversation is billing's from here on."
    async with owning(bench.runtime("p2")):
        assert (await answer_of(bench, run("c2", "thanks", agent="front"))).startswith("billing")
        assert "no agent 'nobody'" in await answer_of(bench, run("c3", "bill me", agent="billing"))
    (handed,) = await bench.events(RunHandedOver)
    assert (handed.agent, handed.by) == ("billing", "front")
    await bench.verified("t1")


async def test_bounds_that_a_client_wants_of_one_agent_lift_none_of_the_one_that_has_its_thread(bench: Bench) -> None:
    def script(call: ModelCall) -> Say:
        wanted = call.messages[-1].content == "bill me" and call.agent == "front"
        return ToolCall("k1", call.tools[0].name, "{}") if wanted else f"{call.agent} answers"

    bench.model.script = script
    bench.agents = [
        Agent("front", "Greet.", tools=[handoff("billing", "For invoices.")]),
        Agent("billing", "Bill.", max_steps=2, most_tokens=1000, step_timeout_s=5),
    ]
    loose = {"max_steps": 6, "most_tokens": 5000, "step_timeout_ms": 60_000}
    async with owning(bench.runtime("p1")):
        assert await answer_of(bench, run("c1", "bill me", agent="front", **loose)) == "billing answers"
        assert await answer_of(bench, run("c2", "thanks", agent="front", **loose)) == "billing answers"
        tight = {"max_steps": 1, "most_tokens": 900, "step_timeout_ms": 4000}
        assert await answer_of(bench, run("c3", "thanks", agent="front", **tight)) == "billing answers"
        refused = await outcome_of(bench, run("c4", "thanks", agent="billing", max_steps=6))
    assert refused.problem is not None
    assert refused.problem.field == "max_steps"
    made = [event.profile for event in await bench.events(RunStarted)]
    told = [(one.max_steps, one.most_tokens, one.step_timeout_ms) for one in made]
    assert told == [(6, 5000, 60_000), (2, 1000, 5000), (1, 900, 4000)]


async def test_what_is_said_into_a_running_thread_joins_at_its_next_step(bench: Bench) -> None:
    bench.hold["look"] = asyncio.Event()
    bench.model.script = answering
    async with owning(bench.runtime("p1")), hearing(bench, "run.c1", "run.c2") as watcher:
        await send_command(bench.connection, run("c1", "use look"))
        await asyncio.wait_for(bench.began.wait(), 5)
        await send_command(bench.connection, run("c2", "and hurry", when_busy="steer"))
        await until(watcher, fits(Committed, type="run.queued"))
    async with owning(bench.runtime("p2")), hearing(bench, "run.c1") as watcher:  # it is known to whoever is next
        bench.hold["look"].set()
        await until(watcher, ends)
    assert bench.model.calls[-1].messages[-1].content == "and hurry"
    assert await bench.types("run", "c2") == ["run.queued", "run.joined"]
    (finished,) = await bench.events(RunFinished)
    assert finished.text == "re: and hurry"
    await bench.verified("t1")


async def test_what_an_agent_further_down_waits_for_is_told_further_up(bench: Bench) -> None:
    async with owning(bench.runtime("p1")), hearing(bench, "run.c1") as watcher:
        await send_command(bench.connection, run("c1", "pay", agent="boss"))
        heard = await until(watcher, fits(Progress))
        (told,) = [frame.data for frame in heard if isinstance(frame, Progress)]
        assert (told["agent"], told["thread"], told["event"]["type"]) == ("worker", CHILD, "approval.requested")
        approved = settling("a1", Approve(told["event"]["effect"]), thread=told["thread"])
        await send_command(bench.connection, approved)
        await until(watcher, ends)
    finished = (await bench.events(RunFinished))[-1]
    assert finished.text == "boss: worker: paid"
    await bench.verified("t1")


async def test_where_nobody_can_be_asked_nobody_is_further_down(bench: Bench) -> None:
    async with owning(bench.runtime("p1")):
        assert "needs a person" in await answer_of(bench, run("c1", "pay", agent="boss", approvals="refuse"))


async def test_an_agent_that_asks_itself_comes_to_an_end(bench: Bench) -> None:
    bench.agents = [Agent("worker", "Do it.", tools=[agent_tool("worker", "Does anything.")], max_steps=2)]
    async with owning(bench.runtime("p1")):
        await answer_of(bench, run("c1", "sum up", agent="worker"))
    failed = await bench.events(ToolFailed)
    assert "deep" in failed[0].content
    assert len(await bench.events(RunFinished)) == 9
