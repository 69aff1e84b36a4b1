"""Tools that a person must agree to: the call waits in the log, one answer counts, and a crash changes nothing."""

from __future__ import annotations

from msgspec.structs import replace

from actors.agent.effects import CallTool
from actors.agent.wishes import waiting
from schemas import codec
from schemas.commands import Approve, Deny
from schemas.messages import misplaced_in
from schemas.profiles import ToolBinding
from schemas.runs import ApprovalRequested, CommandRefused, RunFinished, ToolFailed
from tests.actors.agent.test_loop import PROFILE, World, call, returned, said

CAREFUL = replace(PROFILE, tools=(PROFILE.tools[0], ToolBinding("mail", "once", "d2", approval=True)))


def asked_for_mail() -> World:
    world = World()
    world.ask("c1", profile=CAREFUL, text="send it")
    world.result(said("c1-1-m", "", [call(1, "mail"), call(2)]))
    return world


def test_a_tool_that_needs_approval_is_not_called_and_its_neighbour_is() -> None:
    world = asked_for_mail()
    (requested,) = world.events(ApprovalRequested)
    assert requested.effect == "c1-1-t0"
    assert list(world.open) == ["c1-1-t1"]
    assert returned(world, "c1-1-t1") == []
    assert [item.effect for item in waiting(world.state)] == ["c1-1-t0"]
    world.verified()


def test_once_approved_the_tool_is_called_and_the_run_goes_on() -> None:
    world = asked_for_mail()
    returned(world, "c1-1-t1", "second")
    events = world.settle("a1", Approve("c1-1-t0"))
    assert [codec.tag(event) for event in events] == ["command.accepted", "approval.given", "tool.called"]
    assert isinstance(world.open["c1-1-t0"], CallTool)
    returned(world, "c1-1-t0", "first")
    assert [message.content for message in world.state.messages if message.role == "tool"] == ["first", "second"]
    assert isinstance(world.result(said("c1-2-m", "sent"))[0], RunFinished)
    world.verified()


def test_a_refusal_is_what_the_model_reads_in_place_of_a_result() -> None:
    world = asked_for_mail()
    returned(world, "c1-1-t1")
    events = world.settle("a1", Deny("c1-1-t0", reason="too dear"))
    assert [codec.tag(event) for event in events] == [
        "command.accepted",
        "approval.denied",
        "tool.failed",
        "model.called",
    ]
    assert next(m.content for m in world.state.messages if m.role == "tool").endswith("not approved: too dear")
    assert misplaced_in(world.state.messages) is None
    assert "c1-1-t0" not in world.begun
    world.verified()


def test_an_approval_is_decided_once() -> None:
    world = asked_for_mail()
    world.settle("a1", Approve("c1-1-t0"))
    (refused,) = world.settle("a2", Deny("c1-1-t0"))
    assert isinstance(refused, CommandRefused)
    assert refused.problem.field == "effect"
    assert world.settle("a1", Approve("c1-1-t0")) == []
    assert world.begun["c1-1-t0"] == 1
    world.verified()


def test_an_answer_to_nothing_names_what_waits() -> None:
    world = asked_for_mail()
    (refused,) = world.settle("a1", Approve("c1-9-t9"))
    assert isinstance(refused, CommandRefused)
    assert "c1-1-t0" in refused.problem.message
    (refused,) = World().settle("a1", Approve("c1-1-t0"))
    assert isinstance(refused, CommandRefused)
    world.verified()


def test_after_a_crash_the_call_still_waits_and_is_not_begun() -> None:
    world = asked_for_mail()
    world.crash()
    assert list(world.open) == ["c1-1-t1"]
    returned(world, "c1-1-t1")
    world.crash()
    assert not world.open
    world.settle("a1", Approve("c1-1-t0"))
    world.crash()
    assert list(world.open) == ["c1-1-t0"]
    assert not waiting(world.state)
    returned(world, "c1-1-t0")
    assert list(world.open) == ["c1-2-m"]
    world.verified()


def test_a_client_that_can_ask_nobody_has_the_model_told_so() -> None:
    world = World()
    world.ask("c1", profile=CAREFUL, text="send it", approvals="refuse")
    events = world.result(said("c1-1-m", "", [call(1, "mail")]))
    assert [codec.tag(event) for event in events] == ["tool.failed", "model.called"]
    assert isinstance(events[0], ToolFailed)
    assert "approval" in events[0].content
    assert not world.events(ApprovalRequested)
    world.verified()


def test_a_client_that_can_ask_nobody_is_not_queued_behind_a_call_that_waits() -> None:
    world = asked_for_mail()
    (refused,) = world.ask("c2", text="well?", approvals="refuse")
    assert isinstance(refused, CommandRefused)
    assert refused.problem.field == "thread"
    assert "'mail'" in refused.problem.message
    world.settle("a1", Deny("c1-1-t0"))
    assert [codec.tag(event) for event in world.ask("c3", text="now?", approvals="refuse")][1] == "run.queued"
    world.verified()


def test_the_next_run_waits_behind_one_that_waits_for_approval() -> None:
    world = asked_for_mail()
    returned(world, "c1-1-t1")
    assert [codec.tag(event) for event in world.ask("c2", text="well?")] == ["command.accepted", "run.queued"]
    world.settle("a1", Deny("c1-1-t0"))
    world.result(said("c1-2-m", "not sent"))
    assert list(world.open) == ["c2-1-m"]
    world.verified()
