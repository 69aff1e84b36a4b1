"""Calls that wait for somebody: for data, or for the caller to run them; and how many run at once."""

from __future__ import annotations

from msgspec.structs import replace

from actors.agent.effects import CallTool
from actors.agent.wishes import waiting
from schemas import codec
from schemas.commands import Approve, Deny, PostResult, Resume
from schemas.messages import ToolSpec, misplaced_in
from schemas.profiles import ToolBinding
from schemas.runs import CommandRefused, RunFinished, ToolCalled, ToolFailed, ToolReturned
from schemas.waits import ToolContinued, ToolHandedOver, ToolSuspended
from tests.actors.agent.test_loop import PROFILE, World, call, returned, said, tags

WHERE = ToolBinding("where", "once", "d4", place="client", spec=ToolSpec("where", "Tell where you are."))
CLIENT = replace(PROFILE, tools=(*PROFILE.tools, WHERE))


def suspended(world: World, effect: str, payload: object = "which?", problem: str = "") -> list[object]:
    called = world.open[effect]
    assert isinstance(called, CallTool)
    schema = {"type": "object"}
    return list(world.result(ToolSuspended(effect, called.called.call.id, payload, schema, problem)))


def asked_for_mail() -> World:
    world = World()
    world.ask("c1", text="send it")
    world.result(said("c1-1-m", "", [call(1, "mail"), call(2)]))
    return world


def test_a_suspended_call_waits_and_goes_on_with_what_it_is_given() -> None:
    world = asked_for_mail()
    assert suspended(world, "c1-1-t0") == []
    assert [item.waits for item in waiting(world.state)] == ["data"]
    returned(world, "c1-1-t1", "second")
    assert not world.open
    events = world.settle("a1", Resume("c1-1-t0", {"to": "ann"}))
    assert tags(events) == ["command.accepted", "tool.continued", "tool.called"]
    again = world.open["c1-1-t0s1"]
    assert isinstance(again, CallTool)
    assert again.answers == ({"to": "ann"},)
    assert tags(returned(world, "c1-1-t0s1", "first")) == ["model.called"]
    assert [message.content for message in world.state.messages if message.role == "tool"] == ["first", "second"]
    assert misplaced_in(world.state.messages) is None
    world.verified()


def test_a_call_may_ask_again_and_an_answer_to_the_first_question_is_none_to_the_second() -> None:
    world = asked_for_mail()
    suspended(world, "c1-1-t0")
    world.settle("a1", Resume("c1-1-t0", "ann"))
    suspended(world, "c1-1-t0s1", problem="Expected `object`")
    (refused,) = world.settle("a2", Resume("c1-1-t0", {"to": "ann"}))
    assert isinstance(refused, CommandRefused)
    assert "'c1-1-t0s1'" in refused.problem.message
    world.settle("a3", Resume("c1-1-t0s1", {"to": "ann"}))
    again = world.open["c1-1-t0s2"]
    assert isinstance(again, CallTool)
    assert again.answers == ("ann", {"to": "ann"})
    world.verified()


def test_a_suspension_survives_a_crash_at_every_moment() -> None:
    world = asked_for_mail()
    suspended(world, "c1-1-t0")
    world.crash()
    assert list(world.open) == ["c1-1-t1"]
    world.settle("a1", Resume("c1-1-t0", 5))
    world.crash()
    again = world.open["c1-1-t0s1"]
    assert isinstance(again, CallTool)
    assert again.answers == (5,)
    returned(world, "c1-1-t0s1")
    returned(world, "c1-1-t1")
    assert list(world.open) == ["c1-2-m"]
    world.verified()


def test_where_nobody_can_be_asked_a_tool_that_asks_fails() -> None:
    world = World()
    world.ask("c1", text="send it", approvals="refuse")
    world.result(said("c1-1-m", "", [call(1, "mail")]))
    events = suspended(world, "c1-1-t0")
    assert isinstance(events[0], ToolFailed)
    assert not waiting(world.state)
    assert list(world.open) == ["c1-2-m"]
    world.verified()


