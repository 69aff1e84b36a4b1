"""Bodies of requests, taken whole and within bounds before anybody looks at them."""

from __future__ import annotations

import asyncio
import re
from itertools import accumulate

from starlette.types import Message, Receive

from infra.bridge.openai import BadRequest

_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_PIECE = re.compile(_TEXT.pattern + rb"|[\[\]{}]", re.DOTALL)
_LOOKED_THROUGH = 1 << 16
"""Bytes of a body whose deep field is looked for, piece by piece."""
_BRACKETS = b"[]{}"
_OTHERS = bytes(set(range(256)) - set(_BRACKETS))
_STEPS = bytes.maketrans(_BRACKETS, b"\x01\xff\x01\xff")


async def whole_body(receive: Receive, most: int, seconds: float) -> bytes:
    """Read a body.

    Raises:
        BadRequest: it is larger than `most` bytes (413), or not there in time (408).
    """
    pieces, size = list[bytes](), 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    break
                piece = message.get("body", b"")
                size += len(piece)
                if size > most:
                    raise BadRequest(413, f"the body is larger than {most} bytes: send less", None, "too_large")
                pieces.append(piece)
                if not message.get("more_body", False):
                    break
    except TimeoutError as error:
        raise BadRequest(408, f"the body was not there within {seconds:.0f} s", None, "timeout") from error
    return b"".join(pieces)


def refuse_deep(body: bytes, most: int) -> None:
    """See that JSON is not nested too deeply: what decodes it, and what it is for, may go down into it.

    Raises:
        BadRequest: it is: 400.
    """
    if body.count(b"[") + body.count(b"{") <= most:
        return  # however they stand
    steps = _TEXT.sub(b"", body).translate(None, _OTHERS).translate(_STEPS)
    if max(accumulate(memoryview(steps).cast("b")), default=0) > most:
        field = _deep_field(body, most) if len(body) <= _LOOKED_THROUGH else None
        where = "the body" if field is None else field
        raise BadRequest(400, f"{where} is nested more than {most} deep: send less depth", field, "invalid_json")


def _deep_field(body: bytes, most: int) -> str | None:
    """Name the field of the outermost object in which it gets too deep."""
    depth, last = 0, None
    for found in _PIECE.finditer(body):
        piece = found.group()
        if piece[:1] == b'"':
            last = piece if depth == 1 else last
        elif (depth := depth + (1 if piece in b"[{" else -1)) > most:
            break
    return None if last is None else last[1:-1].decode(errors="replace")


def again(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read to whoever asks next, and then what comes."""
    given = False

    async def told() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return told


def bounded(receive: Receive, most: int) -> Receive:
    """Pass a body on piece by piece, up to a size.

    What it gives raises BadRequest for more.
    """
    size = 0

    async def told() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise BadRequest(413, f"the body is larger than {most} bytes: send less", None, "too_large")
        return message

    return told
