"""The embedded servers start, stop, die and come back."""

from __future__ import annotations

import asyncpg
import nats
import pytest

from infra.services.embedded import Servers

pytestmark = [pytest.mark.anyio, pytest.mark.servers]


async def test_both_servers_answer(servers: Servers) -> None:
    database = await asyncpg.connect(servers.postgres_url)
    assert await database.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'") == 1
    await database.close()
    client = await nats.connect(servers.nats_url)
    assert (await client.jetstream().account_info()).streams == 0
    await client.close()
