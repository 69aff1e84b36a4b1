"""Conversations of two speakers in turns of several parts, as Anthropic, Google and AWS want them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from actors.models.history import parted, repaired
from actors.models.registry import Provider
from actors.models.wires.failures import unheeded
from schemas.messages import Image, Message, Thought

Part = dict[str, Any]


class Turns(NamedTuple):
    """What the system says, and the turns."""

    system: str
    turns: list[tuple[str, list[Part]]]
    """(speaker, parts): `user` and `assistant` in turn, the user first."""


def turns(messages: tuple[Message, ...], provider: Provider, parts: Callable[[Message], list[Part]]) -> Turns:
    """Write a conversation's messages as parts, those of one speaker in a row in one turn."""
    system, said = parted(repaired(messages, provider))
    built: list[tuple[str, list[Part]]] = []
    for message in said:
        speaker = "assistant" if message.role == "assistant" else "user"
        if built and built[-1][0] == speaker:
            built[-1][1].extend(parts(message))
        else:
            built.append((speaker, parts(message)))
    return Turns(system, built)


def said_and_shown(message: Message) -> Iterator[str | Image]:
    """Go through what a user said and showed, in the order in which it was: texts, and pictures."""
    said = 0
    for image in message.images:
        place = max(said, len(message.content) - image.rest)
        if message.content[said:place]:
            yield message.content[said:place]
        said = place
        yield image
    if message.content[said:] or not message.images:
        yield message.content[said:]


def inline(image: Image, name: str) -> tuple[str, str]:
    """Give a picture's kind and its bytes in base64, for providers that fetch nothing.

    Raises:
        ProviderFailed: it is at an address elsewhere.
    """
    head, comma, data = image.url.partition(",")
    if not comma or not head.startswith("data:"):
        raise unheeded(name, "messages", "fetches no images: send its bytes as data:image/png;base64,…")
    return head.removeprefix("data:").partition(";")[0], data


def thought_and_said(message: Message, origin: str) -> Iterator[tuple[Thought, str] | str]:
    """Go through what an assistant thought and said in the order in which it was: thoughts with their text, and texts.

    Thoughts of another provider are left out; so are those whose text was changed since.
    """
    said = begun = 0
    for thought in message.thoughts:
        text = message.reasoning[begun : begun + thought.length]
        begun += thought.length
        if thought.origin != origin or thought.call_id or len(text) < thought.length:
            continue
        if thought.after > said:
            yield message.content[said : thought.after]
            said = thought.after
        yield thought, text
    if message.content[said:]:
        yield message.content[said:]


def arguments_of(text: str) -> dict[str, Any]:
    """Read a call's arguments as the object that these providers take them as; what is none is told as a text."""
    try:
        found = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        return {"arguments": text}
    return found if isinstance(found, dict) else {"arguments": found}
