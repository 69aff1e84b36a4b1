"""Agents for the system tests; their tools leave a witness outside the system."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from actors.memory.plan import Memory
from actors.processors.patterns import RegexFilter
from actors.processors.rules import Rule
from infra.demo import DEMO
from ostinato import (
    Agent,
    Fixed,
    Mode,
    ModelSelection,
    Permitted,
    RunEnd,
    StepChanges,
    StepView,
    TaskList,
    ToolContext,
    agent_tool,
    ask,
    ask_user,
    client_tool,
    handoff,
    submit_plan,
    tool,
)

WITNESS = Path(os.environ.get("OSTINATO_TEST_WITNESS", "/dev/null"))


@tool(effect="once")
def calculator(expression: str, context: ToolContext) -> str:
    """Work out an arithmetic expression."""
    with WITNESS.open("a", encoding="utf-8") as witness:
        witness.write(f"{context.key}\n")
    return str(eval(expression, {"__builtins__": {}}))


@tool(name="calculator", effect="once", needs_approval=True)
def asking_calculator(expression: str, context: ToolContext) -> str:
    """Work out an arithmetic expression."""
    return str(calculator.function(expression, context))


counted = Agent("counted", DEMO.instructions, tools=(calculator, *DEMO.tools[1:]))
careful = Agent("careful", DEMO.instructions, tools=(asking_calculator, *DEMO.tools[1:]))


@tool(name="calculator", effect="pure")
def calamity(expression: str) -> str:
    """Work out an arithmetic expression."""
    with WITNESS.open("a", encoding="utf-8") as witness:
        witness.write(f"{expression}\n")
    os.kill(os.getpid(), signal.SIGKILL)
    return expression


masked = Agent("masked", "Answer.", max_tokens=20, processors=[RegexFilter([Rule("letter", "[a-z]", longest=1)])])
plain = Agent("plain", "Answer.", max_tokens=60)
keeper = Agent("keeper", DEMO.instructions, max_tokens=16, memory=Memory(working="- name:"))
slider = Agent("slider", DEMO.instructions, max_tokens=16, memory=Memory(last=10))
rambler = Agent("rambler", "Say something long.", max_tokens=160)
doomed = Agent("doomed", DEMO.instructions, tools=(calamity, *DEMO.tools[1:]))


@tool(name="calculator", effect="once")
def leaving_calculator(expression: str, context: ToolContext) -> str:
    """Work out an arithmetic expression."""
    context.progress({"begins": expression})
    leave = context.suspend({"expression": expression}, bool)
    return str(calculator.function(expression, context)) if leave else "no leave"


@tool(name="calculator", effect="once", needs_approval=lambda expression: "1000" in expression)
def choosy_calculator(expression: str, context: ToolContext) -> str:
    """Work out an arithmetic expression."""
    return str(calculator.function(expression, context))


def prepare(view: StepView) -> StepChanges | None:
    """Change nothing that the model would notice."""
    return StepChanges(max_tokens=100) if view.step == 2 else None


def note_end(end: RunEnd) -> None:
    """Leave a witness."""
    with WITNESS.open("a", encoding="utf-8") as witness:
        witness.write(f"end {end.run} {end.text}\n")


THEIRS = client_tool("calculator", calculator.description, calculator.parameters)
receptive = Agent(
    "receptive", DEMO.instructions, tools=DEMO.tools[1:], open_to=("system", "sampling", "reasoning_effort")
)
leaving = Agent("leaving", DEMO.instructions, tools=(leaving_calculator, *DEMO.tools[1:]))
choosy = Agent("choosy", DEMO.instructions, tools=(choosy_calculator, *DEMO.tools[1:]))
lent = Agent("lent", DEMO.instructions, tools=(THEIRS, *DEMO.tools[1:]), prepare_step=prepare, on_finish=note_end)


@tool(effect="idempotent", background=True)
def dig(context: ToolContext) -> str:
    """Dig until a file lies beside the witness."""
    for _ in range(3000):
        if WITNESS.with_suffix(".go").exists():
            return f"gold with {context.key}"
        time.sleep(0.02)
    return "nothing"


SCRIPTED = "local/scripted"
"""A model that the test itself offers on NATS."""
boss = Agent("boss", "Have it done.", SCRIPTED, tools=[agent_tool("worker", "Does anything."), dig])
worker = Agent("worker", "Do it.", SCRIPTED)
front = Agent("front", "Greet.", SCRIPTED, tools=[handoff("billing", "For invoices.")])
billing = Agent("billing", "Bill.", SCRIPTED)
careful_twice = Agent("careful_twice", "Do it.", SCRIPTED, tools=[asking_calculator])
chief = Agent("chief", "Have it worked out.", SCRIPTED, tools=[agent_tool("careful_twice", "Works things out.")])
condenser = Agent("condenser", "Answer.", SCRIPTED, memory=Memory(observe=3))
hasty = Agent("hasty", "Answer.", SCRIPTED, memory=Memory(observe=3, observe_timeout_s=1))
head = Agent("head", "Have it led.", SCRIPTED, tools=[agent_tool("chief", "Leads.")])
both = Agent("both", "Do it.", SCRIPTED, tools=[agent_tool("careful_twice", "Works things out."), asking_calculator])
fetching = client_tool("fetch", "Fetches.", {"type": "object", "properties": {"what": {"type": "string"}}})
fetcher = Agent("fetcher", "Fetch.", SCRIPTED, tools=[fetching])
sender = Agent("sender", "Have it fetched.", SCRIPTED, tools=[agent_tool("fetcher", "Fetches.")])
carrier = Agent("carrier", "Do it.", SCRIPTED, tools=[calculator])


@tool(effect="once", category="edit")
def paint(colour: str, context: ToolContext) -> str:
    """Paint the shed."""
    with WITNESS.open("a", encoding="utf-8") as witness:
        witness.write(f"{colour} {context.key}\n")
    return f"it is {colour}"


MODES = (
    Mode("plan", "Only plan.", ["ask_user", "submit_plan", "*_task*"]),
    Mode("build", "Carry it out.", ["paint", "*_task*"]),
)
painter = Agent(
    "painter",
    "Paint.",
    SCRIPTED,
    tools=[ask_user(), submit_plan("build"), TaskList(), Permitted(Fixed((paint,)), [ask(category="edit")])],
    modes=MODES,
)
goaler = Agent("goaler", "Work.", SCRIPTED)
chooser = Agent(
    "chooser", "Answer.", prepare_step=ModelSelection({SCRIPTED: "everything", "local/nobody": "nothing"}, SCRIPTED)
)
