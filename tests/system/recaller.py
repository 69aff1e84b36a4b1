"""An agent that recalls by vectors of the stack's own model."""

from __future__ import annotations

from ostinato import Agent, RoutedEmbedder, SemanticRecall

recaller = Agent(
    "recaller",
    "Answer.",
    max_tokens=8,
    processors=(SemanticRecall(RoutedEmbedder("local/vectors"), least=0.9, before=0, after=0, count=1),),
)
