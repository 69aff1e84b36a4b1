"""Tools by which a model has a plan agreed to, and goes over to another mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from actors.agent.modes import Mode
from actors.errors import DefinitionError
from actors.tools import Approval, Tool, ToolContext, tool
from schemas.memory import MemoryWrite

PLAN = "plan"
"""The topic of the thread's memory under which the plan stands that was agreed to."""
LONGEST_PLAN = 50_000


def submit_plan(mode: str = "") -> Tool:
    """Make a tool by which a model shows a plan: the run waits until a person agrees (`approve`) or says what is to be
    otherwise (`deny` with a reason, which the model reads).

    Args:
        mode: the one that the thread goes over to once it is agreed to; empty leaves it.
    """

    # agreed to once and called at most once: what it writes is in the commit of its result
    @tool(name="submit_plan", effect="idempotent", needs_approval=True)
    async def submit(title: str, plan: str, context: ToolContext) -> str:
        """Show the user your plan before you carry it out, and wait until it is agreed to.

        Args:
            title: what it is about, in a few words.
            plan: the steps, in Markdown.
            context: of the call.
        """
        if len(plan) > LONGEST_PLAN:
            raise ValueError(f"plan: at most {LONGEST_PLAN} characters, not {len(plan)}")
        context.write_note(PLAN, f"# {title}\n\n{plan}")
        if mode:
            go_over(context, mode)
        return "The plan is agreed to: carry it out."

    return submit


def switch_mode(modes: Sequence[Mode], *, needs_approval: Approval = False) -> Tool:
    """Make a tool by which a model goes over to another of its agent's modes, from its next step on.

    Args:
        modes: those that it may choose from, as the agent has them.
        needs_approval: as of `tool`.

    Raises:
        DefinitionError: there is none.
    """
    if not modes:
        raise DefinitionError("switch_mode: give the modes that may be chosen")
    names = [mode.name for mode in modes]

    @tool(name="switch_mode", effect="idempotent", needs_approval=needs_approval)
    async def switch(mode: str, context: ToolContext) -> str:
        """Go over to another mode, from your next step on.

        Args:
            mode: which one.
            context: of the call.
        """
        if mode not in names:
            raise ValueError(f"mode: no mode {mode!r} (modes: {', '.join(names)})")
        go_over(context, mode)
        return f"You are in mode {mode!r} from your next step on."

    told = "; ".join(f"{mode.name}: {mode.description}" if mode.description else mode.name for mode in modes)
    one: dict[str, Any] = {"type": "string", "enum": names, "description": told}
    return replace(switch, parameters={"type": "object", "properties": {"mode": one}, "required": ["mode"]})


def go_over(context: ToolContext, mode: str) -> None:
    """Have the thread be in a mode, from the next step on: in the commit of the tool's result."""
    context.writes.append(MemoryWrite(topic="", text=mode, scope="mode"))