def test_a_tool_of_the_callers_is_handed_over_and_its_result_posted() -> None:
    world = World()
    world.ask("c1", CLIENT, text="where am I?")
    assert tags(world.result(said("c1-1-m", "", [call(1, "where"), call(2)]))) == ["tool.handed_over", "tool.called"]
    (handed,) = world.events(ToolHandedOver)
    assert handed.call.name == "where"
    assert list(world.open) == ["c1-1-t1"]
    returned(world, "c1-1-t1")
    world.crash()
    assert not world.open
    events = world.settle("r1", PostResult("c1-1-t0", "at home"))
    assert tags(events) == ["command.accepted", "tool.returned", "model.called"]
    assert next(m.content for m in world.state.messages if m.role == "tool") == "at home"
    (refused,) = world.settle("r2", PostResult("c1-1-t0", "elsewhere"))
    assert isinstance(refused, CommandRefused)
    assert refused.problem.field == "effect"
    world.verified()


def test_a_caller_may_say_why_there_is_no_result() -> None:
    world = World()
    world.ask("c1", CLIENT, text="where am I?")
    world.result(said("c1-1-m", "", [call(1, "where")]))
    events = world.settle("r1", PostResult("c1-1-t0", error="no permission"))
    assert isinstance(events[1], ToolFailed)
    assert events[1].content == "error: no permission"
    world.verified()


def test_a_tool_of_the_callers_may_need_approval_first() -> None:
    careful = replace(CLIENT, tools=(replace(WHERE, approval=True),))
    world = World()
    world.ask("c1", careful, text="where am I?")
    assert tags(world.result(said("c1-1-m", "", [call(1, "where")]))) == ["approval.requested"]
    (refused,) = world.settle("r1", PostResult("c1-1-t0", "at home"))
    assert isinstance(refused, CommandRefused)
    assert tags(world.settle("a1", Approve("c1-1-t0"))) == ["command.accepted", "approval.given", "tool.handed_over"]
    world.settle("r2", PostResult("c1-1-t0", "at home"))
    world.result(said("c1-2-m", "at home"))
    world.verified()


def test_an_agreement_to_other_arguments_is_refused_and_nothing_is_called() -> None:
    world = World()
    world.ask("c1", text="pay it")
    world.result(said("c1-1-m", "", [replace(call(1, "pay"), arguments='{"amount": 5}')]))
    (refused,) = world.settle("a1", Approve("c1-1-t0", arguments='{"amount": 500}'))
    assert isinstance(refused, CommandRefused)
    assert refused.problem.field == "arguments"
    assert not world.events(ToolCalled)
    world.settle("a2", Approve("c1-1-t0", arguments='{"amount": 5}'))
    assert len(world.events(ToolCalled)) == 1
    world.verified()


def test_no_more_tools_run_at_once_than_the_run_allows() -> None:
    world = World()
    world.ask("c1", replace(PROFILE, tool_concurrency=2), text="add up")
    world.result(said("c1-1-m", "", [call(n) for n in range(5)]))
    assert list(world.open) == ["c1-1-t0", "c1-1-t1"]
    world.crash()
    assert list(world.open) == ["c1-1-t0", "c1-1-t1"]
    returned(world, "c1-1-t1")
    assert list(world.open) == ["c1-1-t0", "c1-1-t2"]
    for n in (0, 2, 3, 4):
        returned(world, f"c1-1-t{n}", str(n))
    assert list(world.open) == ["c1-2-m"]
    contents = [message.content for message in world.state.messages if message.role == "tool"]
    assert contents == ["0", "ok", "2", "3", "4"]
    world.verified()


def test_what_waits_for_somebody_leaves_room_for_what_runs() -> None:
    world = World()
    world.ask("c1", replace(CLIENT, tool_concurrency=1), text="go")
    world.result(said("c1-1-m", "", [call(1, "pay"), call(2, "where"), call(3), call(4)]))
    assert list(world.open) == ["c1-1-t2"]
    suspended(world, "c1-1-t2")
    assert list(world.open) == ["c1-1-t3"]
    assert [item.waits for item in waiting(world.state)] == ["approval", "caller", "data"]
    world.settle("d", Deny("c1-1-t0"))
    world.settle("r", PostResult("c1-1-t1", "home"))
    world.settle("g", Resume("c1-1-t2", 1))
    returned(world, "c1-1-t3")
    returned(world, "c1-1-t2s1")
    assert list(world.open) == ["c1-2-m"]
    world.verified()


