"""A bundle, version 1: threads of a log in a file of their own, one JSON object a line.

The header, then for each thread a `thread` line and its events in the order of the log. `digest` in the header finds
a file that was cut off or changed; it is no signature.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from schemas.wire import Wire

FORMAT = "ostinato-bundle"
VERSION = 1


class BundleHeader(Wire, frozen=True):
    """The first line."""

    format: str
    version: int
    redacted: bool
    """Whether texts were replaced: then no decision can be checked, for decisions depend on them."""
    threads: int
    events: int
    digest: str
    """BLAKE2b (128 bits, hexadecimal) of this line with an empty digest, and of the digest of all lines after it."""


class BundledThread(Wire, frozen=True, tag="thread", tag_field="line"):
    """A thread begins; its events follow."""

    tenant: str
    id: str
    events: Annotated[int, msgspec.Meta(ge=1)]


class BundledEvent(Wire, frozen=True, tag="event", tag_field="line"):
    """An event, and where the log had it."""

    incarnation: int
    sequence: int
    idx: int
    time: int
    """Of its envelope, microseconds since the Unix epoch."""
    kind: str
    entity: str
    version: int
    type: str
    cause: str
    payload: msgspec.Raw
    traceparent: str = ""
    key: str | None = None


BundleLine = BundledThread | BundledEvent
