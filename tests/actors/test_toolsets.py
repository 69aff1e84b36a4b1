"""Toolsets: wrappers around one another, and one contract for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from actors.agent.definition import Agent
from actors.agent.profiles import Unresolved, handed_over, profile_of
from actors.errors import DefinitionError, NoService
from actors.memory.embedding import WordEmbedder
from actors.processors.prompts import TokenLimiter
from actors.processors.recall import SemanticRecall
from actors.processors.texts import UnicodeNormalizer
from actors.request_context import RequestContext
from actors.tools import Tool, tool
from actors.toolsets import (
    Approval,
    Combined,
    Filtered,
    Fixed,
    Prefixed,
    Renamed,
    Services,
    Surroundings,
    Toolset,
    toolset_of,
)
from schemas.commands import Parent, RunAgent
from schemas.messages import ToolSpec

pytestmark = pytest.mark.anyio


@tool(effect="pure")
def look() -> str:
    """Look."""
    return "seen"


@tool
def mail(to: str) -> str:
    """Mail."""
    return to


BOTH = Fixed((look, mail))
SETS: dict[str, Callable[[], Toolset]] = {
    "fixed": lambda: BOTH,
    "combined": lambda: Combined((Fixed((look,)), Fixed((mail,)))),
    "filtered": lambda: Filtered(BOTH, lambda tool: tool.effect == "pure"),
    "prefixed": lambda: Prefixed(BOTH, "a_"),
    "renamed": lambda: Renamed(BOTH, {"look": "see"}),
    "approval": lambda: Approval(BOTH),
}
NAMES = {
    "fixed": ["look", "mail"],
    "combined": ["look", "mail"],
    "filtered": ["look"],
    "prefixed": ["a_look", "a_mail"],
    "renamed": ["see", "mail"],
    "approval": ["look", "mail"],
}


@pytest.mark.parametrize("name", SETS)
async def test_a_toolset_gives_the_same_tools_whenever_it_is_asked(name: str) -> None:
    made = SETS[name]()
    found = await made.tools(Surroundings())
    assert isinstance(made, Toolset)
    assert [tool.name for tool in found] == NAMES[name]
    assert [tool.binding for tool in await made.tools(Surroundings())] == [tool.binding for tool in found]


async def test_what_a_wrapper_changes_is_part_of_what_a_run_records() -> None:
    plain, careful = await BOTH.tools(Surroundings()), await Approval(BOTH).tools(Surroundings())
    assert [tool.binding.approval for tool in (*plain, *careful)] == [False, False, True, True]
    (some, _) = await Approval(BOTH, lambda to: to == "boss").tools(Surroundings())
    assert some.binding.approval


async def test_one_name_stands_for_one_tool() -> None:
    for made in (Combined((BOTH, BOTH)), Renamed(BOTH, {"look": "mail"})):
        with pytest.raises(DefinitionError, match=r"'(look|mail)'"):
            await made.tools(Surroundings())
    with pytest.raises(DefinitionError, match="'look'"):
        Agent("a", "", tools=[look, look])


def test_what_is_no_tool_is_refused_where_the_agent_is_defined() -> None:
    with pytest.raises(DefinitionError, match="@tool"):
        Agent("a", "", tools=[len])  # type: ignore[list-item]


async def test_tools_and_toolsets_may_be_mixed() -> None:
    found = await toolset_of([look, Prefixed(Fixed((mail,)), "office_")]).tools(Surroundings())
    assert [tool.name for tool in found] == ["look", "office_mail"]


async def test_services_need_a_bus() -> None:
    with pytest.raises(NoService, match="weather"):
        await Services("weather").tools(Surroundings())


async def profile(agent: Agent, **data: Any) -> Any:
    command = RunAgent(agent=agent.name, **data)
    return await profile_of(agent, command, Surroundings(context=RequestContext(command.context)), "m")


async def test_an_agents_tools_may_be_a_function_of_the_request() -> None:
    def tools(context: RequestContext) -> list[Tool | Toolset]:
        return [look, *([Prefixed(Fixed((mail,)), "office_")] if context.get("staff") else [])]

    agent = Agent("a", "", tools=tools)
    assert [tool.name for tool in (await profile(agent)).tools] == ["look"]
    staff = await profile(agent, context={"staff": True})
    assert [tool.name for tool in staff.tools] == ["look", "office_mail"]


@pytest.mark.parametrize("given", [None, look, 5, [len], [look, look]])
async def test_a_function_that_gives_no_tools_is_named(given: Any) -> None:
    with pytest.raises(Unresolved, match="agent 'a': `tools`"):
        await profile(Agent("a", "", tools=lambda context: given))


@pytest.mark.parametrize(
    ("field", "given", "why"),
    [
        ("memory", "all", "give a Memory or None"),
        ("processors", None, "give a list of processors"),
        ("processors", [len], "give a list of processors"),
        ("processors", [UnicodeNormalizer(), UnicodeNormalizer()], "two processors of one name"),
        ("processors", [SemanticRecall(WordEmbedder())], "one of the agent's own"),
    ],
)
async def test_a_function_that_gives_no_memory_or_processors_is_named(field: str, given: Any, why: str) -> None:
    functions: dict[str, Any] = {field: lambda context: given}
    with pytest.raises(Unresolved, match=why) as refused:
        await profile(Agent("a", "", **functions))
    assert refused.value.field == field
    with pytest.raises(Unresolved, match="ZeroDivisionError"):
        await profile(Agent("a", "", **{field: lambda context: 1 // 0}))


async def test_a_request_brings_tools_of_its_own_and_picks_among_all() -> None:
    agent = Agent("a", "", tools=[look, mail])
    where = ToolSpec("where", "Tell where you are.")
    made = await profile(agent, tools=(where,), active_tools=("where", "look"), tool="look")
    assert [(tool.name, tool.place) for tool in made.tools] == [("look", "here"), ("where", "client")]
    assert (made.calling.choice, made.calling.tool) == ("required", "look")
    for wrong in ({"tools": (ToolSpec("look"),)}, {"active_tools": ("nope",)}, {"tool": "nope"}):
        with pytest.raises(Unresolved):
            await profile(agent, **wrong)


GUARDED = Agent(
    "a",
    "Be good.",
    max_steps=4,
    most_tokens=100,
    most_cost=0.5,
    step_timeout_s=2,
    processors=[UnicodeNormalizer(), TokenLimiter()],
)
GUARDS = tuple(one.name for one in GUARDED.processors)  # type: ignore[union-attr]
LIFTED: dict[str, Any] = {
    "instructions": "Be evil.",
    "processors": GUARDS[:1],
    "max_steps": 5,
    "most_tokens": 0,
    "most_cost": 0.6,
    "step_timeout_ms": 0,
}


@pytest.mark.parametrize("field", LIFTED)
async def test_a_request_lifts_nothing_that_guards_an_agent(field: str) -> None:
    wanted = {field: LIFTED[field]}
    with pytest.raises(Unresolved, match=f"{field}: agent 'a' keeps its own") as refused:
        await profile(GUARDED, **wanted)
    assert refused.value.field == field
    opened = await profile(replace(GUARDED, open_to=[field]), **wanted)
    assert getattr(opened, field) == LIFTED[field]
    with pytest.raises(Unresolved, match="keeps its own"):  # whoever says that another run asks
        await profile(GUARDED, parent=Parent("t", "r", "e", 1), **wanted)


ASKING: dict[str, Any] = {
    "system": "Be kind.",
    "top_p": 0.5,
    "top_k": 3,
    "min_p": 0.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.3,
    "repetition_penalty": 1.1,
    "stop": ("END",),
    "reasoning_effort": "low",
}


@pytest.mark.parametrize("field", ASKING)
async def test_how_a_model_is_asked_is_a_request_s_to_say_where_the_agent_is_open_to_it(field: str) -> None:
    agent, wanted = Agent("a", "Be brief."), {field: ASKING[field]}
    with pytest.raises(Unresolved, match=f"{field}: agent 'a' keeps its own") as refused:
        await profile(agent, **wanted)
    assert (refused.value.field, refused.value.kind) == (field, "invalid")
    group: Any = field if field in {"system", "reasoning_effort"} else "sampling"
    assert f"has '{group}'" in str(refused.value)
    opened = await profile(replace(agent, open_to=[group]), **wanted)
    if field == "system":
        assert opened.instructions.startswith("Be brief.")
        assert opened.instructions.endswith("Be kind.")
    else:
        drawn = opened if field in {"stop", "reasoning_effort"} else opened.sampling
        assert getattr(drawn, field) == ASKING[field]


async def test_who_has_a_thread_handed_over_hears_what_it_is_open_to_itself() -> None:
    asked = RunAgent(agent="a", text="hi", **ASKING)
    handed = handed_over(asked, Agent("b", "", open_to=["sampling"]))
    assert (handed.system, handed.reasoning_effort, handed.top_p, handed.stop) == ("", None, 0.5, ("END",))


async def test_a_request_may_have_tighter_bounds() -> None:
    tighter = {"max_steps": 1, "most_tokens": 99, "most_cost": 0.4, "step_timeout_ms": 10, "processors": GUARDS[::-1]}
    made = await profile(GUARDED, **tighter)
    assert {name: getattr(made, name) for name in tighter} == tighter
    unbound = await profile(Agent("a", ""), most_tokens=7, step_timeout_ms=5)
    assert (unbound.most_tokens, unbound.step_timeout_ms) == (7, 5)


def test_what_an_agent_opens_is_a_field_of_requests() -> None:
    with pytest.raises(DefinitionError, match="open_to"):
        Agent("a", "", open_to=["tools"])  # type: ignore[list-item]


async def test_a_context_is_read_as_a_type_or_says_what_is_missing() -> None:
    context = RequestContext({"user": "ann", "age": 5})
    assert (context["user"], context.need("age", int), dict(context)) == ("ann", 5, {"user": "ann", "age": 5})
    for key, kind, named in (("name", str, "name"), ("age", str, "age")):
        with pytest.raises(Exception, match=f"context.{named}"):
            context.need(key, kind)
