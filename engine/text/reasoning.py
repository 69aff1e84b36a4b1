"""Where in an answer reasoning ends, in text and in tokens: what grammars hold after, and what a budget cuts short."""

from __future__ import annotations

from dataclasses import dataclass

from engine.text.parsers import Wanted
from engine.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ReasoningEnd:
    """How an answer gets from what is thought to what is said."""

    text: str
    """What comes between the two."""
    after: tuple[int, ...]
    """Its tokens: what is said begins after them."""
    closing: tuple[int, ...]
    """Tokens that end reasoning wherever it stands, so that what is said has to follow."""
    ending: tuple[int, ...]
    """Tokens that end reasoning, whatever is to follow: what is said, or a call."""
    opening: tuple[int, ...]
    """Tokens that begin reasoning; an answer that begins with none of them holds none. Empty where it has begun."""


def reasoning_end(wanted: Wanted, prompt: str, tokenizer: Tokenizer) -> ReasoningEnd | None:
    """Say where an answer's reasoning ends.

    Args:
        wanted: how the answer is read.
        prompt: what it follows on.
        tokenizer: of the model.

    Returns:
        `None` where the model does not reason, or the prompt holds its reasoning already.
    """
    encode = tokenizer.encode
    channels, thinking = wanted.format.channels, wanted.thinking
    if channels is not None and wanted.reasons:
        between = channels.ends[0] + channels.speaker + channels.saying
        begin = "".join((channels.channel, *sorted(channels.reasoning)[:1], channels.message))
        texts = (channels.saying, between, channels.ends[0], begin)
        return ReasoningEnd(channels.saying, *(tuple(encode(text)) for text in texts))
    if thinking is None or (not wanted.begun and prompt.rstrip().endswith(thinking.close)):
        return None
    close = tuple(encode(thinking.close))
    opening = () if wanted.begun else tuple(encode(thinking.open))
    return ReasoningEnd(thinking.close, close, close, close, opening)
