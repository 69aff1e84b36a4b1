"""Streams that are kept while they grow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from bus.errors import Unavailable
from infra.bridge.aisdk.events import UiEncoder
from infra.bridge.desk import Around
from infra.bridge.openai import BadRequest
from infra.bridge.telling.recorded import Record
from infra.bridge.telling.tapes import Tape, Tapes
from schemas.live import Frame, Outcome
from schemas.runs import Problem
from tests.infra.bridge.test_telling import COMMAND, refused, usual, waiting

pytestmark = pytest.mark.anyio


async def frames(given: list[Frame], gate: asyncio.Event | None = None) -> AsyncIterator[Frame]:
    for at, frame in enumerate(given):
        if gate is not None and at == len(given) // 2:
            await gate.wait()
        yield frame


async def played(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


def unasked() -> Record:
    """A record that is only told."""
    return Record(cast("Around", None))


async def test_whoever_comes_whenever_hears_the_same() -> None:
    gate, tapes = asyncio.Event(), Tapes(unasked())
    tape = tapes.begin(Tape(COMMAND, UiEncoder(COMMAND)), frames(usual().frames, gate))
    first = asyncio.create_task(played(tape.play()))
    await tape.begun()
    assert tapes.of("acme", "t1") is tape
    assert tapes.of("other", "t1") is None
    second = asyncio.create_task(played(tape.replay()))
    gate.set()
    heard = await first
    assert heard == await second == await played(tape.play())
    assert heard.endswith(b"data: [DONE]\n\n")
    await asyncio.sleep(0)
    assert tapes.of("acme", "t1") is None


async def test_who_comes_back_to_a_run_that_went_on_hears_all_of_it() -> None:
    before, whole = waiting().frames, refused().frames
    first = UiEncoder(COMMAND)
    for frame in before:
        first.feed(frame)
    told = [UiEncoder.framing.event(chunk) for chunk in UiEncoder(COMMAND).retold(before)]
    first.reader.expect(["r1-1-t0", "r1-1-t1"])
    tape = Tape(COMMAND, UiEncoder(COMMAND, first.reader), told)
    await tape.record(frames(whole[len(before) :]), unasked())
    all_of_it = [UiEncoder.framing.event(chunk) for chunk in UiEncoder(COMMAND).retold(whole)]
    assert await played(tape.replay()) == b"".join(all_of_it) + b"data: [DONE]\n\n"
    rest = await played(tape.play())
    assert rest.startswith(all_of_it[0])
    assert b"tool-input-available" not in rest


async def test_what_never_begins_says_why() -> None:
    refusing: list[Frame] = [Outcome("r1", "refused", "t1", Problem("unknown_agent", "no agent"))]
    tape = Tape(COMMAND, UiEncoder(COMMAND))
    await tape.record(frames(refusing), unasked())
    with pytest.raises(BadRequest) as refusal:
        await tape.begun()
    assert refusal.value.status == 404
    # of a run that was told before, too: an answer to what nothing waits for any more
    late = Tape(COMMAND, UiEncoder(COMMAND), [b"data: {}\n\n"])
    await late.record(frames(refusing), unasked())
    with pytest.raises(BadRequest):
        await late.begun()
    silent = Tape(COMMAND, UiEncoder(COMMAND))
    await silent.record(frames([]), unasked())
    with pytest.raises(BadRequest):
        await silent.begun()


async def test_a_bus_that_fails_closes_what_was_begun() -> None:
    async def failing() -> AsyncIterator[Frame]:
        for frame in usual().frames[:5]:
            yield frame
        raise Unavailable("gone")

    tape = Tape(COMMAND, UiEncoder(COMMAND))
    await tape.record(failing(), unasked())
    *_, closed, error, done, _ = (await played(tape.play())).decode().split("\n\n")
    assert '"text-end"' in closed
    assert '"errorText"' in error
    assert done == "data: [DONE]"
