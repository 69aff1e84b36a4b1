"""Asks running servers what they are, and changes nothing."""

from __future__ import annotations

from typing import NamedTuple

import asyncpg
from nats.errors import Error as NatsError

from bus.connection import Connection
from bus.errors import Unavailable


class NatsFacts(NamedTuple):
    """What a NATS server says of itself."""

    version: str
    max_payload: int
    memory: int | None
    """JetStream's limit in bytes, negative for none; None without JetStream."""
    storage: int | None
    """The same of the disk."""


class PostgresFacts(NamedTuple):
    """What a Postgres server says of itself."""

    version: str
    number: int
    """Such as 180001."""
    now: int
    """Its clock, microseconds since the Unix epoch."""


async def survey_nats(url: str, wait_s: float = 2.0) -> NatsFacts:
    """Ask a NATS server.

    Raises:
        Unavailable: it does not answer.
    """
    async with await Connection.open(url, "doctor", wait_s) as connection:
        client = connection.client
        version = str(client.connected_server_version)
        try:
            account = await client.jetstream(timeout=wait_s / 2).account_info()
        except NatsError:
            return NatsFacts(version, client.max_payload, None, None)
        return NatsFacts(version, client.max_payload, account.limits.max_memory, account.limits.max_storage)


async def survey_postgres(url: str, wait_s: float = 2.0) -> PostgresFacts:
    """Ask a Postgres server.

    Raises:
        Unavailable: it does not answer, or does not let us in.
    """
    try:
        connection = await asyncpg.connect(url, timeout=wait_s, command_timeout=wait_s)
        try:
            row = await connection.fetchrow(
                "select current_setting('server_version') v, current_setting('server_version_num')::int n, "
                "(extract(epoch from clock_timestamp()) * 1000000)::bigint t"
            )
        finally:
            await connection.close(timeout=1)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise Unavailable(f"cannot connect to Postgres: {str(error) or 'timed out'}") from error
    return PostgresFacts(row["v"], row["n"], row["t"])
