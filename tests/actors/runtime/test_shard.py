"""A shard's owner on a real server: commands in, runs through, whatever dies on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
import nats
import pytest

from actors.agent.definition import Agent
from actors.agent.loop import ConversationMachine
from actors.errors import NotNow
from actors.models.provider import ModelCall
from actors.runtime.cells import Cells
from actors.runtime.context import SystemIds
from actors.runtime.machine import Asked, Decision
from actors.runtime.partitions import own_shards
from actors.runtime.shard import ShardOwner
from actors.testing import FixedClock, NoRecord, Say, ScriptedModel
from actors.tools import tool
from bus.commands import CommandQueue, send_command
from bus.commit import ShardWriter, Writer
from bus.connection import Connection
from bus.dead import DeadCommand
from bus.errors import Fenced, LogDamaged, Unavailable
from bus.live import Live
from bus.log import Position, last_commit
from bus.streams import DEAD, ensure_streams
from infra.services.nats_server import NatsServer
from schemas import codec
from schemas.commands import AbortRun, Command, Generate, RunAgent
from schemas.context import Context
from schemas.envelope import Envelope, Fact
from schemas.live import Committed, Outcome
from schemas.messages import Message
from schemas.programs import ProgramNote
from schemas.runs import MessageAdded, RunFailed, ToolFailed, ToolIndeterminate, ToolResumed, ToolReturned
from tests.actors.runtime.bench import (
    STUBBORN,
    Bench,
    answer_of,
    answering,
    ends,
    hearing,
    is_outcome,
    owning,
    run,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(15)]


@pytest.fixture
async def bench(connection: Connection, nats_url: str) -> Bench:
    await ensure_streams(connection, 1)
    return Bench(connection, nats_url, ScriptedModel(answering))


class Ahead(NoRecord):
    """A record that is further than the log."""

    def __init__(self, position: Position) -> None:
        self._position = position

    async def head(self, shard: int) -> Position:
        """Say so."""
        return self._position


async def dead(bench: Bench, count: int) -> list[DeadCommand]:
    """Read the dead letters."""
    client = bench.connection
    state = (await client.api(f"STREAM.INFO.{DEAD}"))["state"]  # a sender is told after its letter is kept
    assert state["messages"] == count
    found = []
    for sequence in range(state["first_seq"], state["last_seq"] + 1):
        message = (await client.api(f"STREAM.MSG.GET.{DEAD}", {"seq": sequence}))["message"]
        data = msgspec.convert(message["data"], bytes, strict=False)
        found.append(codec.decode(data, DeadCommand))
    return found


async def test_a_command_published_by_a_plain_client_leads_to_an_answer(bench: Bench) -> None:
    async with owning(bench.runtime("p1")), hearing(bench, "run.c1", "command.c1") as watcher:
        client = await nats.connect(bench.url)
        body = b'{"specversion":"1.0","id":"c1","data":{"agent":"demo","text":"hello"}}'
        await client.publish("in.acme.agent.t1.run", body)
        heard = await until(watcher, ends)
        await client.close()
    assert isinstance(heard[-1], Committed)
    assert [frame.result for frame in heard if isinstance(frame, Outcome)] == ["accepted"]
    versions = [frame.version for frame in heard if isinstance(frame, Committed)]
    assert versions == [1, 2, 3, 4]
    assert await bench.types("run", "c1") == ["run.started", "model.called", "model.returned", "run.finished"]
    await bench.verified("t1")


async def test_a_command_that_is_sent_twice_runs_once(bench: Bench) -> None:
    async with owning(bench.runtime("p1")), hearing(bench, "command.c1") as watcher:
        await answer_of(bench, run("c1"))
        await bench.connection.publish(
            "in.acme.agent.t1.run", b'{"id":"c1","data":{"agent":"demo","text":"something else"}}'
        )
        for _ in range(2):
            (outcome,) = await until(watcher, is_outcome)
            assert isinstance(outcome, Outcome)
            assert outcome.result == "accepted"
    assert len(bench.model.calls) == 1
    assert (await bench.types("thread", "t1")).count("command.accepted") == 1


async def test_a_refused_command_is_told_why_each_time_it_asks(bench: Bench) -> None:
    async with owning(bench.runtime("p1")), hearing(bench, "command.c1") as watcher:
        for _ in range(2):
            await bench.connection.publish("in.acme.agent.t1.run", b'{"id":"c1","data":{"agent":"nobody","text":"x"}}')
            (outcome,) = await until(watcher, is_outcome)
            assert isinstance(outcome, Outcome)
            assert outcome.result == "refused"
            assert outcome.problem is not None
            assert "demo" in outcome.problem.message
    assert await bench.types("thread", "t1") == ["command.refused"]


async def test_thirty_threads_run_beside_one_another(bench: Bench) -> None:
    release = bench.model.hold = asyncio.Event()
    everyone = asyncio.Event()

    def script(call: ModelCall) -> Say:
        if len(bench.model.calls) == 30:
            everyone.set()
        return answering(call)

    bench.model.script = script
    async with owning(bench.runtime("p1")):
        answers = [asyncio.create_task(answer_of(bench, run(f"c{n}", f"from {n}", thread=f"t{n}"))) for n in range(30)]
        await everyone.wait()  # all thirty are being answered at the same time
        release.set()
        assert await asyncio.gather(*answers) == [f"re: from {n}" for n in range(30)]
    for n in range(30):
        await bench.verified(f"t{n}")


async def test_commands_of_one_thread_are_answered_in_the_order_they_came(bench: Bench) -> None:
    async with owning(bench.runtime("p1")), hearing(bench, "run.c9") as watcher:
        for n in range(10):
            await send_command(bench.connection, run(f"c{n}", f"number {n}"))
        await until(watcher, ends)
    contents = [event.message.content for event in await bench.events(MessageAdded)]
    assert contents == [f"number {n}" for n in range(10)]
    await bench.verified("t1")


async def test_a_run_uses_its_tools_and_reads_their_results(bench: Bench) -> None:
    async with owning(bench.runtime("p1")):
        assert await answer_of(bench, run("c1", "use look")) == "re: look done"
    assert bench.used == ["look acme/t1/c1-1-t0"]
    await bench.verified("t1")


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("raise", "re: error: so odd"),
        ("exit", "re: error: 3"),
        ("cancel", "re: error: the tool canc"),
        ("surrogate", "re: a?b"),
        ("large", "re: " + "x" * 20),
    ],
)
async def test_whatever_a_tool_does_the_run_goes_on(
    bench: Bench, what: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with owning(bench.runtime("p1")):
        assert await answer_of(bench, run("c1", f"use odd {what}")) == expected[:24]
        assert await answer_of(bench, run("c2", "still there?")) == "re: still there?"
    assert "so odd" not in caplog.text  # what it says is in the thread, which can be erased
    await bench.verified("t1")


async def test_a_function_that_raises_stop_iteration_does_not_hang_its_run(bench: Bench) -> None:
    async with owning(bench.runtime("p1")):
        assert await answer_of(bench, run("c1", "use stop_iteration")) == "re: error: StopIteration"[:24]


async def test_a_tool_that_takes_too_long_is_stopped_and_the_model_told(bench: Bench) -> None:
    async with owning(bench.runtime("p1")):
        assert await answer_of(bench, run("c1", "use endless")) == "re: error: it took longer"[:24]
    (failed,) = await bench.events(ToolFailed)
    assert failed.content == "error: it took longer than 0.05 s"


async def test_a_model_provider_that_breaks_fails_its_run_alone(bench: Bench) -> None:
    def script(call: ModelCall) -> Say:
        if call.messages[-1].content == "break":
            raise KeyError("a bug in the provider")
        return answering(call)

    bench.model.script = script
    async with owning(bench.runtime("p1")):
        assert (await answer_of(bench, run("c1", "break"))).startswith("failed: RunFailed")
        assert await answer_of(bench, run("c2", "hi")) == "re: hi"


async def test_an_owner_that_dies_in_mid_answer_is_followed_by_one_that_finishes(bench: Bench) -> None:
    bench.model.hold = asyncio.Event()
    async with hearing(bench, "run.c1") as watcher:
        async with owning(bench.runtime("p1")):
            await send_command(bench.connection, run("c1", "hello there"))
            await until(watcher, lambda frame: not isinstance(frame, Committed))
        bench.model.hold = None
        async with owning(bench.runtime("p2")):
            await until(watcher, ends)
    assert [call.effect for call in bench.model.calls] == ["c1-1-m", "c1-1-m"]
    assert await bench.types("run", "c1") == ["run.started", "model.called", "model.returned", "run.finished"]
    await bench.verified("t1")


@pytest.mark.parametrize("failures", [0, 1])
async def test_what_an_owner_committed_and_did_not_live_to_tell_is_told_by_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    take, left = Cells.take, [NotNow("Postgres went away")] * failures
    told, ended, over = Live.committed, asyncio.Event(), asyncio.Event()

    async def dies(live: Live, sequence: int, envelope: Envelope) -> None:
        if any(fact.type == "run.finished" for fact in envelope.facts):
            ended.set()
            await over.wait()
            return
        await told(live, sequence, envelope)

    async def fails(cells: Cells, connection: Connection, until: int) -> None:
        if left:
            raise left.pop()
        await take(cells, connection, until)

    async with hearing(bench, "run.c1") as watcher:
        with monkeypatch.context() as patch:
            patch.setattr(Live, "committed", dies)
            async with owning(bench.runtime("p1")):
                await send_command(bench.connection, run("c1", "hello there"))
                await asyncio.wait_for(ended.wait(), 20)
        monkeypatch.setattr(Cells, "take", fails)
        async with owning(bench.runtime("p2")):
            await until(watcher, ends)
    over.set()
    assert len(bench.model.calls) == 1
    assert await bench.types("run", "c1") == ["run.started", "model.called", "model.returned", "run.finished"]


async def test_a_tool_that_may_run_once_is_not_run_again_after_a_crash(bench: Bench) -> None:
    bench.hold["mail"] = asyncio.Event()
    async with hearing(bench, "run.c1") as watcher:
        async with owning(bench.runtime("p1")):
            await send_command(bench.connection, run("c1", "use mail"))
            await bench.began.wait()
        async with owning(bench.runtime("p2")):
            await until(watcher, ends)
    assert bench.used == ["mail acme/t1/c1-1-t0"]
    assert len(await bench.events(ToolIndeterminate)) == 1
    await bench.verified("t1")


async def test_an_effect_that_cannot_get_at_a_server_waits_alone_and_leaves_its_shard_be(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    note, away, met = bench.model.note, [Unavailable("Postgres is away")], asyncio.Event()

    async def fails(about: ProgramNote) -> None:
        if about.program.endswith("t2") and away:
            met.set()
            raise away.pop()
        await note(about)

    monkeypatch.setattr(bench.model, "note", fails)
    bench.hold["mail"] = asyncio.Event()
    async with hearing(bench, "run.c1", "run.c2") as watcher, owning(bench.runtime("p1")):
        await send_command(bench.connection, run("c1", "use mail"))
        await bench.began.wait()
        await send_command(bench.connection, run("c2", "use look", thread="t2"))
        await met.wait()
        await until(watcher, lambda frame: ends(frame) and frame.subject == "c2")
        bench.hold["mail"].set()
        await until(watcher, ends)
    assert bench.used == ["mail acme/t1/c1-1-t0", "look acme/t2/c2-1-t0"]
    assert await bench.events(ToolIndeterminate) == []
    assert await bench.finished() == {"c1", "c2"}


async def test_a_tool_that_may_run_once_and_takes_too_long_is_not_said_to_have_failed(bench: Bench) -> None:
    @tool(effect="once", timeout_s=0.05)
    async def telegram() -> str:
        """Wire."""
        return await asyncio.Event().wait() and "never"

    bench.agents = [Agent("wirer", "Help.", tools=[telegram])]
    async with owning(bench.runtime("p1")):
        assert (await answer_of(bench, run("c1", "use telegram", agent="wirer"))).startswith("re: error: it is not kno")
    (doubt,) = await bench.events(ToolIndeterminate)
    assert doubt.content.endswith("whether 'telegram' took effect: it took longer than 0.05 s")
    await bench.verified("t1")


async def test_an_idempotent_tool_runs_again_after_a_crash_with_the_same_key(bench: Bench) -> None:
    bench.hold["look"] = asyncio.Event()
    async with hearing(bench, "run.c1") as watcher:
        async with owning(bench.runtime("p1")):
            await send_command(bench.connection, run("c1", "use look"))
            await bench.began.wait()
        bench.hold.clear()
        async with owning(bench.runtime("p2")):
            await until(watcher, ends)
    assert bench.used == ["look acme/t1/c1-1-t0", "look acme/t1/c1-1-t0"]
    assert await bench.events(ToolIndeterminate) == []
    await bench.verified("t1")


async def dying(bench: Bench, process: str, begun: int) -> None:
    """Own the shard until so many tool calls began in all, and end in the middle of them."""
    async with owning(bench.runtime(process)):
        while len(bench.used) < begun:
            bench.began.clear()
            await bench.began.wait()


async def test_a_tool_under_which_its_process_keeps_ending_is_not_run_for_ever(bench: Bench) -> None:
    bench.hold["look"] = asyncio.Event()
    async with hearing(bench, "run.c1") as watcher:
        await send_command(bench.connection, run("c1", "use look"))
        for attempt in (1, 2, 3):
            await dying(bench, f"p{attempt}", attempt)
        async with owning(bench.runtime("p4")):
            await until(watcher, ends)
    assert bench.used == ["look acme/t1/c1-1-t0"] * 3
    assert [event.attempt for event in await bench.events(ToolResumed)] == [2, 3]
    (unknown,) = await bench.events(ToolIndeterminate)
    assert "its process ended each of the 3 times" in unknown.content
    await bench.verified("t1")


async def test_what_was_under_way_when_the_process_ended_twice_runs_alone(bench: Bench) -> None:
    bench.hold["look"] = asyncio.Event()
    async with hearing(bench, "run.c1", "run.c2") as watcher:
        await send_command(bench.connection, run("c1", "use look", "t1"))
        await send_command(bench.connection, run("c2", "use look", "t2"))
        await dying(bench, "p1", 2)
        await dying(bench, "p2", 4)
        await dying(bench, "p3", 5)
        suspect, innocent = ("c1", "c2") if bench.used[-1].endswith("c1-1-t0") else ("c2", "c1")
        bench.hold.clear()
        async with owning(bench.runtime("p4")):
            await until(watcher, ends)
            await until(watcher, ends)
    assert len(bench.used) == 6
    assert f"/{innocent}-" in bench.used[-1]
    assert (await bench.types("run", suspect)).count("tool.indeterminate") == 1
    assert (await bench.types("run", innocent)).count("tool.returned") == 1
    await bench.verified("t1")
    await bench.verified("t2")


@pytest.mark.parametrize("paid", ["paid by the first attempt", None])
async def test_a_tool_that_can_be_asked_is_asked_before_it_runs_again(bench: Bench, paid: str | None) -> None:
    bench.hold["pay"] = asyncio.Event()
    bench.paid = paid
    async with hearing(bench, "run.c1") as watcher:
        await send_command(bench.connection, run("c1", "use pay"))
        await dying(bench, "p1", 1)
        bench.hold.clear()
        async with owning(bench.runtime("p2")):
            await until(watcher, ends)
    key = "acme/t1/c1-1-t0"
    assert bench.used == [f"pay {key}", f"check {key}"] + ([] if paid else [f"pay {key}"])
    (returned,) = await bench.events(ToolReturned)
    assert returned.content == (paid or "pay done")
    await bench.verified("t1")


async def test_an_owner_that_is_drained_lets_its_tools_finish_and_leaves_the_model_to_the_next(bench: Bench) -> None:
    bench.hold["mail"] = asyncio.Event()
    async with hearing(bench, "run.c1", "run.c2") as watcher:
        owner = ShardOwner(bench.runtime("p1"), 0)
        owning_it = asyncio.create_task(owner.run())
        await owner.ready.wait()
        await send_command(bench.connection, run("c1", "use mail"))
        await bench.began.wait()
        draining = asyncio.create_task(owner.drain(10))
        await asyncio.sleep(0)
        bench.model.hold = asyncio.Event()
        bench.hold["mail"].set()
        await draining
        await owning_it
        assert (await bench.types("run", "c1"))[-2:] == ["tool.returned", "model.called"]
        bench.model.hold.set()
        async with owning(bench.runtime("p2")):
            await until(watcher, ends)
    assert bench.used == ["mail acme/t1/c1-1-t0"]
    assert await bench.events(ToolIndeterminate) == []
    await bench.verified("t1")


async def test_draining_is_bounded_and_what_is_left_is_as_after_a_crash(bench: Bench) -> None:
    bench.hold["mail"] = asyncio.Event()
    async with hearing(bench, "run.c1") as watcher:
        owner = ShardOwner(bench.runtime("p1"), 0)
        owning_it = asyncio.create_task(owner.run())
        await owner.ready.wait()
        await send_command(bench.connection, run("c1", "use mail"))
        await bench.began.wait()
        await owner.drain(0.1)
        await owning_it
        async with owning(bench.runtime("p2")):
            await until(watcher, ends)
    assert len(await bench.events(ToolIndeterminate)) == 1


async def test_nothing_is_decided_on_a_state_that_may_lack_what_was_appended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, entered = asyncio.Event(), asyncio.Event()
    gate.set()
    plain = ShardWriter._send

    async def slow(self: ShardWriter, commit: str, data: bytes) -> int:
        if not gate.is_set():
            entered.set()
        await gate.wait()
        return await plain(self, commit, data)

    monkeypatch.setattr(ShardWriter, "_send", slow)
    bench.model.hold = asyncio.Event()
    owner = ShardOwner(bench.runtime("p1"), 0)
    owning_it = asyncio.create_task(owner.run())
    await owner.ready.wait()
    async with hearing(bench, "command.c1") as watcher:
        await send_command(bench.connection, run("c1", "hi"))
        await until(watcher, is_outcome)
    gate.clear()  # the server is silent for a while
    bench.model.hold.set()
    await entered.wait()
    await send_command(bench.connection, run("c2", "again"))
    while not owner.statistics()["commands"]:  # noqa: ASYNC110  it has no event for that
        await asyncio.sleep(0)
    draining = asyncio.create_task(owner.drain(0.1))
    while owner.statistics()["effects"]:  # noqa: ASYNC110
        await asyncio.sleep(0)
    gate.set()
    await draining
    await owning_it
    bench.model.hold = None
    async with hearing(bench, "run.c2") as watcher, owning(bench.runtime("p2")):
        await until(watcher, ends)
    assert await bench.finished() == {"c1", "c2"}
    await bench.verified("t1")


async def test_a_result_that_comes_after_its_run_was_aborted_is_not_written(bench: Bench) -> None:
    async with hearing(bench, "run.c1", "run.c2") as watcher, owning(bench.runtime("p1")):
        await send_command(bench.connection, run("c1", "use stubborn"))
        await STUBBORN.wait()
        await send_command(bench.connection, abort("a1"))
        await until(watcher, ends)
        await send_command(bench.connection, run("c2", "hello there"))
        await until(watcher, ends)
    assert (await bench.types("run", "c1"))[-2:] == ["tool.indeterminate", "run.failed"]
    await bench.verified("t1")


def abort(identity: str, thread: str = "t1", **data: Any) -> Command:
    return Command(id=identity, tenant="acme", kind="agent", thread=thread, verb="abort", data=AbortRun(**data))


async def test_an_aborted_run_ends_at_once_and_the_model_is_told_to_stop(bench: Bench) -> None:
    bench.model.hold = asyncio.Event()
    async with hearing(bench, "run.c1", "run.c2") as watcher, owning(bench.runtime("p1")):
        await send_command(bench.connection, run("c1", "hello there"))
        await until(watcher, lambda frame: not isinstance(frame, Committed))
        await send_command(bench.connection, run("c2", "and again"))
        await until(watcher, lambda frame: isinstance(frame, Committed) and frame.type == "run.queued")
        await send_command(bench.connection, abort("a1", reason="too slow"))
        await until(watcher, ends)
        bench.model.hold.set()
        await until(watcher, ends)
    assert bench.model.aborted == ["acme/t1/c1-1-m"]
    (failed,) = await bench.events(RunFailed)
    assert (failed.problem.kind, failed.problem.message) == ("aborted", "the run was aborted by a client: too slow")
    assert (await bench.types("run", "c1"))[-1] == "run.failed"
    assert (await bench.types("run", "c2"))[-1] == "run.finished"
    await bench.verified("t1")


async def test_aborting_reaches_a_tool_that_runs_and_what_it_says_later_is_not_written(bench: Bench) -> None:
    bench.hold["mail"] = asyncio.Event()
    async with hearing(bench, "run.c1", "run.c2") as watcher, owning(bench.runtime("p1")):
        await send_command(bench.connection, run("c1", "use mail"))
        await bench.began.wait()
        await send_command(bench.connection, abort("a1", run="c1"))
        await until(watcher, ends)
        bench.hold["mail"].set()
        await send_command(bench.connection, run("c2", "hello there"))
        await until(watcher, ends)
    assert (await bench.types("run", "c1"))[-3:] == ["tool.called", "tool.indeterminate", "run.failed"]
    await bench.verified("t1")


async def test_a_run_that_waits_is_aborted_and_the_one_under_way_goes_on(bench: Bench) -> None:
    bench.model.hold = asyncio.Event()
    async with hearing(bench, "run.c1", "run.c2", "command.a1") as watcher, owning(bench.runtime("p1")):
        await send_command(bench.connection, run("c1", "hello there"))
        await send_command(bench.connection, run("c2", "and again"))
        await send_command(bench.connection, abort("a1", run="c2"))
        await until(watcher, ends)
        bench.model.hold.set()
        await until(watcher, ends)
    assert bench.model.aborted == []
    assert (await bench.types("run", "c1"))[-1] == "run.finished"
    assert await bench.types("run", "c2") == ["run.queued", "run.failed"]
    await bench.verified("t1")


async def test_a_run_whose_deadline_passes_is_ended_by_whoever_owns_it_then(bench: Bench) -> None:
    bench.model.hold = asyncio.Event()
    deadline = FixedClock().now() + 300_000
    async with hearing(bench, "run.c1", "run.c2") as watcher:
        async with owning(bench.runtime("p1")):
            await send_command(bench.connection, run("c1", "hello there", deadline=deadline))
            await until(watcher, lambda frame: not isinstance(frame, Committed))
        async with owning(bench.runtime("p2")):
            await until(watcher, ends)
            bench.model.hold.set()
            await send_command(bench.connection, run("c2", "in time", deadline=deadline + 60_000_000))
            await until(watcher, ends)
    (failed,) = await bench.events(RunFailed)
    assert failed.problem.kind == "timeout"
    assert (await bench.types("run", "c1"))[-2:] == ["deadline.passed", "run.failed"]
    assert (await bench.types("run", "c2"))[-1] == "run.finished"
    assert bench.model.aborted == ["acme/t1/c1-1-m"]
    await bench.verified("t1")


async def test_what_is_not_under_way_cannot_be_aborted(bench: Bench) -> None:
    async with owning(bench.runtime("p1")):
        await answer_of(bench, run("c1", "hello there"))
        async with hearing(bench, "command.a1", "command.a2") as watcher:
            await send_command(bench.connection, abort("a1"))
            await send_command(bench.connection, abort("a2", run="c1"))
            outcomes = [frame for frame in (await watcher.next(5), await watcher.next(5)) if isinstance(frame, Outcome)]
    assert [outcome.result for outcome in outcomes] == ["refused", "refused"]
    assert all(outcome.problem is not None and "not under way" in outcome.problem.message for outcome in outcomes)
    await bench.verified("t1")


async def test_a_stale_owner_is_fenced_and_what_it_would_have_said_is_not_written(bench: Bench) -> None:
    bench.model.hold = asyncio.Event()
    async with hearing(bench, "run.c1") as watcher, owning(bench.runtime("p1")):
        await send_command(bench.connection, run("c1", "hello there"))
        await until(watcher, lambda frame: not isinstance(frame, Committed))
        rival = await ShardWriter.take(bench.connection, 0, Writer("p2", "test"), FixedClock(), SystemIds(), "agents-1")
        bench.model.hold.set()  # the old owner's result meets the fence; it drops all and takes the shard again
        await until(watcher, ends)
        with pytest.raises(Fenced):
            await rival.append([(await bench.facts())[0][2]])
    assert (await bench.types("run", "c1")).count("model.returned") == 1
    await bench.verified("t1")


async def test_a_shard_that_came_back_shorter_is_not_built_upon(bench: Bench) -> None:
    async with owning(bench.runtime("p1")):
        pass
    last = await last_commit(bench.connection, 0)
    assert last is not None
    bench.record = Ahead(Position(last.sequence + 1, "beyond", 0))
    with pytest.RaisesGroup(LogDamaged, flatten_subgroups=True):
        await ShardOwner(bench.runtime("p2"), 0).run()
    assert await last_commit(bench.connection, 0) == last


async def test_an_owner_does_not_take_a_log_that_was_lost_under_it_for_the_truth(bench: Bench) -> None:
    owner = ShardOwner(bench.runtime("p1"), 0)
    owning_it = asyncio.create_task(owner.run())
    await owner.ready.wait()
    config = (await bench.connection.api("STREAM.INFO.EV"))["config"]
    await bench.connection.api("STREAM.DELETE.EV")
    await bench.connection.api("STREAM.CREATE.EV", config)
    await send_command(bench.connection, run("r1"))
    with pytest.RaisesGroup(LogDamaged, flatten_subgroups=True):
        await owning_it
    assert await last_commit(bench.connection, 0) is None


@pytest.mark.deadline(30)
async def test_runs_survive_a_server_that_is_killed_under_them(bench: Bench, nats_server: NatsServer) -> None:
    bench.model.hold = asyncio.Event()
    async with owning(bench.runtime("p1")), hearing(bench, *(f"run.c{n}" for n in range(10))) as watcher:
        for n in range(10):
            await send_command(bench.connection, run(f"c{n}", "hello there", thread=f"t{n}"))
        started: set[str] = set()
        while len(started) < 10:
            frame = await watcher.next(5)
            assert frame is not None
            if not isinstance(frame, Committed | Outcome):
                started.add(frame.subject)
        await nats_server.kill()
        bench.model.hold.set()
        await nats_server.start(nats_server.port)
        await send_command(bench.connection, run("last", "hi", thread="t99"), 10)
        over: set[str] = set()
        while len(over) < 11:  # what was said live while the connection was down is lost: the log has it
            await watcher.next(0.2)
            over = await bench.finished()
    for n in range(10):
        assert (await bench.types("run", f"c{n}"))[-1] == "run.finished"
        await bench.verified(f"t{n}")


class Breaking(ConversationMachine):
    """Today's code has a bug."""

    def ask(self, state: Any, asked: Asked, context: Context) -> Decision:
        if isinstance(asked.command.data, RunAgent) and asked.command.data.text == "poison":
            raise ZeroDivisionError("a bug in the loop")
        return super().ask(state, asked, context)

    def follow(self, state: Any, result: Any, context: Context) -> Decision:
        if "unfollowable" in codec.encode(result.event).decode():
            raise ZeroDivisionError("a bug in the loop")
        return super().follow(state, result, context)


