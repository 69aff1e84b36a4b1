"""The demonstration agent and its tools: what the embedded model was trained to use."""

from __future__ import annotations

from actors.agent.definition import Agent
from actors.tools import ToolContext, tool
from infra.arithmetic import shown, value
from infra.embedded.toolbox import moment
from schemas.times import utc

_LONGEST = 200


@tool(effect="pure")
def calculator(expression: str) -> str:
    """Work out an arithmetic expression."""
    if len(expression) > _LONGEST:
        raise ValueError(f"expression longer than {_LONGEST} characters")
    return shown(value(expression))


@tool(effect="idempotent")
def clock(context: ToolContext) -> str:
    """Tell the current date and time."""
    return moment(utc(context.now))


@tool(effect="idempotent")
def save_note(topic: str, text: str, context: ToolContext) -> str:
    """Remember a fact under a topic."""
    context.write_note(topic, text)
    return "saved"


@tool(effect="pure")
def find_note(topic: str, context: ToolContext) -> str:
    """Recall what was remembered about a topic."""
    return context.notes.get(topic, f"nothing noted about {topic!r}")


DEMO = Agent(
    name="demo",
    instructions=(
        "You are Ostinato's demo assistant. Use the tools for arithmetic, for the date and time, and for notes."
    ),
    tools=(calculator, clock, save_note, find_note),
    description="Works sums out, tells the date and the time, and keeps notes.",
)
