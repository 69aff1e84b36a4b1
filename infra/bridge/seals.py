"""What a provider wants back of what was thought, as clients carry it: they bring it back as it is."""

from __future__ import annotations

import base64
from typing import Final

import msgspec

from schemas.messages import Image, Message, Thought
from schemas.openai import ChatMessage

_MARK: Final = "ostinato:"
_TEXT_MARK: Final = "ostinato-text:"


class SealedMessage(ChatMessage, frozen=True):
    """A message of the assistant's with that, or one of the user's that was kept, with its pictures."""

    thoughts: tuple[Thought, ...] = ()
    images: tuple[Image, ...] = ()

    def message(self) -> Message:
        """Give it as one of ours."""
        return msgspec.structs.replace(super().message(), thoughts=self.thoughts, images=self.images)


def sealed(thoughts: tuple[Thought, ...]) -> str:
    """Write thoughts."""
    return _MARK + base64.b64encode(msgspec.json.encode(thoughts)).decode()


def unsealed(data: str) -> tuple[Thought, ...]:
    """Read thoughts back; those of others are nothing to anybody here."""
    if not data.startswith(_MARK):
        return ()
    try:
        read = base64.b64decode(data.removeprefix(_MARK), validate=True)
        return msgspec.json.decode(read, type=tuple[Thought, ...])
    except (ValueError, msgspec.DecodeError):
        return ()


def sealed_text(reasoning: str) -> str:
    """Write what was thought, for clients that bring back nothing else of it."""
    return _TEXT_MARK + base64.b64encode(reasoning.encode()).decode()


def unsealed_text(data: str) -> str:
    """Read it back; anything else is nothing."""
    if not data.startswith(_TEXT_MARK):
        return ""
    try:
        return base64.b64decode(data.removeprefix(_TEXT_MARK), validate=True).decode()
    except ValueError:
        return ""
