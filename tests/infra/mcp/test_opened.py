"""Which tools are open: those that are named, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from actors.agent.around_tools import ToolUse, ToolUsed
from actors.agent.definition import Agent
from actors.delegates import Refused
from actors.errors import DefinitionError
from actors.processors.patterns import RegexFilter
from actors.request_context import RequestContext
from actors.tools import client_tool, tool
from actors.toolsets import Approval, Fixed, Surroundings
from infra.agents import served_agents
from infra.errors import ToolsNotOpened
from infra.mcp.opened import AGENT, NAMED, OpenedTools, opened_agents
from infra.settings import McpSettings, Settings


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@tool(effect="pure")
def adder(a: int, b: int) -> int:
    """Add."""
    return a + b


@tool(effect="pure", background=True)
def digger() -> str:
    """Dig."""
    return "gold"


THEIRS = client_tool("theirs", "Be run elsewhere.", None)
HOLDER = Agent("holder", "", tools=[Approval(Fixed((adder,))), digger, THEIRS])
OTHER = Agent("other", "", tools=[adder])
CLEAN = Agent("clean", "", tools=[adder], processors=[RegexFilter()])
FREE = Agent("free", "", tools=lambda context: [adder])


def asking(name: Any) -> Surroundings:
    return Surroundings(context=RequestContext({NAMED: name}))


@pytest.mark.anyio
async def test_a_run_has_the_one_tool_that_it_is_about_with_what_its_agent_put_around_it() -> None:
    opened = OpenedTools([HOLDER], McpSettings(tools=("holder/adder",)))
    (found,) = await opened.tools(asking("adder"))
    assert (found.name, found.approval) == ("adder", True)
    for name in ("digger", "theirs", "nothing", "", None, 3, {}):
        assert await opened.tools(asking(name)) == ()


@pytest.mark.anyio
async def test_what_is_more_than_a_call_cannot_be_open() -> None:
    opened = OpenedTools([HOLDER], McpSettings(tools=("holder/digger", "holder/theirs")))
    for name in ("digger", "theirs"):
        assert await opened.tools(asking(name)) == ()


@pytest.mark.parametrize(
    ("tools", "why"),
    [
        (("nobody/adder",), "holder, other"),
        (("adder",), "AGENT/TOOL"),
        (("holder/",), "AGENT/TOOL"),
        (("holder/adder", "other/adder"), "two tools"),
        (("free/adder",), "function of the request"),
        (("clean/adder",), "'clean' has processors"),
    ],
)
def test_what_cannot_be_open_is_told_before_anything_starts(tools: tuple[str, ...], why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        OpenedTools([HOLDER, OTHER, CLEAN, FREE], McpSettings(tools=tools))


@pytest.mark.anyio
async def test_whose_tool_is_called_is_asked_before_and_after_and_nobody_else() -> None:
    def before(use: ToolUse) -> Refused:
        return Refused(f"not to {use.agent}")

    async def after(used: ToolUsed) -> str:
        return f"{used.use.agent} saw {used.content}"

    twice = replace(adder, name="twice")
    owners = [replace(OTHER, before_tool=before, after_tool=after), Agent("third", "", tools=[twice])]
    (opened,) = opened_agents(owners, McpSettings(tools=("other/adder", "third/twice")))
    assert opened.before_tool is not None
    assert opened.after_tool is not None
    for name, said, left in (("adder", Refused("not to other"), "other saw 3"), ("twice", None, None)):
        use = ToolUse("r1", AGENT, "t1", 1, name, {"a": 1, "b": 2}, RequestContext({NAMED: name}), "")
        assert await opened.before_tool(use) == said
        assert await opened.after_tool(ToolUsed(use, "3", returned=True)) == left


def test_nobody_else_has_the_name_of_who_calls_them() -> None:
    assert opened_agents([Agent(AGENT, "")], McpSettings()) == []
    with pytest.raises(DefinitionError, match="name yours otherwise"):
        opened_agents([Agent(AGENT, "")], McpSettings(services=("*",)))


def test_a_stack_does_not_start_with_a_tool_that_is_not_there() -> None:
    with pytest.raises(ToolsNotOpened, match=r"mcp\.tools: 'nobody/x'"):
        served_agents(Settings(mcp=McpSettings(tools=("nobody/x",))))
