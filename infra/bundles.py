"""Bundle files: threads written to one and read from one, a thread at a time; gzip where the name ends in `.gz`."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

import msgspec
from msgspec.structs import replace

from bus.store import StoredEvent
from infra.errors import BundleUnusable
from infra.redaction import Redactor
from schemas import codec
from schemas.bundles import FORMAT, VERSION, BundledEvent, BundledThread, BundleHeader, BundleLine
from schemas.envelope import Fact
from schemas.errors import BadShape

_CHUNK = 1 << 20
_BROKEN = (OSError, EOFError, zlib.error, BadShape)
"""What reading a file that is no whole bundle may raise; a cut gzip ends in EOFError."""


class BundleWriter:
    """Writes a bundle; it is there, whole, once the `with` block is left without an error."""

    def __init__(self, path: Path, redactor: Redactor | None) -> None:
        """Begin.

        Args:
            path: where to.
            redactor: takes the texts out; None keeps them.
        """
        self._path = path
        self._redactor = redactor
        self._digest = blake2b(digest_size=16)
        self._body = cast("IO[bytes]", tempfile.TemporaryFile())  # noqa: SIM115  closed on leaving
        self.header = BundleHeader(FORMAT, VERSION, redactor is not None, 0, 0, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._body:
            if error is None:
                self._finish()

    def add(self, events: Sequence[StoredEvent]) -> None:
        """Write a thread, all of its events.

        Raises:
            BundleUnusable: one of them is not JSON.
        """
        first = events[0].fact
        self._line(BundledThread(first.tenant, first.thread, len(events)))
        for event in events:
            self._line(self._bundled(event))
        self.header = replace(self.header, threads=self.header.threads + 1, events=self.header.events + len(events))

    def _bundled(self, event: StoredEvent) -> BundledEvent:
        fact = event.fact
        try:
            msgspec.json.decode(fact.payload)
            payload = bytes(fact.payload) if self._redactor is None else self._redactor.event(fact.payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            problem = f"event {event.sequence}/{event.idx} of thread {fact.thread!r} cannot be read: {error}"
            raise BundleUnusable(self._path, problem, "leave that thread out") from error
        return BundledEvent(
            incarnation=event.incarnation,
            sequence=event.sequence,
            idx=event.idx,
            time=event.time,
            kind=fact.kind,
            entity=fact.entity,
            version=fact.version,
            type=fact.type,
            cause=fact.cause,
            payload=msgspec.Raw(payload),
            traceparent=fact.traceparent,
            key=fact.key,
        )

    def _line(self, line: BundleLine) -> None:
        data = codec.encode(line) + b"\n"
        self._digest.update(data)
        self._body.write(data)

    def _finish(self) -> None:
        self.header = replace(self.header, digest=_digest(self.header, self._digest.hexdigest()))
        part = self._path.with_name(f"{self._path.name}.part")
        self._body.seek(0)
        with part.open("wb") as plain:
            if self._path.name.endswith(".gz"):
                with gzip.GzipFile("", "wb", fileobj=plain, mtime=0) as packed:
                    self._copy(packed)
            else:
                self._copy(plain)
            plain.flush()
            os.fsync(plain.fileno())
        part.replace(self._path)

    def _copy(self, output: IO[bytes] | gzip.GzipFile) -> None:
        output.write(codec.encode(self.header) + b"\n")
        shutil.copyfileobj(self._body, output, _CHUNK)


class Bundle:
    """A bundle that was found whole."""

    def __init__(self, path: Path) -> None:
        """Read it through once.

        Raises:
            BundleUnusable: it is none, of a newer version, cut off or changed.
        """
        self._path = path
        with self._lines() as lines:
            self.header = self._header(next(lines, b""))
            digest = blake2b(digest_size=16)
            for line in lines:
                digest.update(line)
        if _digest(replace(self.header, digest=""), digest.hexdigest()) != self.header.digest:
            raise BundleUnusable(path, "it was cut off or changed: its content does not match its digest", _AGAIN)

    def threads(self) -> Iterator[list[StoredEvent]]:
        """Yield the threads' events, one thread after the other."""
        with self._lines() as lines:
            next(lines)
            for line in lines:
                thread: BundledThread = codec.decode(line, BundledThread)
                yield [_stored(thread, codec.decode(next(lines, b""), BundledEvent)) for _ in range(thread.events)]

    def _header(self, line: bytes) -> BundleHeader:
        try:
            header: BundleHeader = codec.decode(line, BundleHeader)
        except BadShape as error:
            raise BundleUnusable(self._path, "it is no bundle", _AGAIN) from error
        if header.format != FORMAT:
            raise BundleUnusable(self._path, f"it is no bundle but {header.format[:40]!r}", _AGAIN)
        if header.version != VERSION:
            problem = f"it has version {header.version}, this code reads {VERSION}"
            raise BundleUnusable(self._path, problem, "upgrade Ostinato")
        return header

    @contextmanager
    def _lines(self) -> Iterator[Iterator[bytes]]:
        try:
            with gzip.open(self._path) if self._path.name.endswith(".gz") else self._path.open("rb") as file:
                yield iter(file)
        except FileNotFoundError:
            raise
        except _BROKEN as error:
            raise BundleUnusable(self._path, str(error) or "it is cut off", _AGAIN) from error


_AGAIN = "export it again, or copy it again whole"


def _digest(header: BundleHeader, body: str) -> str:
    return codec.digest(codec.encode(replace(header, digest="")) + body.encode())


def _stored(thread: BundledThread, event: BundledEvent) -> StoredEvent:
    fact = Fact(
        tenant=thread.tenant,
        thread=thread.id,
        kind=event.kind,
        entity=event.entity,
        version=event.version,
        type=event.type,
        cause=event.cause,
        payload=event.payload.copy(),
        traceparent=event.traceparent,
        key=event.key,
    )
    return StoredEvent(event.incarnation, event.sequence, event.idx, event.time, fact)
