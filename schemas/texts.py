"""What is asked of a model's tokenizer over the bus, and what it answers."""

from __future__ import annotations

from typing import Any

from schemas.commands import Generate
from schemas.runs import Problem
from schemas.wire import Wire


class Encode(Wire, frozen=True, tag="encode"):
    """The tokens of a prompt, as a generation would have them."""

    data: Generate
    pieces: bool = False
    """Whether it is told what each token adds to a text."""


class Decode(Wire, frozen=True, tag="decode"):
    """The text of tokens."""

    tokens: tuple[int, ...]


class Describe(Wire, frozen=True, tag="describe"):
    """What the tokenizer is."""


TextAsked = Encode | Decode | Describe


class Encoded(Wire, frozen=True, tag="encoded"):
    """Tokens, and what each adds to a text."""

    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    context_length: int
    """Of the engine; 0 where it is the model's own."""


class Decoded(Wire, frozen=True, tag="decoded"):
    """A text, special tokens in it."""

    text: str


class Described(Wire, frozen=True, tag="described"):
    """What the checkpoint says of its tokenizer."""

    about: dict[str, Any]


class TextRefused(Wire, frozen=True, tag="refused"):
    """It cannot be done."""

    problem: Problem


TextTold = Encoded | Decoded | Described | TextRefused
