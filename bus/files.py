"""Files of clients in Postgres: written in parts, read in parts, never held whole; sealed with a key each.

A part's number (`at`) is that of the first of its lines, so a line is found without reading what stands before it, and
a line that is written again stands where it stood. Whoever deletes a file deletes its key with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NamedTuple

from bus.columns import whole
from bus.errors import BusError
from bus.keyring import KeyDestroyed
from bus.store import Store

PART: Final = 256 << 10
"""Bytes of a part, unless one line has more."""
MOST_LINE: Final = 4 << 20
"""Bytes of a line."""
_PAGE: Final = 16
_ABANDONED: Final = 86_400_000_000
"""Microseconds after which a file that nobody completed is nobody's."""
_KEYS_KEPT: Final = 1000


class NoSuchFile(BusError):
    """There is no file of that id, or it was deleted."""

    def __init__(self, identity: str) -> None:
        super().__init__(f"no file {identity[:100]!r}: it was deleted, has expired, or never was")
        self.id = identity


class LineTooLong(BusError):
    """A line is longer than any may be."""

    def __init__(self, line: int) -> None:
        super().__init__(f"line {line + 1} is longer than {MOST_LINE} bytes")
        self.line = line


class FileRow(NamedTuple):
    """What is known of a file. Times are microseconds since the Unix epoch."""

    tenant: str
    id: str
    name: str
    purpose: str
    created: int
    expires: int
    """0 is never."""
    complete: bool
    """Whether nothing is added any more: before that no client sees it."""
    bytes: int
    lines: int
    """Those that are not blank."""


