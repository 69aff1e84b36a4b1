"""The bytes that single tokens stand for, which may be a part of a character.

Vocabularies spell bytes in two ways: byte-level ones have a printable character for each of the 256 (Radford et al.
2019, GPT-2), those of SentencePiece write text as it is, spaces as U+2581, and bytes they lack as <0x0A>.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from tokenizers import Tokenizer

_PRINTED: Final = (*range(33, 127), *range(161, 173), *range(174, 256))
"""Bytes that stand for themselves in a byte-level vocabulary; the others come after them, from U+0100 on."""
_BYTES: Final = {chr(byte): byte for byte in _PRINTED} | {
    chr(256 + at): byte for at, byte in enumerate(byte for byte in range(256) if byte not in _PRINTED)
}
_SPACE: Final = "\u2581"
_ONE_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Pieces:
    """Gives a token's bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added: dict[int, Any] = tokenizer.get_added_tokens_decoder()
        self._added = {token: str(entry.content) for token, entry in added.items()}
        kinds = set(_kinds(_decoder(tokenizer)))
        self._byte_level = "ByteLevel" in kinds
        self._fallback = "ByteFallback" in kinds

    def piece(self, token: int) -> bytes:
        """Return what a token adds to a text; nothing for an id that is no token."""
        text = self._added.get(token)
        if text is not None:
            return text.encode()
        text = self._tokenizer.id_to_token(token) or ""
        if self._byte_level and all(letter in _BYTES for letter in text):
            return bytes([_BYTES[letter] for letter in text])
        found = _ONE_BYTE.fullmatch(text) if self._fallback else None
        return bytes.fromhex(found.group(1)) if found else text.replace(_SPACE, " ").encode()


def _decoder(tokenizer: Tokenizer) -> dict[str, Any]:
    if tokenizer.decoder is None:
        return {}
    return msgspec.json.decode(tokenizer.decoder.__getstate__(), type=dict[str, Any])


def _kinds(decoder: dict[str, Any]) -> Iterator[str]:
    """Name the parts of a decoder."""
    yield decoder.get("type", "")
    for part in decoder.get("decoders", ()):
        yield from _kinds(part)
