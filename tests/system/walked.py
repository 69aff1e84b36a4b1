"""Agents that leave something of every kind behind: things kept in mind and recalled, approvals, background tasks."""

from __future__ import annotations

import asyncio

from actors.memory.embedding import WordEmbedder
from actors.memory.plan import Memory
from actors.processors.recall import SemanticRecall
from infra.demo import DEMO
from ostinato import Agent, tool

clerk = Agent(
    "clerk",
    DEMO.instructions,
    tools=DEMO.tools,
    max_tokens=24,
    memory=Memory(working="- name:", scope="resource"),
    processors=(SemanticRecall(WordEmbedder(), scope="tenant"),),
)


@tool(name="calculator", effect="idempotent", background=True)
async def unending(expression: str) -> str:
    """Work out an arithmetic expression."""
    await asyncio.Event().wait()
    return expression


digger = Agent("digger", DEMO.instructions, tools=(unending, *DEMO.tools[1:]))
