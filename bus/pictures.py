"""Pictures of messages in the object store: each sealed with a key of its own, which the message alone has.

The store never forgets, and a message can be erased: so a picture goes with the key that went with its message. Who
puts it there needs no key of the thread's, which is given when the thread begins.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec.structs import replace

from bus.blobs import Blobs
from bus.errors import LogDamaged
from bus.streams import BLOBS
from schemas.blobs import BlobReference
from schemas.context import Chance, Ids
from schemas.messages import Image

KINDS: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""What models take."""
MOST_BYTES: Final = 20 << 20
"""Of one picture."""
_DATA = re.compile(r"data:([a-z0-9.+/-]+);base64,", re.IGNORECASE)
_NONCE = bytes(12)  # every key seals once


class BadPicture(ValueError):
    """What is no picture that a model could be shown; the message says what to do."""


class Pictures:
    """Puts pictures away and gets them back."""

    def __init__(self, blobs: Blobs, chance: Chance, ids: Ids) -> None:
        self._blobs = blobs
        self._chance = chance
        self._ids = ids

    async def kept(self, image: Image) -> Image:
        """Give a picture whose bytes the store keeps; one that is at an address elsewhere stays there.

        Raises:
            BadPicture: it is none.
            Refused: the store takes no more.
            Unavailable: no JetStream.
            TimeoutError: no answer.
        """
        if image.blob or not image.url.startswith("data:"):
            _check_address(image)
            return image
        media_type, data = opened(image.url)
        key = self._chance.bits(256).to_bytes(32, "big")
        reference = await self._blobs.put(AESGCM(key).encrypt(_NONCE, data, None), self._ids.new("b"))
        return replace(image, blob=reference.hash, size=reference.size, key=key.hex(), media_type=media_type, url="")

    async def shown(self, image: Image) -> Image:
        """Give a picture with its bytes, as a `data:` address.

        Raises:
            BadPicture: it is none.
            LogDamaged: the store has lost it.
            Unavailable: no JetStream.
            TimeoutError: no answer.
        """
        if not image.blob:
            return image
        sealed = await self._blobs.get(BlobReference(image.blob, image.size))
        try:
            data = AESGCM(bytes.fromhex(image.key)).decrypt(_NONCE, sealed, None)
        except (InvalidTag, ValueError) as error:
            raise LogDamaged(BLOBS, 0, f"picture {image.blob!r} is not what its message's key sealed") from error
        return replace(image, url=f"data:{image.media_type};base64,{base64.b64encode(data).decode()}", blob="", key="")


def opened(url: str) -> tuple[str, bytes]:
    """Read a `data:` address: what kind it is of, and its bytes.

    Raises:
        BadPicture: it is no picture.
    """
    found = _DATA.match(url)
    if found is None:
        raise BadPicture("write it as data:image/png;base64,…")
    media_type = found[1].lower()
    if media_type not in KINDS:
        raise BadPicture(f"{media_type!r} is no picture that models take: give one of {', '.join(KINDS)}")
    try:
        data = base64.b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadPicture(f"its data is no base64: {error}") from error
    if not 0 < len(data) <= MOST_BYTES:
        raise BadPicture(f"it has {len(data)} bytes: give at least one, and {MOST_BYTES} at most")
    return media_type, data


def _check_address(image: Image) -> None:
    if not image.blob and not image.url.startswith(("https://", "http://")):
        raise BadPicture("give an https:// address, or data:image/png;base64,…")
