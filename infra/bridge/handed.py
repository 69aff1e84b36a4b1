"""What a client hears of a run between two of its requests: that it is its turn, and where it goes on. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from schemas.live import Frame
from schemas.messages import Message, ToolCall, Usage

_ID: Final = re.compile(r"call_(?P<effect>[a-z0-9][a-z0-9_-]*?-\d+-t\d+)_(?P<thread>[a-z0-9][a-z0-9_-]{0,62})")


class Handed(NamedTuple):
    """Nothing happens until the client has carried these out: the last that it hears for now."""

    calls: tuple[ToolCall, ...]
    usage: Usage
    """What the run took since the client was heard last."""
    cost: float | None


class Resumed(NamedTuple):
    """The run goes on: what it had taken by then was told before."""

    usage: Usage
    cost: float | None


Told = Frame | Handed | Resumed


def call_id(effect: str, thread: str) -> str:
    """Name a call so that whoever answers it need not know of threads: clients send back the id alone."""
    return f"call_{effect}_{thread}"


class Results(NamedTuple):
    """Results of calls that a client carried out."""

    thread: str
    contents: dict[str, str]
    """By effect."""
    said: tuple[Message, ...]
    """What it says besides."""


def results_in(messages: Sequence[Message]) -> Results | None:
    """Find the results that a conversation ends with, where they are of calls of ours: those go on with a run.

    Raises:
        ValueError: they are of several threads.
    """
    last = max((at for at, message in enumerate(messages) if message.role == "assistant"), default=-1)
    fresh = messages[last + 1 :]
    found = [
        (match["thread"], match["effect"], message.content)
        for message in fresh
        if message.role == "tool" and (match := _ID.fullmatch(message.tool_call_id or ""))
    ]
    if not found:
        return None
    threads = {thread for thread, _, _ in found}
    if len(threads) > 1:
        raise ValueError("they answer calls of several threads: send one conversation at a time")
    said = tuple(message for message in fresh if message.role == "user")
    return Results(threads.pop(), {effect: content for _, effect, content in found}, said)
