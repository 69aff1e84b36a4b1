"""Processors that look at characters alone: clean Unicode, and an answer's parts put together."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from actors.processors.processor import About, Processor, Stream
from schemas.messages import Message

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, but for tabs and ends of lines
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"  # letters that only machines read
)
"""Characters that nobody sees, some of which turn the order of what is seen; joiners, and what makes a picture of a
character, are not among them."""


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
        return _HIDDEN.sub("", plain)


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
