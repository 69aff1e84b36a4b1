"""Compaction: long histories condensed into dated observations by the model, beside the turns and never in their way.

A turn that saw more than the plan's threshold has its older messages condensed afterwards, and the outcome comes to the
thread as a command like any other: an event, decided upon by whoever owns it. What fails or is lost on the way changes
nothing, and the next turn has it tried again. The messages stay, and a tool reads them by their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.memory.window import turn_before, weight
from actors.tools import Tool, ToolContext, tool
from schemas.memory import LONGEST_OBSERVATION, MemoryPlan, Observe
from schemas.messages import Message

RECALL = "recall_messages"
MOST = 4
"""Observations beside each other; with one more they are rewritten into one."""
_KEPT = 250
"""Thousandths of the threshold that stay as they were said."""


class Condensing:
    """What is to be condensed, if anything: chosen from what a turn saw."""

    def __init__(self, plan: MemoryPlan | None, messages: Sequence[Message], first: int, observations: Sequence[str]):
        """Choose.

        Args:
            plan: of the run.
            messages: the thread's that the turn saw, as they were said.
            first: the number of the first of them.
            observations: what was condensed before.
        """
        self.first = first
        self._observations = observations
        room = _KEPT * (plan.observe if plan is not None else 0)
        rate = 300
        weights = [rate * weight(message) for message in messages]
        self.count = turn_before(messages, room, weights)
        self._messages = messages[: self.count]

    @property
    def whole(self) -> bool:
        """Whether what was condensed before is rewritten with it."""
        return len(self._observations) >= MOST

    def prompt(self) -> str:
        """Write what the model is asked."""
        said = "\n".join(f"{message.role}: {message.content}" for message in self._messages if message.content)
        earlier = "\n".join(self._observations)
        task = (
            "Condense the conversation below into short observations, one a line: facts about the user, decisions, "
            "open questions, results. Keep names, numbers and dates. Leave out greetings and how things were said."
        )
        if self.whole:
            task += " Rewrite the earlier observations with them: join what belongs together, drop what is out of date."
        about = f"\n\nEarlier observations:\n{earlier}" if earlier else ""
        return f"{task}{about}\n\nConversation:\n{said}\n\nObservations:"

    def outcome(self, text: str) -> Observe | None:
        """Make what the model said a command's data; None if it said nothing."""
        text = text.strip()[:LONGEST_OBSERVATION]
        return Observe(after=self.first, upto=self.first + self.count, text=text, whole=self.whole) if text else None


def is_due(plan: MemoryPlan | None, tokens: int) -> bool:
    """Say whether a turn that took so many tokens has its history condensed."""
    return plan is not None and 0 < plan.observe < tokens


def recall_tool() -> Tool:
    """Make the tool by which a model reads what was said, by the numbers that observations name."""

    @tool(name=RECALL, effect="pure")
    def recall(first: int, last: int, context: ToolContext) -> str:
        """Read messages of this conversation word for word, by the numbers that the observations name."""
        found = context.messages[max(0, first) : last + 1][:_MOST_RECALLED]
        if not found:
            raise LookupError(f"there are messages 0 to {len(context.messages) - 1}")
        return "\n".join(f"{at} {one.role}: {one.content}" for at, one in enumerate(found, start=max(0, first)))

    return recall


_MOST_RECALLED = 40
