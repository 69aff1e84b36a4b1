"""What is recorded may leave the log's beginning: nobody who appends or reads its end notices."""

from __future__ import annotations

import pytest

from bus.connection import Connection
from bus.errors import Fenced
from bus.inspection import inspect
from bus.log import last_commit, read_shard, read_stream
from bus.snapshots import Checkpoint, keep
from bus.store import Store
from bus.streams import EV
from bus.trim import trim
from tests.bus.conformance.writing import fact, taken
from tests.bus.recording import record

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(20)]

EVER = 2**60
"""Later than any time."""


async def test_an_owner_goes_on_over_a_trim_and_a_stale_one_stays_fenced(log: Connection, store: Store) -> None:
    stale = await taken(log, "p1")
    pen = await taken(log, "p2")
    for number in range(1, 11):
        await pen.append([fact(number)])
    await record(log, store, (EV,))
    position = pen.position
    assert (await trim(log, store, EVER)).envelopes == 0
    await keep(store, 0, Checkpoint(position.sequence, position.hash, (), b""), ())
    done = await trim(log, store, EVER)
    assert done.first == position.sequence
    assert [item.sequence async for item in read_stream(log, 1, 1_000)] == [position.sequence]
    last = await last_commit(log, 0)
    assert last is not None
    assert last.hash == position.hash
    with pytest.raises(Fenced):
        await stale.append([fact(11)])
    place = await pen.append([fact(11)])
    after = [stored async for stored in read_shard(log, 0, position, place.sequence)]
    assert [stored.envelope.facts[0].version for stored in after] == [11]
    heir = await taken(log, "p3")
    assert heir.position.term == pen.position.term + 1
    await record(log, store, (EV,))
    found = await inspect(log, store)
    assert found.whole, found.damages
