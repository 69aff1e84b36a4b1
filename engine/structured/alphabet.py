"""A vocabulary as ways to the end of a document are looked for in it: its single characters, its words, its ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer

from engine.structured.grammar import Bits

_ORDER: Final = '}])>",:0123456789'
"""What is tried first: what closes something, what leads to the next part, a digit."""


class Alphabet:
    """A vocabulary's single characters and words, in the order in which they are tried."""

    def __init__(self, tokenizer: LLTokenizer, ends: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.size = tokenizer.vocab_size
        self._words = -(-self.size // 32)
        others = np.full(self._words * 4, 255, np.uint8)
        for token in {*ends, *tokenizer.eos_tokens}:
            others[token >> 3] &= 255 - (1 << (token & 7))
        self._ends = np.flatnonzero(others != 255)
        self._others = others[self._ends]
        self.end = tokenizer.eos_token
        pieces = [tokenizer.decode_bytes([token]) for token in range(self.size)]
        single: dict[int, int] = {}
        for token, piece in enumerate(pieces):
            if len(piece) == 1 and not tokenizer.is_special_token(token):
                single.setdefault(piece[0], token)
        self.closers = np.array([single[byte] for byte in b'}]"' if byte in single], np.int64)
        """What closes something in JSON."""
        first = [single[byte] for byte in _ORDER.encode() if byte in single]
        rest = [single[byte] for byte in sorted(single, key=_plainness) if byte not in _ORDER.encode()]
        self.singles = np.array([*first, *rest], np.int64)
        """Tokens of one byte."""
        signs = [single[byte] for byte in sorted(single) if 32 < byte < 127 and not chr(byte).isalnum()]
        alike = [single[byte] for byte in b"01aA" if byte in single]
        self.few = np.array([*alike, *signs], np.int64)
        """Some of them: signs, and of digits and letters those that stand for all, where nearly anything may come."""
        self._lengths = np.array([len(piece) if piece.isalnum() else 0 for piece in pieces], np.int32)
        """Bytes of those tokens that are words or numbers; 0 for others."""
        self.digit, self.letter, self.quote = (single.get(ord(char)) for char in '0a"')

    def fill(self, matcher: LLMatcher, row: Bits) -> None:
        """Set the bits of what may come next, but for what ends an answer."""
        words = row[: self._words * 4]
        matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.size)
        row[self._ends] &= self._others

    def is_outside(self, matcher: LLMatcher) -> bool:
        """Say whether the answer may end here, or the string that it is in: after a quote that is none of its own."""
        if matcher.is_accepting():
            return True
        if self.quote is None or not matcher.validate_tokens([self.quote]):
            return False
        return self.letter is None or matcher.validate_tokens([self.quote, self.letter]) < 2

    def longest(self, allowed: npt.NDArray[np.bool_]) -> int:
        """Choose the longest word of those that are allowed; any allowed token if none is one."""
        found = int(np.argmax(self._lengths * allowed))
        return found if allowed[found] else int(np.argmax(allowed))

    def behind(self, token: int, way: Sequence[int]) -> tuple[int, ...]:
        """Spell what is left of a way's text behind as many bytes as a token has."""
        cut = len(self.tokenizer.decode_bytes([token]))
        return tuple(self.tokenizer.tokenize_bytes(self.tokenizer.decode_bytes(list(way))[cut:]))

    def allowed(self, matcher: LLMatcher) -> npt.NDArray[np.bool_]:
        """Say of each token whether it may come next."""
        row = np.zeros(self._words * 4, np.uint8)
        self.fill(matcher, row)
        return np.unpackbits(row, count=self.size, bitorder="little").view(np.bool_)


def _plainness(byte: int) -> tuple[bool, bool, int]:
    """Sort letters before signs, and those before what is no character alone and what only parts others."""
    return chr(byte).isspace(), not chr(byte).isalnum() or byte > 126, byte
