"""Files that come with a prompt of the NATS agent protocol: texts are read, pictures are shown, all else is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bus.prompting import Attachment, Unfit
from infra.errors import PictureRefused
from infra.pictures import picture

_LONGEST_NAME = 200
_ODD = re.compile(r"[^\w .,()+@=-]")
"""What a name holds that could be taken for something else where it is read."""


def laid_open(prompt: str, attachments: Sequence[Attachment]) -> tuple[str, list[bytes]]:
    """Give a prompt with the texts of its files behind it, and the bytes of its pictures.

    Raises:
        Unfit: a file is empty, or neither text in UTF-8 nor a picture that models take.
    """
    parts, pictures = [prompt], list[bytes]()
    for attachment in attachments:
        name = _safe(attachment.filename)
        if not attachment.content:
            raise Unfit(400, f"attachment {name!r} is empty")
        text = _text(attachment.content)
        if text is not None:
            parts.append(f'<attachment name="{name}">\n{text}\n</attachment>')
            continue
        try:
            picture(attachment.content)
        except PictureRefused as error:
            kinds = "neither text in UTF-8 nor a PNG, JPEG, GIF or WebP picture"
            raise Unfit(400, f"attachment {name!r} is {kinds}: send what it says as text") from error
        pictures.append(attachment.content)
    return "\n\n".join(parts), pictures


def _text(content: bytes) -> str | None:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _safe(name: str) -> str:
    """Give the last part of a path, without what could lead astray; who sent it is not trusted with more."""
    last = re.split(r"[/\\]", name)[-1]
    return _ODD.sub("_", last)[:_LONGEST_NAME] or "file"
