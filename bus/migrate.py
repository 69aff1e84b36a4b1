"""Brings a database to the shape this code knows: the numbered SQL files of `bus/migrations`, each once, in order."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import NamedTuple

import asyncpg

from bus.errors import BusError
from schemas import codec

_LOCK = 0x6F7374696E61746F  # "ostinato": one process at a time migrates a database


class DatabaseMismatch(BusError):
    """The database was migrated by other code than this."""


class Migration(NamedTuple):
    """One SQL file."""

    version: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        """The hash of the text: an applied migration never changes."""
        return codec.digest(self.sql.encode())


def migrations() -> Iterator[Migration]:
    """Yield every migration of this code, in order."""
    folder = files("bus") / "migrations"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            yield Migration(int(file.name.partition("_")[0]), file.name, file.read_text(encoding="utf-8"))


async def migrate(connection: asyncpg.Connection[asyncpg.Record], known: list[Migration]) -> None:
    """Apply what is missing. Safe to run at every start and by several processes at once.

    Raises:
        DatabaseMismatch: the database has migrations that this code does not know, or an altered one.
    """
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migration "
            "(version integer PRIMARY KEY, name text NOT NULL, digest text NOT NULL)"
        )
        applied = {row["version"]: row["digest"] for row in await connection.fetch("SELECT * FROM migration")}
        unknown = applied.keys() - {migration.version for migration in known}
        if unknown:
            raise DatabaseMismatch(
                f"the database has migrations {sorted(unknown)} that this code does not know: upgrade Ostinato"
            )
        for migration in known:
            await _apply(connection, migration, applied.get(migration.version))
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


async def _apply(connection: asyncpg.Connection[asyncpg.Record], migration: Migration, digest: str | None) -> None:
    if digest is None:
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO migration (version, name, digest) VALUES ($1, $2, $3)",
                migration.version,
                migration.name,
                migration.digest,
            )
    elif digest != migration.digest:
        raise DatabaseMismatch(
            f"migration {migration.name!r} was changed after it was applied: "
            "use the code that made this database, or another data directory"
        )