async def test_a_command_that_breaks_the_decider_is_buried_and_its_neighbours_go_on(bench: Bench) -> None:
    runtime = bench.runtime("p1", machine=Breaking())
    async with owning(runtime), hearing(bench, "command.c1") as watcher:
        await send_command(bench.connection, run("c1", "poison"))
        (outcome,) = await until(watcher, is_outcome)
        assert isinstance(outcome, Outcome)
        assert outcome.result == "dead"
        assert await answer_of(bench, run("c2", "hi")) == "re: hi"
    (letter,) = await dead(bench, 1)
    assert "ZeroDivisionError" in letter.error
    assert '"poison"' in letter.body
    assert letter.subject == "cmd.0.acme.agent.t1.run"


async def test_a_thread_that_cannot_go_on_stops_alone_and_mended_code_takes_it_up(bench: Bench) -> None:
    async with owning(bench.runtime("p1", machine=Breaking())):
        await send_command(bench.connection, run("c1", "unfollowable"))
        assert await answer_of(bench, run("c2", "hi", thread="t2")) == "re: hi"
    async with hearing(bench, "run.c1") as watcher, owning(bench.runtime("p2")):
        await until(watcher, ends)
    await bench.verified("t1")


async def test_an_event_from_newer_code_stops_its_thread_and_no_other(bench: Bench) -> None:
    async with owning(bench.runtime("p1")):
        await answer_of(bench, run("c1", thread="t1"))
    pen = await ShardWriter.take(bench.connection, 0, Writer("p2", "v9"), FixedClock(), SystemIds(), "agents-1")
    fact = Fact("acme", "t1", "run", "c1", 5, "run.ascended", "", msgspec.Raw(b'{"type":"run.ascended"}'))
    await pen.append([fact])
    async with owning(bench.runtime("p3")), hearing(bench, "command.c2") as watcher:
        await send_command(bench.connection, run("c2", thread="t1"))
        (outcome,) = await until(watcher, is_outcome)
        assert isinstance(outcome, Outcome)
        assert outcome.result == "dead"
        assert outcome.problem is not None
        assert "run.ascended" in outcome.problem.message
        assert await answer_of(bench, run("c3", thread="t2")) == "re: hi"


