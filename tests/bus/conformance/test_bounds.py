"""What is too large or finds no room is refused, and disturbs nobody."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from bus.commit import MAX_FACTS
from bus.connection import Connection
from bus.errors import Refused
from bus.streams import EV
from tests.bus.conformance.writing import everything, fact, taken, versions

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

LARGEST = 64 * 1024
"""What rides in an envelope; what is larger goes to the object store."""


async def test_an_oversize_append_is_refused_at_once_and_the_next_one_goes_through(log: Connection) -> None:
    pen = await taken(log)
    small, large, after = await asyncio.gather(
        pen.append([fact(1)]),
        pen.append([msgspec.structs.replace(fact(2), cause="x" * (9 << 20))]),
        pen.append([fact(3)]),
        return_exceptions=True,
    )
    assert isinstance(large, Refused)
    assert "the server takes 8388608" in large.description
    assert not isinstance(small, BaseException)
    assert not isinstance(after, BaseException)
    assert await versions(log) == [1, 3]


async def test_a_full_log_refuses_and_serves_again_when_there_is_room(log: Connection) -> None:
    pen = await taken(log)
    config = (await log.api(f"STREAM.INFO.{EV}"))["config"]
    await log.api(f"STREAM.UPDATE.{EV}", {**config, "max_msgs": 1})
    with pytest.raises(Refused):
        await pen.append([fact(1)])
    await log.api(f"STREAM.UPDATE.{EV}", config)
    await pen.append([fact(2)])
    assert await versions(log) == [2]


@pytest.mark.parametrize("size", [LARGEST - 100, LARGEST, LARGEST + 1, 3 << 20])
async def test_a_payload_of_any_size_comes_back_whole(log: Connection, size: int) -> None:
    pen = await taken(log)
    written = fact(1, "x" * size)
    await pen.append([written])
    (stored,) = (await everything(log))[-1].envelope.facts
    assert bytes(stored.payload) == bytes(written.payload)


async def test_a_log_without_room_for_bytes_refuses_and_keeps_what_it_has(log: Connection) -> None:
    pen = await taken(log)
    await pen.append([fact(1)])
    info = await log.api(f"STREAM.INFO.{EV}")
    await log.api(f"STREAM.UPDATE.{EV}", {**info["config"], "max_bytes": info["state"]["bytes"] + 100})
    with pytest.raises(Refused):
        await pen.append([fact(2)])
    assert await versions(log) == [1]
    await log.api(f"STREAM.UPDATE.{EV}", info["config"])
    await pen.append([fact(3)])
    assert await versions(log) == [1, 3]


async def test_one_append_is_one_envelope_however_many_facts_it_has(log: Connection) -> None:
    pen = await taken(log)
    place = await pen.append([fact(number) for number in range(2 * MAX_FACTS)])
    last = (await everything(log))[-1]
    assert (last.sequence, place.first, len(last.envelope.facts)) == (place.sequence, 0, 2 * MAX_FACTS)


async def test_a_message_that_is_larger_than_the_stream_takes_is_refused_and_the_next_goes_through(
    log: Connection,
) -> None:
    pen = await taken(log)
    config = (await log.api(f"STREAM.INFO.{EV}"))["config"]
    await log.api(f"STREAM.UPDATE.{EV}", {**config, "max_msg_size": 2000})
    results = await asyncio.gather(pen.append([fact(1, "x" * 4000)]), return_exceptions=True)
    assert isinstance(results[0], Refused)
    await pen.append([fact(2)])
    assert await versions(log) == [2]
