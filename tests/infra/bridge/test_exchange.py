"""What a stream is written as, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from infra.bridge.chat import ChatEncoder
from infra.bridge.exchange import Exchange, merged, written
from schemas import codec
from schemas.commands import Command, Generate
from schemas.live import Delta, Frame
from tests.infra.bridge import doors
from tests.infra.bridge.doors import Scripted, everything

pytestmark = pytest.mark.anyio

MESSAGES = [{"role": "user", "content": "hi"}]


def piece(at: int) -> Delta:
    return Delta("g1", "g1", "e", 2, at, "x")


def command(name: str) -> Command:
    return Command(name, "acme", "generation", name, "generate", Generate("m", ()))


async def given(*parts: Any) -> AsyncIterator[Any]:
    for part in parts:
        yield part


def at_once(follow: Callable[..., AsyncIterator[Frame]]) -> Callable[..., AsyncIterator[Sequence[Frame]]]:
    """Follow as the bridge does, where all pieces between two events come at once."""

    async def followed(*about: Any) -> AsyncIterator[Sequence[Frame]]:
        pieces: list[Frame] = []
        async for frame in follow(*about):
            if isinstance(frame, Delta):
                pieces.append(frame)
                continue
            if pieces:
                yield pieces
            pieces = []
            yield (frame,)

    return followed


def exchange(*names: str) -> Exchange:
    return Exchange([command(name) for name in names], ChatEncoder("g1", "m", 0, "model.returned"), True, False)


async def test_chunks_that_are_there_at_once_are_one_write_of_the_same_bytes() -> None:
    begun = exchange("g1")
    chunks = [chunk for at in range(4) for chunk in begun.encoder.feed(piece(at))]
    apart = [part async for part in written(chunks[:1], given(*([chunk] for chunk in chunks[1:])), begun)]
    together = [part async for part in written(chunks[:2], given(chunks[2:4], chunks[4:]), begun)]
    assert (len(apart), len(together)) == (6, 4)
    assert b"".join(apart) == b"".join(together)
    assert together[1] == apart[2] + apart[3]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 16, "thinking": {"type": "adaptive"}}),
    ],
    ids=["chat", "completions", "responses", "messages"],
)
def test_every_protocol_tells_the_same_bytes_whether_pieces_come_apart_or_at_once(
    monkeypatch: pytest.MonkeyPatch, path: str, asked: dict[str, Any]
) -> None:
    body = codec.encode({"model": "m", "stream": True, **asked})

    def told() -> bytes:
        answer = Scripted(monkeypatch, everything).send("POST", path, {"content-type": "application/json"}, body)
        assert answer.status_code == 200, answer.text
        return answer.content

    apart = told()
    monkeypatch.setattr(doors, "one_by_one", at_once)
    together = told()
    assert apart == together
    assert apart.count(b"data: ") > 3


async def test_frames_of_several_commands_are_told_by_their_index_until_all_are_over() -> None:
    asked = exchange("g1", "g2")
    parts: tuple[Sequence[Frame], ...] = ((piece(0), piece(1)), (piece(2),))
    async with asyncio.timeout(5):
        heard = [one async for one in merged(asked, [given(*parts), given(parts[1])])]
    assert [frames for index, frames in heard if index == 0] == list(parts)
    assert [frames for index, frames in heard if index == 1] == [parts[1]]
    assert asked.over == {"g1", "g2"}


async def test_of_several_commands_no_more_is_heard_than_a_slow_client_takes() -> None:
    drawn = 0

    async def endless() -> AsyncIterator[Sequence[Frame]]:
        nonlocal drawn
        while True:
            drawn += 1
            yield (piece(drawn),)
            await asyncio.sleep(0)

    async with aclosing(merged(exchange("g1", "g2"), [endless(), endless()])) as heard:
        for taken in range(1, 30):
            await anext(heard)
            for _ in range(100):
                await asyncio.sleep(0)
            assert drawn < taken + 20
