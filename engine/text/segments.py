"""Tokens of texts that grow: what was said before is cut where it may be cut, and not tokenised again.

A control token parts a text before anything else is done to it, so what stands before one and what begins with one have
the same tokens together as apart. That is so of the tokens that `seams` gives, whatever the tokenizer. A turn of a
conversation then costs what is new of it, and so does another conversation behind the same instructions; the tokens are
those of the whole text, always: nothing is remembered but what a text's tokens are.
"""

from __future__ import annotations

import re
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

MOST_TOKENS: Final = 1 << 20
"""Remembered: some 10 MB with their texts."""
_OWN: Final = 40
"""What it takes to remember a text at all, in tokens."""


class Added(Protocol):
    """A token that a tokenizer looks for before it does anything else."""

    content: str
    special: bool
    lstrip: bool
    single_word: bool
    normalized: bool


def seams(added: Iterable[Added]) -> tuple[str, ...]:
    """Choose the control tokens before which a text may be cut.

    None of them takes in the space before it, is looked for in what a normaliser leaves, or depends on its neighbours;
    no other added token can begin before it and reach into it; and it does not look like a part of a word, on which
    tokens before it may depend.
    """
    every = list(added)
    plain = [one for one in every if not (one.lstrip or one.single_word or one.normalized)]
    others = [one.content for one in every if one not in plain]

    def parts(one: Added) -> bool:
        first = one.content[:1]
        return (
            one.special
            and not (first.isalnum() or first.isspace() or first in {"", "_"})
            and not any(first in other.content[1:] for other in every)
            and not any(other.startswith(one.content) for other in others)
        )

    return tuple(one.content for one in plain if parts(one))


class Segments:
    """Tokenises texts, and remembers the parts of the last ones."""

    def __init__(
        self, encode: Callable[[str], list[int]], seams: Iterable[str], quotes: tuple[str, str], most: int = MOST_TOKENS
    ) -> None:
        """Begin with nothing.

        Args:
            encode: gives the tokens of a text.
            seams: texts before which it may be cut, if they are not between `quotes`.
            quotes: what stands before and behind that in which nothing is a control token.
            most: tokens that are remembered.
        """
        self._encode = encode
        self._most = most
        self._held = 0
        self._known: OrderedDict[str, array[int]] = OrderedDict()
        self._cut: re.Pattern[str] | None = None
        if found := sorted(seams, key=len, reverse=True):
            opening, closing = map(re.escape, quotes)
            # what is between quotes is passed over whole
            self._cut = re.compile(f"{opening}.*?{closing}|({'|'.join(map(re.escape, found))})", re.DOTALL)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        if self._cut is None:
            return self._encode(text)
        tokens: list[int] = []
        for part in self._parts(text):
            tokens.extend(self._tokens(part))
        return tokens

    def _parts(self, text: str) -> Iterator[str]:
        assert self._cut is not None
        begin = 0
        for found in self._cut.finditer(text):
            at = found.start(1)
            if at > begin:
                yield text[begin:at]
                begin = at
        yield text[begin:]

    def _tokens(self, part: str) -> array[int]:
        known = self._known.get(part)
        if known is not None:
            self._known.move_to_end(part)
            return known
        tokens = array("I", self._encode(part))
        self._known[part] = tokens
        self._held += len(tokens) + _OWN
        while self._held > self._most:
            _, old = self._known.popitem(last=False)
            self._held -= len(old) + _OWN
        return tokens
