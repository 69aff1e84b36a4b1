"""Which messages a model is shown, pure: the last so many, or as many as a budget of tokens has room for.

What is shown begins at a turn of the user's, and begins the same for as long as there is room: when there is no more,
the older half leaves at once. So the beginning of the prompt, which the engine has computed, changes once in many turns
and not at each.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from schemas.memory import MemoryPlan
from schemas.messages import Message

_OVERHEAD = 12
"""Bytes that a chat template puts around a message, about."""

_PICTURE = 3000
"""What a picture counts as: providers take some thousand tokens for one."""


def first_shown(messages: Sequence[Message], plan: MemoryPlan | None, before: int, rate: int) -> int:
    """Give the first message that is shown from now on; `before` is the one that was so far.

    Args:
        messages: all of the thread.
        plan: how much of them; None is all.
        before: never an earlier one than this.
        rate: thousandths of a token that a byte takes.
    """
    if plan is None:
        return 0
    first = before
    if plan.last and len(messages) - first > plan.last:
        first = _cut(messages, first, max(1, plan.last // 2), [1] * len(messages))
    if plan.tokens:
        weights = [rate * weight(message) for message in messages]
        if sum(weights[first:]) > 1000 * plan.tokens:
            first = _cut(messages, first, 500 * plan.tokens, weights)
    return first


def _cut(messages: Sequence[Message], first: int, room: int, weights: Sequence[int]) -> int:
    """Give the earliest turn from which on the rest has room; the last one, if none has: it is what is asked."""
    turns = [at for at in range(first, len(messages)) if messages[at].role == "user"]
    if not turns:
        return first
    left = sum(weights[turns[0] :])
    for at, following in itertools.pairwise(turns):
        if left <= room:
            return at
        left -= sum(weights[at:following])
    return turns[-1]


def turn_before(messages: Sequence[Message], room: int, weights: Sequence[int]) -> int:
    """Give the turn up to which messages are old: from there on they have room; 0 if there is only one turn."""
    return _cut(messages, 0, room, weights)


def weight(message: Message) -> int:
    """Give about how many bytes of a prompt a message takes."""
    calls = sum(len(call.name) + len(call.arguments.encode()) + _OVERHEAD for call in message.tool_calls)
    return len(message.content.encode("utf-8", "replace")) + calls + _OVERHEAD + _PICTURE * len(message.images)
