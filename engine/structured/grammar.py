"""What a grammar backend is: it compiles grammars for one vocabulary, and follows answers through them token by token.

A backend is installed as an entry point of the group `ostinato.grammars`: a callable that takes a `Vocabulary` and
returns a `Backend`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from schemas.structured import Structured

Bits = npt.NDArray[np.uint8]
"""One bit a token, the lowest of a byte first: [ceil(vocabulary / 8) or more]."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A model's tokens."""

    tokenizer: str
    """The checkpoint's `tokenizer.json`."""
    size: int
    """Logits of the model: every token that can be sampled is below."""
    ends: tuple[int, ...]
    """Tokens that end an answer. There is at least one."""


class GrammarError(Exception):
    """A grammar that cannot be compiled; the message is for whoever wrote it."""


class Matcher(Protocol):
    """Where one answer stands in its grammar. Tokens that end an answer are none of its business."""

    def mask(self, row: Bits) -> None:
        """Set the bits of all tokens that may come next, and clear those of all others.

        Raises:
            GrammarError: It has become too complex to say.
        """

    def accept(self, token: int) -> bool:
        """Take the next token; false if it may not come, and then the matcher is of no use any more."""

    def is_accepting(self) -> bool:
        """Say whether the answer may end here."""

    def is_whole(self) -> bool:
        """Say whether the answer may end here and do nothing else."""

    def copy(self) -> Matcher:
        """Return another one that stands at the same place."""

    def closing(self, most: int, likely: Sequence[int]) -> tuple[int, ...] | None:
        """Name tokens, at most so many, after which the answer may end; empty where it may end at once.

        `likely` is what would have closed it before the last token. `None`, if no way is found, has that token taken
        back.
        """


class Grammar(Protocol):
    """A compiled grammar."""

    @property
    def shortest(self) -> tuple[int, ...] | None:
        """Tokens of an answer as short as it can be. `None` promises nothing to answers that run out of tokens."""

    def matcher(self) -> Matcher:
        """Return one that stands at the beginning."""


class Backend(Protocol):
    """Compiles grammars, in one thread at a time."""

    def compile(self, structured: Structured) -> Grammar:
        """Compile one.

        Raises:
            GrammarError: It is none.
        """
