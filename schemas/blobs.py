"""Payloads that are too large to ride in an envelope: what stands in their place."""

from __future__ import annotations

from schemas.wire import Wire

LIMIT = 64 * 1024
"""Bytes of a payload that still ride in the envelope."""


class BlobReference(Wire, frozen=True, tag="blob.reference"):
    """In the place of a payload: its hash and size. The fact's type stays the payload's."""

    hash: str
    """SHA-256 of the payload's bytes, hexadecimal: also its name in the object store."""
    size: int
    """Bytes."""
