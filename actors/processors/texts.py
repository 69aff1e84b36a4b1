"""Processors that look at characters alone: clean Unicode, and an answer's parts put together."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from actors.processors.processor import About, Processor, Stream
from schemas.messages import Message

_INVISIBLE = frozenset(
    "\u00ad\u200b\u200e\u200f\u2060\ufeff\u061c\u180e\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
"""Characters that nobody sees, some of which turn the order of what is seen; joiners are not among them."""
_TAGS = range(0xE0000, 0xE0080)
"""Letters that only machines read."""
_KEPT = frozenset("\n\t")


@dataclass(frozen=True)
class UnicodeNormalizer(Processor):
    """Makes what the model reads plain: one form of each character, and none that nobody sees."""

    form: Literal["NFC", "NFKC"] = "NFC"
    """`NFKC` makes look-alikes such as full-width letters ordinary ones, and superscripts digits."""
    name: str = "unicode-normalizer"
    everywhere: bool = True

    async def prompt(self, messages: Sequence[Message], about: About) -> Sequence[Message]:
        """Clean all that was said, but not the agent's own instructions."""
        return tuple(
            message if message.role == "system" else replace(message, content=self.cleaned(message.content))
            for message in messages
        )

    async def tool_result(self, tool: str, content: str, about: About) -> str:
        """Clean a tool's result."""
        return self.cleaned(content)

    def cleaned(self, text: str) -> str:
        """Return the text with one form of each character, and without those that nobody sees."""
        if text.isascii() and text.isprintable():
            return text
        plain = unicodedata.normalize(self.form, text.replace("\r\n", "\n").replace("\r", "\n"))
        return "".join(character for character in plain if _is_seen(character))


def _is_seen(character: str) -> bool:
    if character in _KEPT:
        return True
    hidden = character in _INVISIBLE or ord(character) in _TAGS
    return not hidden and unicodedata.category(character) != "Cc"


@dataclass(frozen=True)
class BatchParts(Processor):
    """Puts an answer's parts together, so that its watchers hear less often: whole sentences, or so many characters."""

    size: int = 200
    name: str = "batch-parts"

    def stream(self, about: About) -> Stream:
        """Collect."""
        return _Batching(self.size)


class _Batching:
    def __init__(self, size: int) -> None:
        self._size = size
        self._text = ""

    def feed(self, text: str) -> str:
        self._text += text
        ends = [self._text.rfind(end) + len(end) for end in (". ", "! ", "? ", "\n") if end in self._text]
        at = len(self._text) if len(self._text) >= self._size else max(ends, default=0)
        given, self._text = self._text[:at], self._text[at:]
        return given

    def end(self) -> str:
        given, self._text = self._text, ""
        return given