def test_a_run_is_over_once_a_tool_that_ends_it_has_returned() -> None:
    ending = replace(PROFILE, stop_tools=("mail",))
    world = World()
    world.ask("c1", ending, text="send it")
    world.result(said("c1-1-m", "I send it", [call(1, "mail"), call(2)]))
    returned(world, "c1-1-t0")
    (finished,) = returned(world, "c1-1-t1")
    assert isinstance(finished, RunFinished)
    assert (finished.text, finished.stopped_by) == ("I send it", "tool mail")
    assert misplaced_in(world.state.messages) is None
    world.verified()


def test_a_tool_that_would_end_the_run_and_failed_does_not() -> None:
    world = World()
    world.ask("c1", replace(PROFILE, stop_tools=("mail",)), text="send it")
    world.result(said("c1-1-m", "", [call(1, "mail")]))
    assert tags(world.result(ToolFailed("c1-1-t0", "call-1", "error: no"))) == ["model.called"]
    world.verified()


def test_a_run_that_has_used_its_tokens_begins_no_further_step() -> None:
    world = World()
    world.ask("c1", replace(PROFILE, most_tokens=10), text="go")
    world.result(said("c1-1-m", "", [call(1)]))
    assert tags(returned(world, "c1-1-t0")) == ["model.called"]
    world.result(said("c1-2-m", "so far", [call(1)]))
    (finished,) = returned(world, "c1-2-t0")
    assert isinstance(finished, RunFinished)
    assert (finished.text, finished.stopped_by) == ("so far", "tokens")
    world.verified()


def test_a_context_that_is_too_large_is_refused() -> None:
    for context in ({"a": "x" * 20_000}, {str(n): n for n in range(65)}):
        world = World()
        (refused,) = world.ask("c1", text="hi", context=context)
        assert isinstance(refused, CommandRefused)
        assert refused.problem.field == "context"
        world.verified()


def test_the_context_of_a_request_goes_along_with_its_calls() -> None:
    world = World()
    world.ask("c1", text="hi", context={"user": "ann"})
    world.result(said("c1-1-m", "", [call(1)]))
    effect = world.open["c1-1-t0"]
    assert isinstance(effect, CallTool)
    assert effect.context == {"user": "ann"}
    world.crash()
    effect = world.open["c1-1-t0"]
    assert isinstance(effect, CallTool)
    assert effect.context == {"user": "ann"}


def test_what_was_waited_for_is_in_the_record_by_its_names() -> None:
    world = asked_for_mail()
    suspended(world, "c1-1-t0")
    world.settle("a1", Resume("c1-1-t0", [1]))
    (continued,) = world.events(ToolContinued)
    assert (continued.by, continued.answer) == ("cli", [1])
    assert [event.effect for event in world.events(ToolCalled)] == ["c1-1-t0", "c1-1-t1", "c1-1-t0s1"]
    assert not world.events(ToolReturned)
    assert codec.tag(continued) == "tool.continued"


def test_a_run_may_take_the_place_of_the_one_under_way_before_any_that_waits() -> None:
    world = World()
    world.ask("c1", text="send it")
    world.ask("c2", text="and then?")
    world.result(said("c1-1-m", "", [call(1, "mail"), call(2)]))
    events = world.ask("c3", text="no, stop", when_busy="replace")
    assert tags(events)[-4:] == ["run.failed", "message.added", "run.started", "model.called"]
    assert list(world.open) == ["c3-1-m"]
    world.result(said("c3-1-m", "stopped"))
    assert list(world.open) == ["c2-1-m"]
    assert misplaced_in(world.state.messages) is None
    world.verified()
