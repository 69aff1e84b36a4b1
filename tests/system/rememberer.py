"""An agent that recalls what was said, for the tests of what is left of it."""

from __future__ import annotations

from actors.memory.embedding import WordEmbedder
from actors.memory.plan import Memory
from actors.processors.recall import SemanticRecall
from infra.demo import DEMO
from ostinato import Agent

rememberer = Agent(
    "rememberer",
    DEMO.instructions,
    tools=DEMO.tools,
    max_tokens=24,
    memory=Memory(working="- name:"),
    processors=(SemanticRecall(WordEmbedder()),),
)
