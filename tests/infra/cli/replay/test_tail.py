"""What is committed, as it is: all of it once, over a lost server, and only what was asked about."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from bus.connection import Connection
from bus.log import Stored
from bus.tail import commits, last_sequence
from infra.cli.replay.tail import lines_of
from infra.cli.terminal import PLAIN
from infra.services.nats_server import NatsServer
from schemas.envelope import Envelope, Fact
from tests.infra.cli.replay.stored import conversation, stored

FACTS = tuple(event.fact for event in stored("t1", conversation("t1").log))
OTHERS = (
    msgspec.structs.replace(FACTS[0], thread="t2", entity="t2", cause="other"),
    msgspec.structs.replace(FACTS[0], tenant="bolt"),
    Fact("", "", "shard", "0", 1, "ownership.taken", "", msgspec.Raw(b"{}")),
    Fact("acme", "t3", "run", "r3", 1, "run.exploded", "r3", msgspec.Raw(b"{}")),
)
COMMIT = Stored(7, Envelope(1, 0, 1, "w", "c", "code", 1_700_000_000_000_000, "", (*FACTS, *OTHERS)), "hash")


@pytest.mark.parametrize(
    ("wanted", "count"),
    [(None, 12), ("t1", 10), ("t1-r0", 10), ("tool.called", 1), ("t2", 1), ("t3", 1), ("t1-r0-1", 4), ("nobody", 0)],
)
def test_what_is_shown_is_the_tenants_and_about_what_was_asked(wanted: str | None, count: int) -> None:
    assert len(lines_of(COMMIT, "acme", wanted)) == count


def test_an_event_of_newer_code_is_a_line_too() -> None:
    (line,) = lines_of(COMMIT, "acme", "r3")
    assert line.place == "7/13"
    assert "unknown event type 'run.exploded'" in line.text(PLAIN)


@pytest.mark.anyio
@pytest.mark.servers
@pytest.mark.deadline(30)
async def test_a_server_that_goes_away_and_comes_back_loses_no_commit(
    history: Any, connection: Connection, nats_server: NatsServer
) -> None:
    await history.commit(0)
    assert await last_sequence(connection) == 1
    told: list[str] = []
    following = commits(connection, 1, lambda _: told.append("lost"), lambda: told.append("found"))
    async with aclosing(following):
        await history.commit(1)
        assert (await anext(following)).sequence == 2
        await nats_server.kill()
        await nats_server.start(nats_server.port)
        await history.commit(2)
        await history.commit(1)
        assert [(await anext(following)).sequence for _ in range(2)] == [3, 4]
    assert told[0] == told[-1] == "found"
    assert "lost" in told
