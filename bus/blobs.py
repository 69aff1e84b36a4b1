"""Large payloads in NATS's object store, by content hash: put before the envelope that refers to them.

The layout is that of NATS object stores (ADR-20), so that `nats object get BLOB <hash>` reads them too; reading is our
own, because nats-py reads by an ordered push consumer, which may lose messages without a word.
"""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from bus.batch import on_leader, read_surely
from bus.connection import Connection, accepted
from bus.errors import LogDamaged
from bus.streams import BLOBS
from schemas import codec
from schemas.blobs import LIMIT, BlobReference
from schemas.context import Ids
from schemas.envelope import Envelope, Fact

CHUNK = 128 * 1024
_PUBLISH_S = 5.0
_KEPT_BYTES = 32 << 20


def content_hash(data: bytes) -> str:
    """Hash a payload: SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def is_large(fact: Fact) -> bool:
    """Say whether a payload is too large for an envelope."""
    return len(memoryview(fact.payload)) > LIMIT


class Blobs:
    """Puts payloads away and gets them back; keeps the latest at hand."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    async def put(self, data: bytes, nuid: str) -> BlobReference:
        """Store bytes unless they are there; durable when this returns. Safe to repeat.

        Args:
            data: the bytes.
            nuid: a name for their chunks that nobody else uses.

        Raises:
            Refused: the store takes no more.
            Unavailable: no JetStream.
            TimeoutError: no answer.
        """
        name = content_hash(data)
        reference = BlobReference(hash=name, size=len(data))
        if await self.sound(reference):
            self._keep(name, data)
            return reference
        for start in range(0, len(data), CHUNK):
            await self._publish(f"$O.BLOB.C.{nuid}", data[start : start + CHUNK])
        info = {
            "name": name,
            "options": {"max_chunk_size": CHUNK},
            "bucket": "BLOB",
            "nuid": nuid,
            "size": len(data),
            "chunks": -(-len(data) // CHUNK),
            "digest": f"SHA-256={base64.urlsafe_b64encode(bytes.fromhex(name)).decode()}",
        }
        await self._publish(_about(name), msgspec.json.encode(info), {"Nats-Rollup": "sub"})
        self._keep(name, data)
        return reference

    async def sound(self, reference: BlobReference) -> bool:
        """Say whether the store has all of it, as it was put.

        Raises:
            Refused: JetStream says no.
            Unavailable: no JetStream.
            TimeoutError: no answer.
        """
        return await self._read(reference) is not None

    async def get(self, reference: BlobReference) -> bytes:
        """Return what was put.

        Raises:
            LogDamaged: it is not there, or not what was put.
            Unavailable: no JetStream.
            TimeoutError: no answer.
        """
        kept = self._kept.get(reference.hash)
        if kept is not None:
            return kept
        data = await self._read(reference)
        if data is None:
            raise LogDamaged(BLOBS, 0, f"payload {reference.hash!r} is missing or altered")
        self._keep(reference.hash, data)
        return data

    async def _read(self, reference: BlobReference) -> bytes | None:
        info = await self._info(reference.hash)
        if info is None:
            return None
        data = b"".join(await self._chunks(info["nuid"], info["chunks"]))
        return data if content_hash(data) == reference.hash else None

    async def slim(self, facts: Sequence[Fact], ids: Ids) -> tuple[Fact, ...]:
        """Put large payloads away, and references in their place."""
        return tuple([await self._slim(fact, ids) for fact in facts])

    async def whole(self, envelope: Envelope) -> Envelope:
        """Put the payloads back in the place of their references."""
        if not any(codec.is_reference(fact.payload) for fact in envelope.facts):
            return envelope
        return replace(envelope, facts=tuple([await self._whole(fact) for fact in envelope.facts]))

    async def _slim(self, fact: Fact, ids: Ids) -> Fact:
        if not is_large(fact):
            return fact
        reference = await self.put(bytes(fact.payload), ids.new("b"))
        return replace(fact, payload=codec.reference_payload(reference))

    async def _whole(self, fact: Fact) -> Fact:
        if not codec.is_reference(fact.payload):
            return fact
        return replace(fact, payload=msgspec.Raw(await self.get(codec.reference_of(fact.payload))))

    async def _info(self, name: str) -> dict[str, Any] | None:
        item = await on_leader(self._connection, BLOBS, {"last_by_subj": _about(name)})
        return None if item is None else msgspec.json.decode(item.data, type=dict[str, Any])

    async def _chunks(self, nuid: str, count: int) -> list[bytes]:
        pieces: list[bytes] = []
        first = 1
        while len(pieces) < count and (batch := await read_surely(self._connection, BLOBS, f"$O.BLOB.C.{nuid}", first)):
            pieces += [item.data for item in batch]
            first = batch[-1].sequence + 1
        return pieces

    async def _publish(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        accepted(await self._connection.request(subject, data, _PUBLISH_S, headers))

    def _keep(self, name: str, data: bytes) -> None:
        self._kept[name] = data
        self._kept.move_to_end(name)
        while sum(map(len, self._kept.values())) > _KEPT_BYTES and len(self._kept) > 1:
            self._kept.popitem(last=False)


def _about(name: str) -> str:
    return f"$O.BLOB.M.{base64.urlsafe_b64encode(name.encode()).decode()}"