async def test_a_command_of_megabytes_is_logged_answered_and_folded_again(bench: Bench) -> None:
    async with owning(bench.runtime("p1")):
        assert await answer_of(bench, run("c1", "x" * (5 << 20))) == "re: " + "x" * 20
    async with owning(bench.runtime("p2")):
        assert await answer_of(bench, run("c2", "hi")) == "re: hi"
    state = (await bench.connection.api("STREAM.INFO.EV"))["state"]
    assert state["bytes"] < 100_000
    await bench.verified("t1")


async def test_a_command_that_no_owner_lived_to_answer_is_buried(bench: Bench) -> None:
    await send_command(bench.connection, run("c1"))
    async with aclosing(CommandQueue(bench.connection, 0, "p0").deliveries()) as deliveries:
        for attempt in range(1, 6):  # as if each of these owners had died of it
            delivery = await anext(deliveries)
            assert delivery.attempt == attempt
            await delivery.message.nak()
    async with owning(bench.runtime("p1")), hearing(bench, "command.c1") as watcher:
        (outcome,) = await until(watcher, is_outcome)
        assert isinstance(outcome, Outcome)
        assert outcome.result == "dead"
    (letter,) = await dead(bench, 1)
    assert letter.deliveries == 6


async def test_a_bare_generation_is_logged_and_answered(bench: Bench) -> None:
    data = Generate(model="m", messages=(Message(role="user", content="hi"),))
    command = Command(id="g1", tenant="acme", kind="generation", thread="g1", verb="generate", data=data)
    async with owning(bench.runtime("p1")), hearing(bench, "generation.g1") as watcher:
        await send_command(bench.connection, command)
        await until(watcher, lambda frame: isinstance(frame, Committed) and frame.type == "model.returned")
    assert await bench.types("generation", "g1") == ["command.accepted", "model.called", "model.returned"]


async def test_shards_follow_their_ownership_and_say_when_they_serve(bench: Bench) -> None:
    ready: asyncio.Queue[frozenset[int]] = asyncio.Queue()
    wanted: asyncio.Queue[frozenset[int]] = asyncio.Queue()

    async def ownership() -> AsyncIterator[frozenset[int]]:
        while True:
            yield await wanted.get()

    async def on_ready(shards: frozenset[int]) -> None:
        ready.put_nowait(shards)

    task = asyncio.create_task(own_shards(bench.runtime("p1"), ownership(), on_ready, {}))
    try:
        wanted.put_nowait(frozenset({0}))
        assert await ready.get() == {0}
        assert await answer_of(bench, run("c1", "hi")) == "re: hi"
        wanted.put_nowait(frozenset())
        assert await ready.get() == frozenset()
        wanted.put_nowait(frozenset({0}))
        assert await ready.get() == {0}
        assert await answer_of(bench, run("c2", "again")) == "re: again"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
