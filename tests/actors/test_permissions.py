"""Which tools may be called: the first rule that fits decides, and what a person agrees to for good."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.permissions import Permitted, allow, ask, deny
from actors.tools import Tool, tool
from actors.toolsets import Approval, Fixed, Surroundings, Toolset

pytestmark = pytest.mark.anyio


@tool(effect="pure")
def read_file() -> str:
    """Read."""
    return ""


@tool(category="edit")
def write_file() -> str:
    """Write."""
    return ""


@tool(needs_approval=True)
def pay() -> str:
    """Pay."""
    return ""


@tool(needs_approval=lambda to: to == "boss")
def mail(to: str) -> str:
    """Mail."""
    return to


ALL = Fixed((read_file, write_file, pay, mail))


async def stands(permitted: Toolset) -> dict[str, tuple[bool, bool]]:
    """Say of each tool that is left whether somebody is asked, and whether that may be for good."""
    found = await permitted.tools(Surroundings())
    return {one.name: (one.binding.approval, one.binding.grantable) for one in found}


async def test_the_first_rule_that_fits_decides() -> None:
    rules = [allow("read_*"), deny("write_*"), ask()]
    assert await stands(Permitted(ALL, rules)) == {
        "read_file": (False, False),
        "pay": (True, False),
        "mail": (True, False),
    }
    assert list(await stands(Permitted(ALL, [deny("write_*"), allow("write_*"), allow()]))) == [
        "read_file",
        "pay",
        "mail",
    ]


async def test_a_rule_goes_by_what_kind_of_thing_a_tool_does() -> None:
    rules = [ask(category="edit"), allow(category="pure"), deny()]
    assert await stands(Permitted(ALL, rules)) == {"read_file": (False, False), "write_file": (True, True)}


async def test_what_no_rule_fits_is_asked_about_unless_otherwise_said() -> None:
    assert (await stands(Permitted(ALL, [])))["write_file"] == (True, True)
    assert await stands(Permitted(ALL, [], otherwise="deny")) == {}


async def test_nobody_agrees_for_good_to_what_its_author_wants_asked_each_time() -> None:
    permitted = await stands(Permitted(ALL, [allow("pay"), ask()]))
    assert permitted["pay"] == (True, False)
    assert permitted["mail"] == (True, False)
    assert (await stands(Approval(Permitted(ALL, []))))["write_file"] == (True, False)


def test_a_tool_that_may_be_granted_says_so_in_the_record() -> None:
    plain: Tool = replace(read_file, approval=True, grantable=True)
    assert plain.binding.grantable
    assert not read_file.binding.grantable
