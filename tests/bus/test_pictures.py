"""Pictures are kept sealed, each with a key that only its message has."""

from __future__ import annotations

import base64

import pytest
from msgspec.structs import replace

from actors.runtime.context import SystemChance
from actors.testing import CountedIds
from bus.blobs import Blobs
from bus.connection import Connection
from bus.errors import LogDamaged
from bus.pictures import BadPicture, Pictures
from bus.streams import ensure_streams
from schemas.blobs import BlobReference
from schemas.messages import Image

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

BYTES = b"\x89PNG\r\n\x1a\n" + b"Quetzalcoatlus" * 20_000
URL = f"data:image/png;base64,{base64.b64encode(BYTES).decode()}"


@pytest.fixture
async def pictures(connection: Connection) -> Pictures:
    await ensure_streams(connection, shards=4)
    return Pictures(Blobs(connection), SystemChance(), CountedIds())


async def test_a_picture_comes_back_as_it_was_and_the_store_has_it_sealed(
    pictures: Pictures, connection: Connection
) -> None:
    kept = await pictures.kept(Image(url=URL, detail="low", rest=3))
    assert (kept.url, kept.media_type, kept.detail, kept.rest) == ("", "image/png", "low", 3)
    held = await Blobs(connection).get(BlobReference(kept.blob, kept.size))
    assert b"Quetzal" not in held
    assert await pictures.shown(kept) == Image(url=URL, media_type="image/png", size=kept.size, detail="low", rest=3)
    assert await pictures.kept(kept) == kept


async def test_the_same_picture_in_another_message_has_another_key(pictures: Pictures) -> None:
    first, second = [await pictures.kept(Image(url=URL)) for _ in range(2)]
    assert first.key != second.key
    with pytest.raises(LogDamaged, match=first.blob):
        await pictures.shown(replace(first, key=second.key))


async def test_a_picture_that_is_gone_is_said_to_be(pictures: Pictures) -> None:
    kept = await pictures.kept(Image(url=URL))
    with pytest.raises(LogDamaged, match="missing or altered"):
        await pictures.shown(replace(kept, blob="0" * 64))


async def test_one_at_an_address_stays_there(pictures: Pictures) -> None:
    image = Image(url="https://example.com/cat.png")
    assert await pictures.kept(image) == await pictures.shown(image) == image


@pytest.mark.parametrize(
    ("url", "mend"),
    [
        ("cat.png", "https:// address"),
        ("file:///etc/passwd", "https:// address"),
        ("", "https:// address"),
        ("data:image/png,abc", "base64"),
        ("data:image/svg+xml;base64,YWJj", "image/webp"),
        ("data:text/html;base64,YWJj", "image/webp"),
        ("data:image/png;base64,a b!", "no base64"),
        ("data:image/png;base64,", "at least one"),
    ],
)
async def test_what_is_no_picture_is_refused_with_what_to_do(pictures: Pictures, url: str, mend: str) -> None:
    with pytest.raises(BadPicture, match=mend):
        await pictures.kept(Image(url=url))
