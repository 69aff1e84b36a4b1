"""The fire's verdict tells the model's own mistakes from those of a fault, by asking again in the calm."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import pytest

from infra.follow import follow
from schemas import codec
from schemas.live import Committed
from schemas.runs import RunFinished
from tests.chaos.calm import forgive_the_model
from tests.chaos.load import Asked, Ledger, Line, question
from tests.system.conftest import UpProcess

pytestmark = pytest.mark.servers


async def answered(line: Line, asked: Asked) -> Asked:
    connection, late = await line.open()
    asked.heard = [f async for f in follow(connection, late.read_back, asked.command, 30) if isinstance(f, Committed)]
    return asked


async def conversation(line: Line) -> tuple[Asked, Asked, Asked]:
    """Ask twice in a thread; of the second the model makes a mistake, as its client sees it, and so did the fire."""
    first = await answered(line, Asked(question("demo", "What is 12 times 34?", "calm-1"), "408"))
    own = await answered(line, Asked(question("demo", "What is 3 times 7?", "calm-1"), "22"))
    return first, own, replace(own, heard=[changed(frame) for frame in own.heard])


def changed(frame: Committed) -> Committed:
    if frame.type != "run.finished":
        return frame
    finished: RunFinished = codec.decode(frame.data, RunFinished)
    data = codec.payload(msgspec.structs.replace(finished, text="It is 5."))
    return msgspec.structs.replace(frame, data=data)


def test_what_the_model_says_in_the_calm_too_is_its_own_mistake(stack: UpProcess) -> None:
    line = Line(lambda: {"nats": stack.nats_url, "postgres": stack.postgres_url}, "calm")

    async def check() -> None:
        first, own, fault = await conversation(line)
        asked_of_fault = replace(fault, command=msgspec.structs.replace(own.command, id="another"))
        forgiven = await forgive_the_model(line, Ledger([first, own]))
        unforgiven = await forgive_the_model(line, Ledger([first, own, asked_of_fault]))
        assert [first.expected, asked_of_fault.expected] == ["408", "22"]
        assert "21" in own.expected
        assert [own.command.id in sentence for sentence in forgiven] == [True]
        assert unforgiven == []

    asyncio.run(check())
