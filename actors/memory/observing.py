"""Compaction: long histories condensed into dated observations by the model, beside the turns and never in their way.

A turn that saw more than the plan's threshold has its older messages condensed afterwards, as an effect of the thread
(`actors/agent/condensing.py`). What fails changes nothing, and the next turn has it tried again. The messages stay, and
a tool reads them by their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.memory.window import turn_before, weight
from actors.tools import Tool, ToolContext, tool
from schemas.memory import MemoryPlan
from schemas.messages import Message

RECALL = "recall_messages"
MOST = 4
"""Observations beside each other; with one more they are rewritten into one."""
_KEPT = 250
"""Thousandths of the threshold that stay as they were said."""
_RATE = 300
"""Thousandths of a token that a byte takes, about."""
_SHORTEST = 200
"""Bytes of each message that the model is shown at least."""


def condensable(plan: MemoryPlan, messages: Sequence[Message]) -> int:
    """Say how many of the messages, from the first on, are to be condensed: whole turns, and never the last one.

    No more at once than the threshold, for that the model has room for; the rest is due after the next turn.
    """
    weights = [_RATE * weight(message) for message in messages]
    old = turn_before(messages, _KEPT * plan.observe, weights)
    turns = [at for at in range(1, old + 1) if messages[at].role == "user"]
    fitting = [at for at in turns if sum(weights[:at]) <= 1000 * plan.observe]
    return fitting[-1] if fitting else next(iter(turns), 0)


def is_rewritten(observations: Sequence[str]) -> bool:
    """Say whether what was condensed before is rewritten with what is condensed next."""
    return len(observations) >= MOST


def begins_turn(messages: Sequence[Message], first: int, at: int) -> bool:
    """Say whether a turn of the user's begins at a message after the first, so that what is before it can go."""
    return first < at < len(messages) and messages[at].role == "user"


def condensing_prompt(plan: MemoryPlan, messages: Sequence[Message], observations: Sequence[str], whole: bool) -> str:
    """Write what the model is asked.

    Args:
        plan: of the run; what is longer than its threshold is shortened.
        messages: to be condensed.
        observations: what was condensed before.
        whole: whether that is rewritten with it.
    """
    said = "\n".join(_shortened([_line(message) for message in messages], 1000 * plan.observe // _RATE))
    earlier = "\n".join(observations)
    task = (
        "Condense the conversation below into short observations, one a line: facts about the user, decisions, "
        "open questions, results. Keep names, numbers and dates. Leave out greetings and how things were said."
    )
    if whole:
        task += " Rewrite the earlier observations with them: join what belongs together, drop what is out of date."
    about = f"\n\nEarlier observations:\n{earlier}" if earlier else ""
    return f"{task}{about}\n\nConversation:\n{said}\n\nObservations:"


def _line(message: Message) -> str:
    calls = [f"{call.name}({call.arguments})" for call in message.tool_calls]
    return f"{message.role}: {' '.join(filter(None, (message.content, *calls)))}"


def _shortened(lines: Sequence[str], room: int) -> list[str]:
    """Cut the middle out of the longest, until all have room; of each a little is left."""
    sizes = [len(line.encode("utf-8", "replace")) for line in lines]
    most = max(sizes, default=0)
    while most > _SHORTEST and sum(min(size, most) for size in sizes) > room:
        most //= 2
    return [line if size <= most else _cut(line, most // 2) for line, size in zip(lines, sizes, strict=True)]


def _cut(line: str, half: int) -> str:
    data = line.encode("utf-8", "replace")
    return f"{data[:half].decode(errors='ignore')} […] {data[-half:].decode(errors='ignore')}"


def is_due(plan: MemoryPlan, tokens: int) -> bool:
    """Say whether a turn that took so many tokens has its history condensed."""
    return 0 < plan.observe < tokens


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
