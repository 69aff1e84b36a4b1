"""Goals on a real server: who judges, what the next run is, and that a judge goes on where his process ended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.agent.definition import Agent
from actors.agent.judge import GoalVerdict, GoalView, verdict_from, verdict_of
from actors.agent.selection import ModelSelection
from actors.errors import CallFailed
from actors.models.provider import ModelAnswer, ModelCall, OnText
from actors.processors.patterns import RegexFilter
from actors.processors.rules import Rule
from actors.testing import Say, ScriptedModel
from bus.commands import send_command
from bus.connection import Connection
from bus.live import Watcher
from bus.streams import ensure_streams
from schemas.commands import Command
from schemas.hooks import StepPrepared
from schemas.live import Committed
from schemas.runs import Problem, RunStarted
from schemas.standing import ClearGoal, GoalJudged, GoalPaused, SetGoal, StandingCommand
from tests.actors.runtime.bench import Bench, hearing, owning, run, until

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(30)]


class Counting:
    """A judge that is a function: done at the third run; and what it was shown."""

    def __init__(self) -> None:
        self.seen: list[GoalView] = []

    async def __call__(self, view: GoalView) -> GoalVerdict | bool:
        self.seen.append(view)
        return GoalVerdict("done", "that is all") if view.runs == 3 else False


def working(call: ModelCall) -> Say:
    """Judge where that is asked, else work."""
    last = call.messages[-1].content
    if call.sampling.structured is not None:
        if "assistant: unjudgeable" in last:
            return Problem(kind="engine", message="gone")
        verdict = "done" if last.count("assistant: worked") == 2 else "go_on"
        return "nonsense" if "assistant: odd" in last else f'{{"reason": "so far", "verdict": "{verdict}"}}'
    return last if last in {"odd", "unjudgeable"} else "worked"


def steering(identity: str, data: StandingCommand, thread: str = "t1") -> Command:
    verb = str(data.__struct_config__.tag)
    return Command(id=identity, tenant="acme", kind="agent", thread=thread, verb=verb, data=data, source="test")


@pytest.fixture
async def bench(connection: Connection, nats_url: str) -> Bench:
    await ensure_streams(connection, 1)
    return Bench(connection, nats_url, ScriptedModel(working))


async def over(watcher: Watcher) -> None:
    """Wait until the goal is judged and nothing follows, or it is paused."""

    def at_rest(frame: Any) -> bool:
        judged = isinstance(frame, Committed) and frame.type == "goal.judged"
        return (judged and b'"go_on"' not in bytes(frame.data)) or (
            isinstance(frame, Committed) and frame.type == "goal.paused"
        )

    await until(watcher, at_rest)


async def test_a_function_judges_and_each_run_is_the_agent_as_it_is_by_then(bench: Bench) -> None:
    judge = Counting()
    bench.agents = [Agent("worker", lambda context: f"Work {len(judge.seen)}.", judge=judge)]
    async with owning(bench.runtime("p1")), hearing(bench, "thread.t1") as watcher:
        await send_command(bench.connection, steering("g", SetGoal("worker", "Work.", context={"user": "ann"})))
        await over(watcher)
    assert [event.profile.instructions for event in await bench.events(RunStarted)] == ["Work 0.", "Work 1.", "Work 2."]
    assert [(view.runs, view.text, view.goal) for view in judge.seen] == [(n, "worked", "Work.") for n in (1, 2, 3)]
    assert dict(judge.seen[0].context) == {"user": "ann"}
    assert [event.verdict for event in await bench.events(GoalJudged)] == ["go_on", "go_on", "done"]
    await bench.verified("t1")


async def test_the_agents_own_model_judges_unless_another_is_named(bench: Bench) -> None:
    bench.agents = [Agent("worker", "Work."), Agent("elsewhere", "Work.", judge="nobody")]
    async with owning(bench.runtime("p1")), hearing(bench, "thread.t1", "thread.t2") as watcher:
        await send_command(bench.connection, steering("g", SetGoal("worker", "Work.")))
        await over(watcher)
        await send_command(bench.connection, steering("h", SetGoal("elsewhere", "Work."), "t2"))
        await over(watcher)
    first, second, third = await bench.events(GoalJudged)
    assert [one.verdict for one in (first, second, third)] == ["go_on", "done", "failed"]
    assert (first.reason, first.usage.completion_tokens) == ("so far", 1)
    assert [(one.agent, one.engine) for one in (first, third)] == [("worker", "m"), ("elsewhere", "")]
    assert "'nobody'" in third.reason
    assert [event.reason for event in await bench.events(GoalPaused)] == [third.reason]
    await bench.verified("t1")
    await bench.verified("t2")


@pytest.mark.parametrize("room", [9_000, 100])
async def test_a_judge_with_little_room_is_shown_less(bench: Bench, room: int) -> None:
    asked: list[ModelCall] = []

    def narrow(call: ModelCall) -> Say:
        if call.sampling.structured is None:
            return "x" * 20_000
        asked.append(call)
        if len(call.messages[-1].content) > room:
            return Problem(kind="too_long", message="no room")
        return '{"reason": "", "verdict": "done"}'

    bench.model = ScriptedModel(narrow)
    bench.agents = [Agent("worker", "Work.")]
    async with owning(bench.runtime("p1")), hearing(bench, "thread.t1") as watcher:
        for name in "abc":
            await send_command(bench.connection, run(name, agent="worker"))
        await send_command(bench.connection, steering("g", SetGoal("worker", "Work.")))
        await over(watcher)
    (judged,) = await bench.events(GoalJudged)
    lengths = [len(call.messages[-1].content) for call in asked]
    assert lengths == sorted(set(lengths), reverse=True)
    assert len({call.request for call in asked}) == len(asked)
    if room > 100:
        assert (judged.verdict, len(asked)) == ("done", 2)
    else:
        assert (judged.verdict, "no room" in judged.reason, len(asked)) == ("failed", True, 5)
    await bench.verified("t1")


def broken(_view: GoalView) -> bool:
    raise ValueError("so odd")


@pytest.mark.parametrize(
    ("judge", "text", "why"),
    [
        (broken, "Work.", "ValueError: so odd"),
        (lambda view: "done", "Work.", "return a GoalVerdict"),
        (None, "odd", "could not be read"),
        (None, "unjudgeable", "gone"),
    ],
)
async def test_a_judge_that_comes_to_nothing_pauses_the_goal(bench: Bench, judge: Any, text: str, why: str) -> None:
    bench.agents = [Agent("worker", "Work.", judge=judge)]
    async with owning(bench.runtime("p1")), hearing(bench, "thread.t1") as watcher:
        await send_command(bench.connection, steering("g", SetGoal("worker", text)))
        await over(watcher)
    (paused,) = await bench.events(GoalPaused)
    assert why in paused.reason
    await bench.verified("t1")


async def test_a_judge_whose_process_ended_is_asked_again_and_one_run_follows(bench: Bench) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def judge(view: GoalView) -> bool:
        asked.set()
        await go.wait()
        return view.runs == 2

    bench.agents = [Agent("worker", "Work.", judge=judge)]
    async with owning(bench.runtime("p1")):
        await send_command(bench.connection, steering("g", SetGoal("worker", "Work.")))
        await asyncio.wait_for(asked.wait(), 5)
    go.set()
    async with hearing(bench, "thread.t1") as watcher, owning(bench.runtime("p2")):
        await over(watcher)
    assert await bench.finished() == {"g-g1", "g-g2"}
    assert [event.effect for event in await bench.events(GoalJudged)] == ["g-g1-1-g", "g-g2-1-g"]
    await bench.verified("t1")


async def test_an_agent_that_is_not_there_is_given_no_goal(bench: Bench) -> None:
    async with owning(bench.runtime("p1")), hearing(bench, "command.g") as watcher:
        await send_command(bench.connection, steering("g", SetGoal("nobody", "Work.")))
        (outcome,) = await until(watcher, lambda frame: True)
    assert outcome.problem.kind == "unknown_agent"  # type: ignore[union-attr]
    await bench.verified("t1")


async def test_what_masks_a_text_masks_it_for_a_judge_and_for_what_chooses_the_model_too(bench: Bench) -> None:
    masking = [RegexFilter([Rule("number", "4711", longest=4)])]
    chosen = ModelSelection({"m": "all", "other": "nothing"})
    bench.agents = [Agent("worker", "Work.", processors=masking, prepare_step=chosen)]
    bench.model.script = lambda call: "A" if "nothing" in call.messages[-1].content else working(call)
    async with owning(bench.runtime("p1")), hearing(bench, "thread.t1") as watcher:
        await send_command(bench.connection, steering("g", SetGoal("worker", "Work on 4711.")))
        await over(watcher)
    prompts = [message.content for call in bench.model.calls for message in call.messages]
    assert sum("Which of these is the text for?" in prompt for prompt in prompts) == 2
    assert sum("works towards a goal" in prompt for prompt in prompts) == 2
    assert not [prompt for prompt in prompts if "4711" in prompt]
    assert [event.why for event in await bench.events(StepPrepared)] == ["m", "m"]
    await bench.verified("t1")


class Stuck(ScriptedModel):
    """A judge that never says anything to what it has room for, and says when it is asked and stopped."""

    def __init__(self, room: int) -> None:
        super().__init__(working)
        self._room = room
        self.begun, self.stopped = asyncio.Event(), asyncio.Event()

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Judge for ever."""
        if len(call.messages[-1].content) > self._room:
            raise CallFailed(Problem(kind="too_long", message="no room"))
        if call.sampling.structured is not None:
            self.begun.set()
            await asyncio.Event().wait()
        return await super().call(call, on_text)

    async def abort(self, request: str) -> None:
        """Note it."""
        await super().abort(request)
        self.stopped.set()


@pytest.mark.parametrize(("room", "stopped"), [(10_000, "g-g1-1-g"), (6_200, "g-g1-1-g1")])
async def test_a_model_that_judges_a_goal_that_was_cleared_is_stopped(bench: Bench, room: int, stopped: str) -> None:
    model = bench.model = Stuck(room)
    bench.agents = [Agent("worker", "Work.")]
    async with owning(bench.runtime("p1")):
        await send_command(bench.connection, steering("g", SetGoal("worker", "x" * 3_000)))
        await asyncio.wait_for(model.begun.wait(), 5)
        await send_command(bench.connection, steering("c", ClearGoal()))
        await asyncio.wait_for(model.stopped.wait(), 5)
    assert model.aborted == [f"acme/t1/{stopped}"]
    assert not await bench.events(GoalJudged)
    await bench.verified("t1")


def test_what_a_verdict_may_be() -> None:
    assert verdict_of('```json\n{"reason": "r", "verdict": "waiting"}\n```') == GoalVerdict("waiting", "r")
    assert verdict_from(True) == GoalVerdict("done")
    with pytest.raises(TypeError, match="GoalVerdict"):
        verdict_from(GoalVerdict("perhaps"))  # type: ignore[arg-type]
