"""The agents that a user's file defines, and what is said when it defines none."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.agents import load_agents
from infra.errors import AgentsNotFound

TOOL = '''
from ostinato import Agent, tool

{decorator}
def double(number: int) -> int:
    """Double a number."""
    return 2 * number

doubler = Agent({name!r}, "Use the tool.", tools=[double])
'''


def test_a_file_gives_its_agents_beside_the_demo_agent(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(TOOL.format(decorator="@tool", name="doubler"), encoding="utf-8")
    assert [agent.name for agent in load_agents([str(file)])] == ["demo", "doubler"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1", "it defines no Agent at its top level: name a Python file"),
        ("x =", r"importing it failed: SyntaxError: invalid syntax \(mine.py, line 1\)"),
        ("\nimport nowhere_to_be_found", "importing it failed in line 2: ModuleNotFoundError"),
        (
            TOOL.format(decorator="", name="doubler"),
            "in line 9: DefinitionError: agent 'doubler': <.*> is no tool: put @",
        ),
        (
            TOOL.format(decorator="@tool(effect='pur')", name="doubler"),
            "in line 4: DefinitionError: no tool effect 'pur': use",
        ),
        (TOOL.format(decorator="@tool", name="demo"), "there is another agent named 'demo': rename one"),
    ],
    ids=["no agent", "syntax", "import", "no decorator", "effect", "name"],
)
def test_a_file_that_gives_none_says_why_in_one_line(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(AgentsNotFound, match=told) as raised:
        load_agents([str(file)])
    assert "\n" not in str(raised.value)
