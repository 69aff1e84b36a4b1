"""The commit envelope, version 1: one message on `ev.<shard>` that holds many events of many entities.

Array-like JSON. `previous` chains envelopes: it is the hash of the bytes of the shard's previous envelope, so a
lost, altered or reordered message shows. Readers decode in two stages: the envelope, then only the payloads wanted.
"""

from __future__ import annotations

import msgspec

from schemas.wire import Record

FORMAT = 1
"""First field of every envelope; a reader that does not know it stops."""

GENESIS = ""
"""`previous` of a shard's first envelope."""


class Fact(Record, frozen=True):
    """One event in an envelope."""

    tenant: str
    thread: str
    """The shard key."""
    kind: str
    """`thread`, `run`, `generation` or `shard`."""
    entity: str
    version: int
    """1 for the entity's first event, contiguous."""
    type: str
    """The payload's tag."""
    cause: str
    """The command id or effect id that led to it."""
    payload: msgspec.Raw
    traceparent: str = ""
    key: str | None = None
    """Id of the key that seals the payload; None is plain."""


class Envelope(Record, frozen=True):
    """One commit."""

    format: int
    shard: int
    term: int
    """Counts the shard's owners."""
    writer: str
    """The process (`producer_run`)."""
    commit: str
    """Also the message's `Nats-Msg-Id`."""
    code: str
    """Version of the code that decided."""
    time: int
    """Microseconds since the Unix epoch; orders nothing."""
    previous: str
    facts: tuple[Fact, ...]
