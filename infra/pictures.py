"""Puts the pictures of a command's messages away before it is sent: commands and events hold references."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from typing import Final

from msgspec.structs import replace

from bus.blobs import Blobs
from bus.connection import Connection
from bus.pictures import BadPicture, Pictures
from infra.errors import PictureRefused
from infra.follow import ReadBack, follow
from schemas.commands import Command, Generate, RunAgent
from schemas.context import Chance, Ids
from schemas.live import Frame
from schemas.messages import Image, Message

MOST: Final = 64
"""Pictures of one command."""
_MARKS: Final = {
    "image/png": re.compile(rb"\x89PNG\r\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}
"""What files of each kind begin with."""


def picture(given: bytes | str) -> Image:
    """Give a picture to show: its bytes, or where it is.

    Raises:
        PictureRefused: the bytes are no PNG, JPEG, GIF or WebP.
    """
    if isinstance(given, str):
        return Image(url=given)
    for kind, mark in _MARKS.items():
        if mark.match(given):
            return Image(url=f"data:{kind};base64,{base64.b64encode(given).decode()}")
    raise PictureRefused("images", f"these {len(given)} bytes are none of {', '.join(_MARKS)}")


async def with_pictures_kept(command: Command, connection: Connection, chance: Chance, ids: Ids) -> Command:
    """Give a command whose pictures the object store keeps; the command itself where it has none.

    Raises:
        PictureRefused: one is none; names its message.
        Refused: the store takes no more.
        Unavailable: no JetStream.
        TimeoutError: no answer.
    """
    data = command.data
    if not isinstance(data, RunAgent | Generate):
        return command
    count = sum(len(message.images) for message in data.messages)
    if not count:
        return command
    if count > MOST:
        raise PictureRefused("messages", f"{count} pictures: send {MOST} at most")
    pictures, messages = Pictures(Blobs(connection), chance, ids), list[Message]()
    for at, message in enumerate(data.messages):
        try:
            images = [await pictures.kept(image) for image in message.images]
        except BadPicture as error:
            raise PictureRefused(f"messages[{at}].content", f"image_url: {error}") from error
        messages.append(replace(message, images=tuple(images)) if images else message)
    return replace(command, data=replace(data, messages=tuple(messages)))


async def follow_pictured(
    connection: Connection, read_back: ReadBack, command: Command, chance: Chance, ids: Ids, timeout_s: float
) -> AsyncIterator[Frame]:
    """Put a command's pictures away, then send and follow it; as `infra.follow.follow`.

    Raises:
        PictureRefused: one is none.
        TimeoutError: the end did not come within `timeout_s` seconds.
        Refused: JetStream does not take it.
        Unavailable: no NATS.
    """
    kept = await with_pictures_kept(command, connection, chance, ids)
    async for frame in follow(connection, read_back, kept, timeout_s):
        yield frame
