"""Taking over a shard with a long history: all of it folded, and from its last checkpoint."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from actors.agent.loop import ConversationMachine
from actors.runtime.cells import Cells
from actors.runtime.context import SystemIds
from benchmarks.log_threads import TENANT, TURNS, facts
from bus.connection import Connection
from bus.log import last_commit
from bus.recorder import Recorder
from bus.snapshots import ThreadKey
from bus.store import Store
from bus.streams import EV
from infra.readback import LateStore
from schemas import codec
from schemas.envelope import FORMAT, GENESIS, Envelope

ROUNDS = 5
TAIL = 10
"""Threads that went on after the checkpoint."""


async def takeover(connection: Connection, store: Store, url: str, threads: int) -> dict[str, float]:
    """Fill one shard with threads of 100 events, record it, and take it in both ways."""
    machines = {"agent": ConversationMachine()}
    await _fill(connection, 0, threads)
    recorder = Recorder(connection, store, SystemIds().new("p"), (EV,))
    recording = asyncio.create_task(recorder.run())
    await recorder.drain(deadline_s=600)

    async def took(record: LateStore) -> tuple[float, Cells]:
        last = await last_commit(connection, 0)
        assert last is not None
        cells = Cells(machines, record, 0)
        began = time.perf_counter()
        await cells.take(connection, last.sequence)
        return 1e3 * (time.perf_counter() - began), cells

    async with LateStore(url) as record:
        whole_ms, cells = await took(record)
        assert len(cells) == threads
        await cells.checkpoint((await record.head(0)).sequence, ())
        await _fill(connection, threads, TAIL)
        times = []
        for _ in range(ROUNDS):
            one_ms, cells = await took(record)
            times.append(one_ms)
            assert len(cells) == TAIL
        for thread in ("cold0", f"cold{threads}"):
            async with cells.using(ThreadKey("agent", TENANT, thread)) as cell:
                assert len(cell.state.messages) == 4 * TURNS, f"{thread} is not whole"
    recording.cancel()
    await asyncio.gather(recording, return_exceptions=True)
    return {"takeover_ms": statistics.median(times), "takeover_of_all_ms": whole_ms, "takeover_events": threads * 100}


async def _fill(connection: Connection, first: int, threads: int) -> None:
    last = await last_commit(connection, 0)
    head = GENESIS if last is None else last.hash
    under_way: set[asyncio.Task[Any]] = set()
    for number in range(first, first + threads):
        data = codec.encode(Envelope(FORMAT, 0, 1, "w", f"c-{number}", "c", number, head, tuple(facts(number))))
        head = codec.digest(data)
        under_way.add(asyncio.create_task(connection.request("ev.0", data, 30)))
        if len(under_way) >= 100:
            _, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*under_way)
