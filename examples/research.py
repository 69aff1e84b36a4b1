"""Research by several agents: one plans, others read, one checks. `ostinato up --agents examples/research.py`."""

import re
from pathlib import Path

from ostinato import Agent, agent_tool, tool

SHELF = Path(__file__).parents[1] / "docs"
"""What is read: pages of text."""


@tool(effect="pure")
def search(words: str) -> str:
    """Find lines in which any of some words stand, with the page that each is on."""
    wanted = re.compile("|".join(map(re.escape, words.split())), re.IGNORECASE)
    found = [
        f"{page.name}: {line.strip()[:200]}"
        for page in sorted(SHELF.glob("*.md"))
        for line in page.read_text(encoding="utf-8").splitlines()
        if wanted.search(line)
    ]
    return "\n".join(found[:20]) or "nothing found"


reader = Agent("reader", "You answer one question from what `search` finds, and name the page.", tools=[search])
critic = Agent("critic", "You are given a question and an answer. Say what is wrong or missing, or 'fine'.")
research = Agent(
    "research",
    "Split what is asked into questions, have the reader answer each, have the critic look at the whole, then report.",
    tools=[
        agent_tool("reader", "Answers one question from the pages."),
        agent_tool("critic", "Looks for what is wrong with an answer."),
    ],
    max_steps=8,
)
