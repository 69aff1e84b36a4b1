"""An agent's own functions between steps and at the end: recorded, so that replay needs none; and what they may do."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from actors.agent.definition import Agent
from actors.agent.effects import CallModel, CallTool, PrepareStep, TellEnd
from actors.agent.hooks import RunEnd, StepChanges, StepView, prepared, told
from actors.errors import DefinitionError
from schemas.hooks import HooksTold, Judgement, StepPrepared
from schemas.messages import Calling
from schemas.runs import ApprovalRequested, RunFailed, RunFinished, ToolCalled, ToolFailed, ToolReturned
from tests.actors.agent.test_loop import PROFILE, World, call, returned, said, tags

PREPARED = replace(PROFILE, prepares=True)


def test_the_functions_are_asked_before_each_step_and_what_they_say_holds_for_it_alone() -> None:
    world = World()
    assert tags(world.ask("c1", PREPARED, text="hi"))[-1] == "step.opened"
    world.result(
        StepPrepared("c1-1-p", model="m2", instructions="Look.", active_tools=("add",), temperature=0.5, max_tokens=7)
    )
    asks = world.open["c1-1-m"]
    assert isinstance(asks, CallModel)
    assert (asks.called.model, asks.profile.instructions) == ("m2", "Look.")
    assert (asks.called.sampling.temperature, asks.called.sampling.max_tokens) == (0.5, 7)
    assert [tool.name for tool in asks.profile.tools] == ["add"]
    events = world.result(said("c1-1-m", "", [call(1), call(2, "mail")]))
    assert isinstance(events[1], ToolFailed)
    assert tags(returned(world, "c1-1-t0")) == ["step.opened"]
    world.crash()
    opened = world.open["c1-2-p"]
    assert isinstance(opened, PrepareStep)
    assert opened.step == 2
    world.result(StepPrepared("c1-2-p", calling=Calling(choice="none")))
    asks = world.open["c1-2-m"]
    assert isinstance(asks, CallModel)
    assert (asks.called.model, asks.profile.calling.choice, len(asks.profile.tools)) == ("m", "none", 3)
    world.verified()


def test_a_stop_condition_ends_the_run_with_what_was_said_last() -> None:
    world = World()
    world.ask("c1", PREPARED, text="hi")
    world.result(StepPrepared("c1-1-p"))
    world.result(said("c1-1-m", "so far", [call(1)]))
    returned(world, "c1-1-t0")
    (finished,) = world.result(StepPrepared("c1-2-p", stop="enough"))
    assert finished == RunFinished(text="so far", steps=1, usage=world.state.runs["c1"].usage, stopped_by="enough")
    world.verified()


def test_a_function_that_fails_ends_its_run_and_says_so() -> None:
    world = World()
    world.ask("c1", PREPARED, text="hi")
    (failed,) = world.result(StepPrepared("c1-1-p", failure="it raised"))
    assert isinstance(failed, RunFailed)
    assert failed.problem.kind == "definition"
    world.verified()


def test_the_end_is_told_until_it_is_known_to_have_been() -> None:
    world = World()
    world.ask("c1", replace(PROFILE, observed=True), text="hi")
    world.ask("c2", text="and then?")
    events = world.result(said("c1-1-m", "hello"))
    assert tags(events)[0] == "run.finished"
    assert set(world.open) == {"c1-h", "c2-1-m"}
    world.crash()
    assert set(world.open) == {"c1-h", "c2-1-m"}
    assert isinstance(world.open["c1-h"], TellEnd)
    assert world.result(HooksTold("c1-h")) == []
    world.crash()
    assert list(world.open) == ["c2-1-m"]
    world.verified()


def test_what_an_agent_says_before_its_tools_is_what_is_called_asked_about_and_read() -> None:
    world = World()
    world.ask("c1", text="hi")
    said_of = (
        Judgement(0, approval=False, arguments='{"a":2}'),
        Judgement(1, approval=False, answer="known already"),
        Judgement(2, approval=False, problem="not on Sundays"),
        Judgement(3, approval=True, arguments='{"a":3}'),
    )
    wanted = [call(1), call(2, "mail"), call(3, "mail"), call(4, "pay")]
    events = world.result(replace(said("c1-1-m", "", wanted), judged=said_of))
    (begun,) = (event for event in events if isinstance(event, ToolCalled))
    assert (begun.call.name, begun.call.arguments) == ("add", '{"a":2}')
    (answered,) = (event for event in events if isinstance(event, ToolReturned))
    assert (answered.call_id, answered.content) == ("call-2", "known already")
    (refused,) = (event for event in events if isinstance(event, ToolFailed))
    assert refused.content == "error: not on Sundays"
    (asked,) = (event for event in events if isinstance(event, ApprovalRequested))
    assert asked.call.arguments == '{"a":3}'
    world.crash()
    assert set(world.open) == {"c1-1-t0"}
    assert [(item.call.name, item.returned) for item in world.state.runs["c1"].pending if item.result] == [
        ("mail", True),
        ("mail", False),
    ]
    world.verified()


def opened(world: World, step: int) -> PrepareStep:
    effect = world.open[f"c1-{step}-p"]
    assert isinstance(effect, PrepareStep)
    return effect


def second_step() -> World:
    world = World()
    world.ask("c1", PREPARED, text="hi", context={"user": "ann"})
    world.result(StepPrepared("c1-1-p"))
    world.result(said("c1-1-m", "let me see", [call(1)]))
    returned(world, "c1-1-t0", "4")
    return world


@pytest.mark.anyio
async def test_what_the_functions_see_and_say_is_recorded() -> None:
    seen: list[StepView] = []

    def prepare(view: StepView) -> StepChanges:
        return StepChanges(model="big" if view.calls else None, active_tools=["add"])

    async def enough(view: StepView) -> bool:
        return view.step > 2

    hooks = Agent("a", "", prepare_step=prepare, stop_when=enough, on_step=seen.append).hooks
    event = await prepared(hooks, opened(second_step(), 2), "t1")
    assert event == StepPrepared("c1-2-p", model="big", active_tools=("add",))
    (view,) = seen
    assert (view.step, view.text, view.thread, dict(view.context)) == (2, "let me see", "t1", {"user": "ann"})
    assert [(done.call.name, done.result, done.returned) for done in view.calls] == [("add", "4", True)]
    stopping = Agent("a", "", stop_when=[lambda view: False, enough]).hooks
    assert (await prepared(stopping, replace(opened(second_step(), 2), step=3), "t1")).stop == "enough"


@pytest.mark.anyio
async def test_what_a_function_raises_is_the_runs_failure_and_an_observers_is_nobodys() -> None:
    def broken(view: Any) -> Any:
        raise ValueError("so odd")

    event = await prepared(Agent("a", "", prepare_step=broken).hooks, opened(second_step(), 2), "t1")
    assert "ValueError: so odd" in event.failure
    event = await prepared(Agent("a", "", on_step=broken).hooks, opened(second_step(), 2), "t1")
    assert event == StepPrepared("c1-2-p")
    wrong = Agent("a", "", prepare_step=lambda view: "big").hooks  # type: ignore[arg-type,return-value]
    assert "StepChanges" in (await prepared(wrong, opened(second_step(), 2), "t1")).failure


@pytest.mark.anyio
async def test_the_observer_that_fits_is_told_of_the_end() -> None:
    ends: list[tuple[str, RunEnd]] = []
    agent = Agent(
        "a",
        "",
        on_finish=lambda end: ends.append(("finish", end)),
        on_error=lambda end: ends.append(("error", end)),
    )
    world = World()
    world.ask("c1", replace(PROFILE, observed=True), text="hi")
    world.result(said("c1-1-m", "hello"))
    effect = world.open["c1-h"]
    assert isinstance(effect, TellEnd)
    assert await told(agent.hooks, effect, "t1") == HooksTold("c1-h")
    ((name, end),) = ends
    assert (name, end.text, end.problem, end.usage.prompt_tokens) == ("finish", "hello", None, 3)


@pytest.mark.anyio
async def test_the_last_step_is_told_too_and_none_twice() -> None:
    seen: list[tuple[int, str]] = []
    agent = Agent("a", "", on_step=lambda view: seen.append((view.step, view.text)), stop_when=lambda view: True)
    assert agent.hooks.observes
    profile = replace(PREPARED, observed=True)
    world = World()
    world.ask("c1", profile, text="hi")
    world.result(StepPrepared("c1-1-p"))
    world.result(said("c1-1-m", "hello"))
    ended = world.open["c1-h"]
    assert isinstance(ended, TellEnd)
    await told(agent.hooks, ended, "t1")
    assert seen == [(2, "hello")]
    # one that a condition ended was told of its last step when that was asked; one that failed has none
    for how in (StepPrepared("c1-2-p", stop="enough"), StepPrepared("c1-2-p", failure="no")):
        world = World()
        world.ask("c1", profile, text="hi")
        world.result(StepPrepared("c1-1-p"))
        world.result(said("c1-1-m", "let me see", [call(1)]))
        returned(world, "c1-1-t0", "4")
        world.result(how)
        ended = world.open["c1-h"]
        assert isinstance(ended, TellEnd)
        await told(agent.hooks, ended, "t1")
    assert len(seen) == 1


def test_a_number_that_makes_no_sense_is_refused_where_the_agent_is_defined() -> None:
    for number in ("tool_concurrency", "step_timeout_s", "most_tokens"):
        with pytest.raises(DefinitionError, match=number):
            Agent("a", "", **{number: -1})  # type: ignore[arg-type]


def test_a_call_that_runs_is_none_of_the_next_steps() -> None:
    assert not any(isinstance(effect, CallTool) for effect in second_step().open.values())
