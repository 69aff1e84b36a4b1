"""A model call that fails for a reason that may pass, on a real server: whoever owns the thread by then asks again."""

from __future__ import annotations

import io

import pytest

from actors.models.provider import ModelCall
from actors.testing import Say, ScriptedModel
from bus.commands import send_command
from bus.connection import Connection
from bus.streams import ensure_streams
from infra.cli.speech import Speech
from schemas.commands import AbortRun, Command
from schemas.live import Committed, Frame
from schemas.runs import ModelCalled, Problem, RunFailed
from tests.actors.runtime.test_shard import Bench, answer_of, ends, hearing, owning, run, until

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(15)]

BUSY = Problem(kind="overloaded", message="too many are waiting", retry_after_ms=10)
LATER = Problem(kind="overloaded", message="come back tomorrow", retry_after_ms=86_400_000)


def failing(times: int, problem: Problem = BUSY) -> ScriptedModel:
    """A model whose first calls come to nothing."""

    def script(call: ModelCall) -> Say:
        return problem if len(model.calls) <= times else "at last"

    model = ScriptedModel(script)
    return model


@pytest.fixture
async def bench(connection: Connection, nats_url: str) -> Bench:
    await ensure_streams(connection, 1)
    return Bench(connection, nats_url, failing(2))


def schedules(frame: Frame) -> bool:
    return isinstance(frame, Committed) and frame.type == "retry.scheduled"


async def test_a_model_that_is_busy_twice_answers_the_third_time(bench: Bench) -> None:
    async with owning(bench.runtime("p1")):
        assert await answer_of(bench, run("c1")) == "at last"
    assert [call.effect for call in bench.model.calls] == ["c1-1-m", "c1-1-m2", "c1-1-m3"]
    again = ["model.failed", "retry.scheduled", "retry.due", "model.called"]
    assert await bench.types("run", "c1") == [
        "run.started", "model.called", *again, *again, "model.returned", "run.finished",
    ]  # fmt: skip
    await bench.verified("t1")


async def test_a_model_that_stays_busy_fails_the_run_after_the_last_attempt(bench: Bench) -> None:
    bench.model = failing(100)
    async with owning(bench.runtime("p1")):
        assert "asked 3 times" in await answer_of(bench, run("c1"))
    assert len(await bench.events(ModelCalled)) == len(bench.model.calls) == 3
    await bench.verified("t1")


async def test_a_wait_is_taken_up_by_the_next_owner(bench: Bench) -> None:
    bench.model = failing(1)
    async with hearing(bench, "run.c1") as watcher:
        async with owning(bench.runtime("p1")):
            await send_command(bench.connection, run("c1"))
            await until(watcher, schedules)
        assert len(bench.model.calls) == 1
        async with owning(bench.runtime("p2")):
            await until(watcher, ends)
    assert [call.effect for call in bench.model.calls] == ["c1-1-m", "c1-1-m2"]
    assert (await bench.types("run", "c1"))[-1] == "run.finished"
    await bench.verified("t1")


async def test_an_abort_ends_a_long_wait_at_once(bench: Bench) -> None:
    bench.model = failing(1, LATER)
    async with owning(bench.runtime("p1")) as owner, hearing(bench, "run.c1") as watcher:
        await send_command(bench.connection, run("c1"))
        await until(watcher, schedules)
        abort = Command(id="a1", tenant="acme", kind="agent", thread="t1", verb="abort", data=AbortRun())
        await send_command(bench.connection, abort)
        await until(watcher, ends)
        assert await answer_of(bench, run("c2")) == "at last"
        assert owner.statistics()["effects"] <= 1  # what ends now: the other waits for tomorrow no more
    (failed,) = await bench.events(RunFailed)
    assert failed.problem.kind == "aborted"
    await bench.verified("t1")


async def test_a_deadline_ends_a_long_wait(bench: Bench) -> None:
    bench.model = failing(1, LATER)
    deadline = bench.runtime("p").clock.now() + 300_000
    async with owning(bench.runtime("p1")):
        assert "deadline" in await answer_of(bench, run("c1", deadline=deadline))
    assert (await bench.types("run", "c1"))[-3:] == ["retry.scheduled", "deadline.passed", "run.failed"]
    await bench.verified("t1")


async def test_a_terminal_is_told_of_the_wait_and_not_of_a_failure(bench: Bench) -> None:
    bench.model = failing(1)
    output = io.StringIO()
    speech = Speech(output)
    async with owning(bench.runtime("p1")), hearing(bench, "run.c1") as watcher:
        await send_command(bench.connection, run("c1"))
        for frame in await until(watcher, ends):
            speech.say(frame)
            speech.note(frame)
    speech.end()
    assert output.getvalue() == "[overloaded: the model is asked again in 0.3 s, attempt 2]\nat last\n"
    assert speech.problem is None
