"""What is told of an answer beside its text: its tokens, what the model made of them, and other answers."""

from __future__ import annotations

from typing import Literal

from schemas.messages import ToolCall
from schemas.wire import Record, Wire

AnswerFinish = Literal["stop", "length", "tool_calls", "abort", "error", "timeout", "repetition"]
"""Why an answer ends."""


class TokenTold(Record, frozen=True):
    """A token that stands in an answer or a prompt, and what the model made of its place."""

    token: int
    """Its id; 0 where a provider elsewhere does not tell it."""
    piece: bytes
    """What it adds to the text: perhaps a part of a character."""
    logprob: float | None
    """The natural logarithm of its chance; None for a prompt's first token, which nothing stands before."""
    rank: int
    """How many tokens were likelier, and one; 0 for a prompt's first."""
    top: tuple[tuple[int, bytes, float], ...] = ()
    """(token, piece, logprob): the likeliest ones, best first, then those asked for by id."""


class Sampled(Wire, frozen=True):
    """Which tokens an answer is made of, in few bytes: so the log vouches for what the trace holds of them."""

    count: int
    """Of the answer, up to the one that ended it."""
    hash: str
    """Of their ids, after those of the prompt."""


class CallTold(Record, frozen=True):
    """Which tool call a piece of arguments is of."""

    index: int
    """Calls of an answer are numbered from 0, in the order in which they begin."""
    id: str
    name: str


class Alternative(Wire, frozen=True):
    """One more answer to the same prompt."""

    text: str
    finish_reason: AnswerFinish
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenTold, ...] = ()
    token_ids: tuple[int, ...] = ()
    reasoning: str = ""
    sampled: Sampled | None = None
    cut_off: tuple[ToolCall, ...] = ()
    """Calls of an answer that ended before its end: nobody carries them out; the last may have half its arguments."""
    stopped_at: str = ""
    """The stop text that ended it, where one did and that is known."""
