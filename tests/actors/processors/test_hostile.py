"""What nobody means well: long and strange texts, and processors that break, through whole runs on a real bus."""

from __future__ import annotations

from typing import Any

import pytest

from actors.models.provider import ModelCall
from actors.processors.answers import SystemPromptScrubber
from actors.processors.patterns import RegexFilter
from actors.processors.processor import Processor
from actors.processors.prompts import TokenLimiter, ToolCallFilter
from actors.processors.texts import BatchParts, UnicodeNormalizer
from bus.connection import Connection
from schemas.messages import Message, ToolCall
from schemas.runs import RunFinished, ToolReturned
from tests.actors.processors.test_guarded import finish, stack
from tests.actors.processors.test_hooked import Ill
from tests.actors.runtime.bench import run

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(60)]

ALL: tuple[Processor, ...] = (
    UnicodeNormalizer(),
    RegexFilter(),
    ToolCallFilter(),
    TokenLimiter(),
    SystemPromptScrubber(),
    BatchParts(),
)
TEXTS = [
    "word " * 400_000,
    "1 " * 50_000,
    "AB12 " * 20_000,
    "-----BEGIN PRIVATE KEY-----" + "A" * 500_000,
    "e" + "\u0301" * 100_000,
    "\u202e\u2066\u200b\u200f" * 10_000,
    "\0\x1b[2J\x7f",
    "",
    "[" * 100_000,
    "👩\u200d👩\u200d👧" * 10_000,
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
async def test_any_text_goes_through_all_processors_there_and_back(
    connection: Connection, nats_url: str, text: str
) -> None:
    bench = await stack(connection, nats_url, lambda _: f"{text[:5_000]} ! indeed", *ALL)
    await finish(bench, run("c1", text))
    await finish(bench, run("c2", "and now?"))
    assert [event.text[-6:] for event in await bench.events(RunFinished)] == ["indeed", "indeed"]
    await bench.verified("t1")


async def test_messages_of_tools_alone_and_empty_ones_go_through_all_processors(
    connection: Connection, nats_url: str
) -> None:
    said = (
        Message("user"),
        Message("assistant", tool_calls=(ToolCall("k", "look", "{" * 100_000),)),
        Message("tool", "", tool_call_id="k"),
        Message("assistant"),
        Message("user", "\u200b"),
    )
    bench = await stack(connection, nats_url, lambda _: "fine", *ALL)
    await finish(bench, run("c1", "well?", messages=said))
    assert [event.text for event in await bench.events(RunFinished)] == ["fine"]
    await bench.verified("t1")


@pytest.mark.parametrize("outcome", [ValueError("a secret"), TimeoutError(), None], ids=repr)
async def test_a_processor_that_breaks_over_a_tools_result_stops_no_thread(
    connection: Connection, nats_url: str, outcome: Any
) -> None:
    def script(call: ModelCall) -> Any:
        return ToolCall("k", "look", "{}") if call.messages[-1].role == "user" else call.messages[-1].content

    bench = await stack(connection, nats_url, script, Ill("tool_result", outcome))
    for name in ("c1", "c2"):
        await finish(bench, run(name, "where?"))
    told = [event.text for event in await bench.events(RunFinished)]
    assert len(told) == len(await bench.events(ToolReturned)) == 2
    assert all(text.startswith("error: kept back by processor 'ill'") for text in told)
    await bench.verified("t1")
