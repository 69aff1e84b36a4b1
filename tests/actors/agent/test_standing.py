"""What stands in a thread, pure: modes from step to step, and agreements beforehand."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from actors.agent.definition import Agent
from actors.agent.effects import CallModel
from actors.agent.loop import ConversationMachine
from actors.agent.modes import Mode
from actors.agent.profiles import Unresolved, profile_of, tools_of
from actors.agent.standing import Grant
from actors.built_in.planning import submit_plan, switch_mode
from actors.errors import DefinitionError
from actors.models.asking import missing_model
from actors.runtime.machine import Asked
from actors.tools import ToolContext, tool
from actors.toolsets import Surroundings
from schemas.commands import Approve, Command, RunAgent
from schemas.context import Context
from schemas.forks import Fork, Past
from schemas.memory import CreateThread, DeleteThread, MemoryWrite
from schemas.messages import ToolSpec
from schemas.profiles import ModePlan, Profile, Retries, ToolBinding
from schemas.runs import ApprovalRequested, CommandRefused, ModelFailed, Problem, RetryDue, ToolFailed, ToolReturned
from schemas.standing import MOST_GRANTS, GrantTool, ModeChanged, SetMode, ToolGranted, WithdrawGrant
from schemas.tasks import TaskEnded
from tests.actors.agent.test_loop import PROFILE, World, call, returned, said, tags

pytestmark = pytest.mark.anyio

MODES = (ModePlan("plan", "Only plan.", ("add",), "thinker"), ModePlan("build"))
MODAL = replace(PROFILE, instructions="Help.", modes=MODES)
ASKING = replace(PROFILE, tools=(ToolBinding("write", "once", "d", approval=True, grantable=True), *PROFILE.tools))


def asked(world: World) -> CallModel:
    (effect,) = world.open.values()
    assert isinstance(effect, CallModel)
    return effect


def shown(world: World) -> tuple[str, str, list[str]]:
    profile = asked(world).profile
    return profile.model, profile.instructions, [one.name for one in profile.tools]


def refusal(events: list[Any]) -> Problem:
    (refused,) = events
    assert isinstance(refused, CommandRefused)
    return refused.problem


PLANNING = ("thinker", "Help.\n\nOnly plan.", ["add"])
BUILDING = ("m", "Help.", ["add", "mail", "pay"])


def test_a_thread_begins_in_the_first_mode_and_a_tool_goes_over_to_another_from_the_next_step() -> None:
    world = World()
    world.ask("c1", MODAL, text="hi")
    assert shown(world) == PLANNING
    world.result(said("c1-1-m", "", [call(1), call(2, "mail")]))
    assert "no tool named 'mail' (tools: add)" in world.events(ToolFailed)[0].content
    events = world.result(ToolReturned("c1-1-t0", "call-1", "ok", (MemoryWrite("", "build", "mode"),)))
    assert tags(events) == ["mode.changed", "model.called"]
    assert shown(world) == BUILDING
    world.crash()
    assert shown(world) == BUILDING
    world.result(said("c1-2-m", "built"))
    world.ask("c2", MODAL, text="and now?")
    assert shown(world) == BUILDING
    world.verified()


def test_a_client_changes_the_mode_of_a_step_that_is_to_come_and_of_none_under_way() -> None:
    world = World()
    world.ask("c1", replace(MODAL, retries=Retries(most=1)), text="hi")
    assert tags(world.settle("m1", SetMode("build"))) == ["command.accepted", "mode.changed"]
    world.crash()
    assert shown(world) == PLANNING
    world.result(ModelFailed("c1-1-m", Problem(kind="overloaded", message="busy")))
    (wait,) = world.open
    world.result(RetryDue(wait))
    assert shown(world) == PLANNING  # it is the same step
    world.result(said("c1-1-m2", "", [call(1)]))
    returned(world, "c1-1-t0")
    assert shown(world) == BUILDING
    world.verified()


def test_a_run_may_be_asked_for_in_a_mode() -> None:
    world = World()
    assert "mode.changed" in tags(world.ask("c1", MODAL, text="hi", mode="build"))
    assert shown(world) == BUILDING
    world.result(said("c1-1-m", "hello"))
    assert "mode.changed" not in tags(world.ask("c2", MODAL, text="hi", mode="build"))
    world.verified()


EDITOR = replace(MODAL, agent="editor", edition=2)
DEPLOYER = replace(EDITOR, agent="deployer")


def test_an_agent_that_goes_over_to_a_mode_leaves_others_in_theirs() -> None:
    world = World()
    bill = ToolBinding("bill", "pure", "d6", place="handoff", spec=ToolSpec("bill"), service="deployer")
    world.ask("c1", replace(EDITOR, tools=(*EDITOR.tools, bill)), text="hi")
    world.result(said("c1-1-m", "", [call(1)]))
    world.result(ToolReturned("c1-1-t0", "call-1", "ok", (MemoryWrite("", "build", "mode"),)))
    assert shown(world)[:2] == BUILDING[:2]
    world.result(said("c1-2-m", "", [call(2, "bill")]))
    world.result(ToolReturned("c1-2-t0", "call-2", "it is deployer's", handover=DEPLOYER))
    assert shown(world) == PLANNING
    world.crash()
    assert shown(world) == PLANNING
    world.result(said("c1-3-m", "planned"))
    world.ask("c2", EDITOR, text="and now?")
    assert shown(world) == BUILDING
    world.result(said("c2-1-m", "built"))
    assert world.events(ModeChanged) == [ModeChanged("build", "", "editor")]
    world.verified()


def test_a_mode_that_a_run_is_asked_for_in_is_its_agents_and_one_that_a_person_sets_is_everybodys() -> None:
    world = World()
    world.ask("c1", EDITOR, text="hi", mode="build")
    world.result(said("c1-1-m", "built"))
    assert world.events(ModeChanged) == [ModeChanged("build", "", "editor")]
    world.ask("c2", DEPLOYER, text="hi")
    assert shown(world) == PLANNING
    world.result(said("c2-1-m", "planned"))
    for number, (mode, seen) in enumerate((("plan", PLANNING), ("build", BUILDING))):
        world.settle(f"m{number}", SetMode(mode))
        for profile in (EDITOR, DEPLOYER):
            run = f"r{number}{profile.agent}"
            world.ask(run, profile, text="hi")
            assert shown(world) == seen
            world.result(said(f"{run}-1-m", "said"))
    world.verified()


def test_a_task_in_the_background_goes_over_for_the_agent_that_began_it() -> None:
    world = World()
    dig = ToolBinding("dig", "once", "d7", background=True)
    bill = ToolBinding("bill", "pure", "d6", place="handoff", spec=ToolSpec("bill"), service="deployer")
    both = (ModePlan("plan"), ModePlan("build"))
    world.ask("c1", replace(EDITOR, tools=(dig, bill), modes=both), text="hi")
    world.result(said("c1-1-m", "", [call(1, "dig"), call(2, "bill")]))
    world.result(ToolReturned("c1-1-t1", "call-2", "it is deployer's", handover=DEPLOYER))
    world.result(TaskEnded("c1-1-t0b", "returned", "gold", (MemoryWrite("", "build", "mode"),)))
    assert world.events(ModeChanged) == [ModeChanged("build", "", "editor")]
    world.verified()


def test_a_fork_right_behind_a_tool_goes_over_for_its_agent() -> None:
    world = World()
    world.ask("c1", EDITOR, text="hi")
    world.result(said("c1-1-m", "", [call(1)]))
    world.result(ToolReturned("c1-1-t0", "call-1", "ok", (MemoryWrite("", "build", "mode"),)))
    at = [item.type for item in world.log].index("tool.returned") + 1
    history = tuple(Past(item.kind, item.entity, msgspec.json.decode(item.payload)) for item in world.log[:at])  # type: ignore[arg-type]
    data = Fork(origin="t1", at=at, history=history, run="c1")
    machine = ConversationMachine()
    sent = Command("f1", "acme", "agent", "new", "fork", data)
    decision = machine.ask(machine.initial("acme", "new"), Asked(sent), Context(now=1, seed=7))
    changed = [emitted.event for emitted in decision.events if isinstance(emitted.event, ModeChanged)]
    assert changed == [ModeChanged("build", "", "editor")]


def test_a_mode_that_no_agent_of_the_thread_has_is_refused() -> None:
    world = World()
    assert refusal(world.settle("m0", SetMode("build"))).kind == "unknown_thread"
    world.settle("m1", CreateThread())
    assert tags(world.settle("m2", SetMode("anything"))) == ["command.accepted", "mode.changed"]
    world.ask("c1", MODAL, text="hi")
    assert shown(world) == PLANNING  # of a name that it does not have, the first one
    assert "modes: plan, build" in refusal(world.settle("m3", SetMode("dance"))).message
    world.verified()


def test_a_fork_keeps_mode_and_grants() -> None:
    world = World()
    world.ask("c1", MODAL, text="hi")
    world.settle("m1", SetMode("build"))
    world.settle("m2", GrantTool("write"))
    state = world.refolded().standing
    assert (state.mode, state.grants) == ("build", ("write",))
    world.settle("d1", DeleteThread())
    assert world.state.standing == ConversationMachine().initial("acme", "t1").standing


def wished(world: World, run: str, name: str = "write", *, clients: str = "ask") -> list[str]:
    world.ask(run, ASKING, text="write", approvals=clients)
    return tags(world.result(said(f"{run}-1-m", "", [call(1, name)])))


def ran(world: World, run: str, profile: Profile) -> list[str]:
    world.ask(run, profile, text="write")
    return tags(world.result(said(f"{run}-1-m", "", [call(1, "write")])))


def over(world: World, run: str) -> None:
    returned(world, f"{run}-1-t0")
    world.result(said(f"{run}-2-m", "written"))


def test_an_agreement_for_good_lets_further_calls_of_the_tool_run() -> None:
    world = World()
    assert wished(world, "c1") == ["approval.requested"]
    events = world.settle("a1", Approve("c1-1-t0", always=True))
    assert tags(events) == ["command.accepted", "approval.given", "tool.granted", "tool.called"]
    assert world.events(ToolGranted) == [ToolGranted("write", "cli")]
    world.crash()
    returned(world, "c1-1-t0")
    world.result(said("c1-2-m", "written"))
    assert wished(world, "c2", clients="refuse") == ["tool.called"]
    returned(world, "c2-1-t0")
    world.result(said("c2-2-m", "written"))
    assert tags(world.settle("a2", WithdrawGrant("write"))) == ["command.accepted", "grant.withdrawn"]
    assert wished(world, "c3") == ["approval.requested"]
    world.verified()


def test_an_agreement_for_good_is_of_one_agents_tool_as_it_is() -> None:
    world = World()
    mine = replace(ASKING, edition=2)
    changed = replace(mine, tools=(replace(mine.tools[0], digest="d9"), *PROFILE.tools))
    theirs = replace(mine, agent="billing")
    assert ran(world, "c1", mine) == ["approval.requested"]
    world.settle("a1", Approve("c1-1-t0", always=True))
    assert world.events(ToolGranted) == [ToolGranted("write", "cli", "demo", "d")]
    over(world, "c1")
    assert ran(world, "c2", mine) == ["tool.called"]
    over(world, "c2")
    for run, profile in (("c3", theirs), ("c4", changed)):
        assert ran(world, run, profile) == ["approval.requested"]
        world.settle(f"a{run}", Approve(f"{run}-1-t0", always=True))
        over(world, run)
    for run, profile in (("c5", theirs), ("c6", changed)):
        assert ran(world, run, profile) == ["tool.called"]
        over(world, run)
    assert world.state.standing.granted == (Grant("write", "billing", "d"), Grant("write", "demo", "d9"))
    assert world.state.standing.grants == ("write",)
    world.settle("w1", WithdrawGrant("write"))
    assert ran(world, "c7", theirs) == ["approval.requested"]
    world.verified()


def test_what_is_granted_beforehand_is_any_agents() -> None:
    world = World()
    world.settle("m1", CreateThread())
    world.settle("g1", GrantTool("write"))
    for run, agent in (("c1", "demo"), ("c2", "billing")):
        assert ran(world, run, replace(ASKING, agent=agent, edition=2)) == ["tool.called"]
        over(world, run)
    world.verified()


def test_who_the_thread_is_handed_to_is_asked_about() -> None:
    world = World()
    bill = ToolBinding("bill", "pure", "d6", place="handoff", spec=ToolSpec("bill"), service="billing")
    mine = replace(ASKING, tools=(*ASKING.tools, bill), edition=2)
    assert ran(world, "c1", mine) == ["approval.requested"]
    world.settle("a1", Approve("c1-1-t0", always=True))
    returned(world, "c1-1-t0")
    world.result(said("c1-2-m", "", [call(2, "bill")]))
    handover = replace(ASKING, agent="billing", edition=2)
    world.result(ToolReturned("c1-2-t0", "call-2", "it is billing's", handover=handover))
    assert tags(world.result(said("c1-3-m", "", [call(3, "write")]))) == ["approval.requested"]
    world.verified()


def test_what_its_author_wants_asked_each_time_is_not_granted() -> None:
    world = World()
    assert wished(world, "c1", "pay") == ["approval.requested"]
    problem = refusal(world.settle("a1", Approve("c1-1-t0", always=True)))
    assert (problem.field, "'pay'" in problem.message) == ("always", True)
    world.settle("g1", GrantTool("*"))
    world.settle("a2", Approve("c1-1-t0"))
    returned(world, "c1-1-t0")
    world.result(said("c1-2-m", "paid"))
    assert wished(world, "c2", "pay") == ["approval.requested"]
    assert len(world.events(ApprovalRequested)) == 2
    world.verified()


def test_a_pattern_may_be_granted_before_anything_is_called() -> None:
    world = World()
    world.settle("m1", CreateThread())
    world.settle("g1", GrantTool("wr*"))
    assert wished(world, "c1") == ["tool.called"]
    assert "granted: 'wr*'" in refusal(world.settle("g2", WithdrawGrant("write"))).message
    world.verified()


def test_a_thread_has_no_more_grants_than_can_be_looked_at() -> None:
    world = World()
    world.settle("m1", CreateThread())
    for number in range(MOST_GRANTS):
        world.settle(f"g{number}", GrantTool(f"t{number}"))
    assert "withdraw some" in refusal(world.settle("gx", GrantTool("one_more"))).message
    assert tags(world.settle("gy", GrantTool("t1"))) == ["command.accepted", "tool.granted"]


@tool(effect="pure")
def read_file() -> str:
    """Read."""
    return ""


def agent(**more: Any) -> Agent:
    modes = (Mode("plan", "Only plan.", ["read_*"], "thinker"), Mode("build", description="Do it."))
    return Agent("a", "Help.", "m", tools=[read_file, submit_plan("build"), switch_mode(modes)], modes=modes, **more)


async def test_what_a_run_records_of_its_agents_modes() -> None:
    profile = await profile_of(agent(), RunAgent(agent="a"), Surroundings(), "m")
    assert profile.modes == (ModePlan("plan", "Only plan.", ("read_file",), "thinker"), ModePlan("build"))
    named = await profile_of(agent(), RunAgent(agent="a", model="other"), Surroundings(), "m")
    assert [mode.model for mode in named.modes] == ["", ""]
    missing = missing_model(profile, {"m": None})  # type: ignore[dict-item]
    assert missing is not None
    assert "'thinker'" in missing.message
    with pytest.raises(Unresolved, match=r"no mode 'dance' \(modes: plan, build\)"):
        await profile_of(agent(), RunAgent(agent="a", mode="dance"), Surroundings(), "m")


async def test_the_tools_that_change_the_mode_write_it_with_their_result() -> None:
    tools = {one.name: one for one in await tools_of(agent(), Surroundings(), None)}
    context = ToolContext("acme", "t1", "k", 0, {})
    await tools["submit_plan"].call('{"title": "Shed", "plan": "1. Build it."}', context)
    assert context.writes == [MemoryWrite("plan", "# Shed\n\n1. Build it."), MemoryWrite("", "build", "mode")]
    assert tools["submit_plan"].approval is True
    assert tools["switch_mode"].parameters["properties"]["mode"]["enum"] == ["plan", "build"]
    with pytest.raises(ValueError, match="modes: plan, build"):
        await tools["switch_mode"].call('{"mode": "dance"}', context)
    await tools["switch_mode"].call('{"mode": "plan"}', context)
    assert context.writes[-1] == MemoryWrite("", "plan", "mode")


def test_modes_that_cannot_be_are_refused_where_they_are_defined() -> None:
    for made, why in (
        (lambda: Mode("Plan"), "lower-case"),
        (lambda: Mode("plan", tools="read"), "list of names"),
        (lambda: Agent("a", "", modes=[Mode("x"), Mode("x")]), "two modes"),
        (lambda: switch_mode([]), "give the modes"),
    ):
        with pytest.raises(DefinitionError, match=why):
            made()
