"""Agents under fire: each tool call leaves a line in a file outside the system, before it returns.

The file is named by OSTINATO_CHAOS_WITNESS; a line is `<effect class> <idempotency key> <expression>`.
"""

from __future__ import annotations

import os
from pathlib import Path

from infra.demo import DEMO
from ostinato import Agent, Tool, ToolContext, tool

WITNESS = Path(os.environ.get("OSTINATO_CHAOS_WITNESS", "/dev/null"))


def witnessed(effect: str, expression: str, context: ToolContext) -> str:
    """Work an expression out, and say so where nothing can take it back."""
    line = f"{effect} {context.key} {expression}\n".encode()
    file = os.open(WITNESS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line)
        os.fsync(file)
    finally:
        os.close(file)
    return str(eval(expression, {"__builtins__": {}}))


@tool(name="calculator", effect="once")
def once(expression: str, context: ToolContext) -> str:
    """Work out an arithmetic expression."""
    return witnessed("once", expression, context)


@tool(name="calculator", effect="idempotent")
def again(expression: str, context: ToolContext) -> str:
    """Work out an arithmetic expression."""
    return witnessed("idempotent", expression, context)


def agent(name: str, calculator: Tool) -> Agent:
    """Make the demo agent with another calculator."""
    return Agent(name, DEMO.instructions, tools=(calculator, *DEMO.tools[1:]))


strict = agent("strict", once)
patient = agent("patient", again)
