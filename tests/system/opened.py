"""An agent whose tools may be opened to clients by themselves."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from ostinato import Agent, Refused, ToolContext, ToolUse, ToolUsed, tool

WITNESS = Path(os.environ.get("OSTINATO_TEST_WITNESS", "/dev/null"))


@tool(effect="pure")
def adder(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool(effect="once", needs_approval=lambda text: text != "hush")
def shout(text: str) -> str:
    """Say it aloud."""
    with WITNESS.open("a", encoding="utf-8") as witness:
        witness.write(f"{text}\n")
    return text.upper()


@tool(effect="idempotent")
def counter(up_to: int, context: ToolContext) -> dict[str, Any]:
    """Count."""
    for number in range(up_to):
        context.progress({"at": number})
    return {"up_to": up_to, "thread": context.thread}


@tool(effect="pure")
def failing() -> str:
    """Fail."""
    raise ValueError("no luck today")


@tool(effect="pure")
def promising() -> int:
    """Promise a number and give a text."""
    return "a text"  # type: ignore[return-value]


@tool(effect="idempotent")
def dying(name: str) -> str:
    """Take its process along the first time."""
    mark = WITNESS.with_name(f"{WITNESS.name}-{name}")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{name} came back"


@tool(effect="pure")
def hidden() -> str:
    """Be open to nobody."""
    return "secret"


@tool(effect="pure")
def guarded(text: str) -> str:
    """Say it again."""
    return text


def before(use: ToolUse) -> Any:
    """Let nobody swear, and all be said in capitals."""
    text = str(use.arguments["text"])
    return Refused(f"{use.agent} does not swear") if text == "damn" else {"text": text.upper()}


def after(used: ToolUsed) -> str:
    """Take out what nobody is to read."""
    return used.content.replace("SECRET", "***")


holder = Agent("holder", "Hold.", tools=[adder, shout, counter, failing, promising, dying, hidden])
guardian = Agent("guardian", "Guard.", tools=[guarded], before_tool=before, after_tool=after)
