"""Agents under fire: each tool call leaves a line in a file outside the system, before it returns.

The file is named by OSTINATO_CHAOS_WITNESS; a line is `<effect class> <idempotency key> <what>`.
"""

from __future__ import annotations

import sys
import time

from infra.demo import DEMO
from ostinato import (
    Agent,
    McpTools,
    Memory,
    SemanticRecall,
    Services,
    Tool,
    ToolContext,
    Translator,
    WordEmbedder,
    agent_tool,
    client_tool,
    handoff,
    moderation,
    tool,
)
from tests.chaos.witness import WITNESS, leave

TAKES_S = 0.02
"""How long a tool is at it after its effect: a process may die in between."""


@tool(name="calculator", effect="once")
def once(expression: str, context: ToolContext) -> str:
    """Work out an arithmetic expression."""
    leave("once", context.key, expression)
    return str(eval(expression, {"__builtins__": {}}))


@tool(name="calculator", effect="idempotent")
def again(expression: str, context: ToolContext) -> str:
    """Work out an arithmetic expression."""
    leave("idempotent", context.key, expression)
    return str(eval(expression, {"__builtins__": {}}))


def agent(name: str, calculator: Tool) -> Agent:
    """Make the demo agent with another calculator."""
    return Agent(name, DEMO.instructions, tools=(calculator, *DEMO.tools[1:]))


strict = agent("strict", once)
patient = agent("patient", again)


def taken(effect: str, what: str, context: ToolContext) -> str:
    """Take effect, and be at it for a while."""
    leave(effect, context.key, what)
    time.sleep(TAKES_S)
    return f"{what} done"


@tool(effect="once")
def note(what: str, context: ToolContext) -> str:
    """Note something."""
    return taken("once", what, context)


@tool(effect="once", needs_approval=True)
def pay(what: str, context: ToolContext) -> str:
    """Pay for something."""
    return taken("once", what, context)


@tool(effect="once")
def ask(what: str, context: ToolContext) -> str:
    """Ask somebody before it takes effect."""
    return taken("once", f"{what} {context.suspend({'about': what}, str)}", context)


@tool(effect="idempotent", background=True)
def dig(what: str, context: ToolContext) -> str:
    """Dig for something."""
    return taken("idempotent", what, context)


SCRIPTED = "local/scripted"
"""A model of another process: `neighbour.py`."""
PATIENCE = 8
"""Times that it is asked again while it is away."""
WANTS = {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]}
LEND = client_tool("lend", "Lend something.", WANTS)
STAMPS = McpTools(
    command=(sys.executable, "-m", "tests.chaos.stamps"), env={"OSTINATO_CHAOS_WITNESS": str(WITNESS)}, timeout_s=5.0
)


def errand(name: str, *tools: object, **about: object) -> Agent:
    """Make an agent that does what its script says."""
    return Agent(name, "Do it.", SCRIPTED, tools=tools, retries=PATIENCE, **about)  # type: ignore[arg-type]


payer = errand("payer", pay)
lender = errand("lender", LEND)
asker = errand("asker", ask)
helper = errand("helper", note)
chief = errand("chief", agent_tool("helper", "Notes things."))
orphaner = errand("orphaner", agent_tool("payer", "Pays for things."))
front = errand("front", handoff("back", "For notes."))
back = errand("back", note)
digger = errand("digger", dig)
poster = errand("poster", Services("post"))
fetcher = errand("fetcher", Services("fetch"))
stamper = errand("stamper", STAMPS)
judged = errand("judged", note, processors=[moderation()])
linguist = errand("linguist", note, processors=[Translator()])
rememberer = errand(
    "rememberer",
    note,
    memory=Memory(working="- note:", scope="resource", observe=4, titles=True),
    processors=[SemanticRecall(WordEmbedder(), scope="tenant")],
)
clockwork = errand("clockwork", note)
