"""Where what is judged stands: whether anybody answered it, and whether the call that shows it is a step of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from actors.models.provider import ModelCall
from schemas.messages import Message


def unanswered(messages: Sequence[Message]) -> list[list[int]]:
    """Give the places of what users said and nobody answered before more was said: their runs ended without a word."""
    stretches: list[list[int]] = [[]]
    for at, message in enumerate(messages):
        if message.role == "assistant":
            stretches.append([])
        elif message.role == "user":
            stretches[-1].append(at)
    return [stretch[:-1] for stretch in stretches if len(stretch) > 1]


def is_step(call: ModelCall | None) -> bool:
    """Say whether a call is a step of a run, and not one that is made beside it of what was said."""
    return call is None or re.search(r"-m\d*$", call.effect) is not None