class Files:
    """All tenants' files."""

    def __init__(self, opened: Callable[[], Awaitable[Store]], seals: bool) -> None:
        """Make it.

        Args:
            opened: gives the database.
            seals: whether files that begin are sealed, where there are keys.
        """
        self._opened = opened
        self._seals = seals
        self._keys: OrderedDict[tuple[str, str], str | None] = OrderedDict()

    async def begin(self, tenant: str, identity: str, name: str, purpose: str, created: int, expires: int = 0) -> None:
        """Begin a file, unless it has begun.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        store = await self._opened()
        if await store.rows(_ROW, tenant, identity):
            return
        key = await store.keys.fresh() if store.keys is not None and self._seals else None
        await store.rows(_BEGIN, tenant, identity, whole(name), purpose, created, expires, key)

    async def put(self, tenant: str, identity: str, at: int, data: bytes, *, instead_of: str = "") -> bool:
        """Write a part, in the place of what stands there; durable when this returns.

        Args:
            tenant: whose it is.
            identity: the file's.
            at: the number of its first line.
            data: whole lines, each with its end.
            instead_of: another file that has no part of this number from here on.

        Returns:
            False if one of the files takes none: it is complete, or deleted.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        store = await self._opened()
        key = await self._key(store, tenant, identity)
        kept = data
        if key is not None and store.keys is not None:
            await store.keys.load([key])
            kept = store.keys.seal(key, data, _place(tenant, identity, at))
        lines = sum(1 for line in data.split(b"\n") if line.strip())
        async with store.transaction() as connection:
            # whoever completes one waits for us, or we see that it is complete
            wanted = [identity, instead_of] if instead_of else [identity]
            if len(await connection.fetch(_TAKES, tenant, wanted)) < len(wanted):
                return False
            await connection.execute(_DROP_PART, tenant, instead_of, at)
            await connection.execute(_PUT, tenant, identity, at, len(data), lines, kept)
        return True

    async def complete(self, tenant: str, identity: str) -> FileRow | None:
        """Say that a file has all its parts; one without any is deleted, and None. Safe to repeat.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        store = await self._opened()
        async with store.transaction() as connection:
            # the sums are made once all who write have ended: a statement sees what there was when it began
            await connection.execute(_LOCK, tenant, identity)
            await connection.execute(_COMPLETE, tenant, identity)
        row = await self.find(tenant, identity)
        if row is not None and not row.bytes:
            await self.delete(tenant, identity)
            return None
        return row

    async def find(self, tenant: str, identity: str) -> FileRow | None:
        """Return what is known of a file, complete or not.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        rows = await (await self._opened()).rows(_ROW, tenant, identity)
        return FileRow(*rows[0]) if rows else None

    async def listed(
        self, tenant: str, now: int, purpose: str | None, after: str | None, limit: int, *, newest_first: bool
    ) -> list[FileRow]:
        """List complete files in the order in which they began.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        store = await self._opened()
        rows = await store.rows(_NEWEST if newest_first else _OLDEST, tenant, now, purpose, after, limit)
        return [FileRow(*row) for row in rows]

    async def parts(self, tenant: str, identity: str) -> AsyncIterator[tuple[int, bytes]]:
        """Yield a file's parts with their numbers, in order; it ends early where the file is deleted meanwhile.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        last = -1
        while rows := await (await self._opened()).rows(_PARTS, tenant, identity, last, _PAGE):
            for row in rows:
                last = row["at"]
                data = await self._unsealed(tenant, identity, row)
                if data is None:
                    return
                yield last, data

    async def numbers(self, tenant: str, identity: str) -> set[int]:
        """Return the numbers of a file's parts.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        return {row["at"] for row in await (await self._opened()).rows(_NUMBERS, tenant, identity)}

    async def part_of(self, tenant: str, identity: str, line: int) -> tuple[int, bytes]:
        """Return the part that holds a line, with its number.

        Raises:
            NoSuchFile: there is none.
            Unavailable: Postgres cannot be reached.
        """
        rows = await (await self._opened()).rows(_PART_OF, tenant, identity, line)
        data = await self._unsealed(tenant, identity, rows[0]) if rows else None
        if data is None:
            raise NoSuchFile(identity)
        return rows[0]["at"], data

    async def used(self, tenant: str) -> int:
        """Count the bytes of a tenant's files, those included that are not complete.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        (row,) = await (await self._opened()).rows(_USED, tenant)
        found: int = row["used"]
        return found

    async def delete(self, tenant: str, identity: str) -> bool:
        """Delete a file and what sealed it; False where there is none.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        self._keys.pop((tenant, identity), None)
        return bool(await (await self._opened()).rows(_DELETE, tenant, identity))

    async def sweep(self, now: int) -> int:
        """Delete what has expired, and what was begun long ago and never completed; return how many files.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        return len(await (await self._opened()).rows(_SWEEP, now, now - _ABANDONED))

    async def _key(self, store: Store, tenant: str, identity: str) -> str | None:
        where = (tenant, identity)
        if where not in self._keys:
            rows = await store.rows("SELECT key_id FROM file WHERE tenant = $1 AND id = $2", *where)
            if not rows:
                return None
            self._keys[where] = rows[0]["key_id"]
            while len(self._keys) > _KEYS_KEPT:
                self._keys.popitem(last=False)
        return self._keys[where]

    async def _unsealed(self, tenant: str, identity: str, row: Any) -> bytes | None:
        """Open a part; None where the file was deleted meanwhile."""
        key, data = row["key_id"], bytes(row["data"])
        if key is None:
            return data
        store = await self._opened()
        if store.keys is None:
            raise NoSuchFile(identity)  # sealed, and nobody here can open it
        await store.keys.load([key])
        try:
            return store.keys.unseal(key, data, _place(tenant, identity, row["at"]))
        except KeyDestroyed:
            return None


class Cutter:
    """Cuts what comes piece by piece into parts of whole lines."""

    def __init__(self, size: int = PART) -> None:
        """Make it; a part has so many bytes, or a line more."""
        self._size = size
        self._held = bytearray()
        self._line = 0
        """Number of the first line that is held."""

    def feed(self, piece: bytes) -> list[tuple[int, bytes]]:
        """Take a piece; give the parts that are whole by now, each with the number of its first line.

        Raises:
            LineTooLong: one is.
        """
        self._held += piece
        if len(self._held) < self._size:
            return []
        end = self._held.rfind(b"\n") + 1
        if not self._held[:end].strip():
            # a part has a line, or the next one would have its number
            self._refuse_long()
            return []
        return [self._cut(end)]

    def rest(self) -> list[tuple[int, bytes]]:
        """Give what is left at the end.

        Raises:
            LineTooLong: it is.
        """
        self._refuse_long()
        return [self._cut(len(self._held))] if self._held else []

    def _refuse_long(self) -> None:
        if len(self._held) > MOST_LINE + PART:
            raise LineTooLong(self._line)

    def _cut(self, end: int) -> tuple[int, bytes]:
        at, part = self._line, bytes(self._held[:end])
        del self._held[:end]
        lines = lines_of(part)
        for number, line in enumerate(lines):
            if len(line) > MOST_LINE:
                raise LineTooLong(at + number)
        self._line += len(lines)
        return at, part


def lines_of(part: bytes) -> list[bytes]:
    """List the lines of a part that are not blank."""
    return [line for line in part.split(b"\n") if line.strip()]


def _place(tenant: str, identity: str, at: int) -> str:
    return f"{tenant}\0file\0{identity}\0{at}"


_COLUMNS = "tenant, id, name, purpose, created, expires, complete, bytes, lines"
_ROW = f"SELECT {_COLUMNS} FROM file WHERE tenant = $1 AND id = $2"
_BEGIN = """
INSERT INTO file (tenant, id, name, purpose, created, expires, key_id) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT DO NOTHING
"""
_TAKES = "SELECT 1 FROM file WHERE tenant = $1 AND id = ANY($2) AND NOT complete FOR SHARE"
_DROP_PART = "DELETE FROM file_part WHERE tenant = $1 AND file = $2 AND at = $3"
_PUT = """
INSERT INTO file_part (tenant, file, at, size, lines, data) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (tenant, file, at) DO UPDATE SET size = excluded.size, lines = excluded.lines, data = excluded.data
"""
_LOCK = "SELECT 1 FROM file WHERE tenant = $1 AND id = $2 FOR UPDATE"
_COMPLETE = """
UPDATE file SET complete = true, bytes = whole.bytes, lines = whole.lines
FROM (SELECT coalesce(sum(size), 0) AS bytes, coalesce(sum(lines), 0) AS lines
      FROM file_part WHERE tenant = $1 AND file = $2) AS whole
WHERE tenant = $1 AND id = $2 AND NOT complete
"""
_LIST = f"""
SELECT {_COLUMNS} FROM file WHERE tenant = $1 AND complete AND (expires = 0 OR expires > $2)
AND ($3::text IS NULL OR purpose = $3)
AND ($4::text IS NULL OR (created, id) %s (SELECT created, id FROM file WHERE tenant = $1 AND id = $4))
ORDER BY created %s, id %s LIMIT $5
"""
_NEWEST = _LIST % ("<", "DESC", "DESC")
_OLDEST = _LIST % (">", "ASC", "ASC")
_SELECT_PARTS = "SELECT at, data, key_id FROM file_part JOIN file ON file.tenant = file_part.tenant AND file.id = file"
_PARTS = f"{_SELECT_PARTS} WHERE file_part.tenant = $1 AND file = $2 AND at > $3 ORDER BY at LIMIT $4"
_PART_OF = f"{_SELECT_PARTS} WHERE file_part.tenant = $1 AND file = $2 AND at <= $3 ORDER BY at DESC LIMIT 1"
_NUMBERS = "SELECT at FROM file_part WHERE tenant = $1 AND file = $2"
_USED = """
SELECT coalesce(sum(size), 0)::bigint AS used FROM file_part WHERE tenant = $1
"""
_DELETE = """
WITH gone AS (DELETE FROM file WHERE tenant = $1 AND id = $2 RETURNING key_id),
unsealed AS (DELETE FROM sealing_key WHERE id IN (SELECT key_id FROM gone))
SELECT 1 FROM gone
"""
_SWEEP = """
WITH gone AS (
    DELETE FROM file WHERE (expires > 0 AND expires <= $1) OR (NOT complete AND created < $2 AND purpose = 'batch')
    RETURNING key_id
), unsealed AS (DELETE FROM sealing_key WHERE id IN (SELECT key_id FROM gone))
SELECT 1 FROM gone
"""
