"""Providers that do not keep to their own formats: what is whole is taken, and nothing of it breaks a thread."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
import pytest

from actors.errors import ProviderFailed
from actors.models.http import HttpClient
from actors.models.provider import ModelAnswer, Piece
from actors.models.remote import Outside, RemoteModel
from actors.models.wires import sse
from actors.models.wires.failures import refused
from actors.models.wires.sse import EventStream, TooLong
from actors.testing import FixedClock
from schemas.messages import Usage
from tests.actors.models.calls import REGISTRY, asking, sharing
from tests.actors.models.double import Played, ProviderDouble, chat_chunks, event, says
from tests.actors.models.test_remote import KEYS

pytestmark = [pytest.mark.anyio, pytest.mark.deadline(20)]

Ask = Callable[..., Any]


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """Ask a double; the connection itself may be silent for as long as a test runs."""
    client = await asyncio.to_thread(HttpClient, connect_s=5, silence_s=60)

    async def asked(
        double: ProviderDouble, provider: str = "openai", on_text: list[Piece] | None = None, **bounds: float
    ) -> ModelAnswer:
        async def hear(piece: Piece, /) -> None:
            if on_text is not None:
                on_text.append(piece)

        outside = Outside(sharing(client), KEYS, FixedClock(), **bounds)  # type: ignore[arg-type]
        at = REGISTRY.changed({provider: {"url": double.url}}).named(provider)
        return await RemoteModel(provider, at, "m", outside).call(asking(), hear)

    yield asked
    await client.close()


class Going:
    """Parts of an answer that come one after the other, with a while between them, until nobody listens."""

    def __init__(self, *parts: bytes, then: bytes = b"") -> None:
        self.over = threading.Event()
        self._parts = parts
        self._then = then

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            self.over.wait(0.1)
            yield part
        while self._then and not self.over.wait(0.05):
            yield self._then


@pytest.mark.parametrize(
    ("provider", "parts", "alive"),
    [
        ("openai", chat_chunks({"content": "one"})[:2], b": still here\n\n"),
        (
            "anthropic",
            [
                event({"type": "message_start", "message": {}}),
                event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "one"}}),
            ],
            event({"type": "ping"}),
        ),
    ],
)
async def test_a_provider_that_says_only_that_it_is_still_there_is_given_up(
    ask: Ask, provider: str, parts: list[bytes], alive: bytes
) -> None:
    going = Going(*parts, then=alive)
    with ProviderDouble([Played(going)]) as double:  # type: ignore[arg-type]
        try:
            with pytest.raises(ProviderFailed, match=r"it did not go on for 0\.3 s") as failed:
                await ask(double, provider, silence_s=0.3)
        finally:
            going.over.set()
    assert failed.value.problem.kind == "timeout"


async def test_an_answer_that_says_that_it_is_over_is_over_though_its_connection_is_not(ask: Ask) -> None:
    with ProviderDouble([Played(says("one two").body, ends="held")]) as double:
        answer = await ask(double)
        assert not double.released.is_set()
    assert (answer.text, answer.usage) == ("one two", Usage(7, 3))


async def test_an_answer_whose_connection_broke_after_its_end_is_whole(ask: Ask) -> None:
    with ProviderDouble([Played(says("one two").body[:-2], ends="cut")]) as double:
        answer = await ask(double)
    assert (answer.text, answer.finish_reason) == ("one two", "stop")


def _called(index: int, identity: Any, arguments: str, name: str = "f") -> dict[str, Any]:
    call = {"index": index, "id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"tool_calls": [call]}


async def test_an_answer_that_is_a_call_alone_has_begun_with_the_call(ask: Ask) -> None:
    parts = (_called(0, "c1" if part == "{" else None, part) for part in ("{", '"a"', ":", "1", "2", "}"))
    with ProviderDouble([Played(Going(*chat_chunks(*parts, finish="tool_calls")))]) as double:  # type: ignore[arg-type]
        answer = await ask(double, first_s=0.5)
    assert [call.arguments for call in answer.tool_calls] == ['{"a":12}']


async def test_calls_of_one_id_have_one_each_and_numbers_are_ids_too(ask: Ask) -> None:
    calls = [_called(0, 7, "{}"), _called(1, 7, '{"a": 1}'), _called(2, "7", "[]"), _called(3, "x", '{"a')]
    with ProviderDouble([Played(chat_chunks(*calls, finish="tool_calls"))] * 2) as double:
        answer, again = await ask(double), await ask(double)
    first, *others = (call.id for call in answer.tool_calls)
    assert (first, others[-1], len({first, *others})) == ("7", "x", 4)
    assert [call.arguments for call in answer.tool_calls] == ["{}", '{"a": 1}', "[]", '{"a']
    assert again.tool_calls == answer.tool_calls


async def test_a_character_that_is_cut_in_two_is_whole_again(ask: Ask) -> None:
    def half(kind: str, text: str) -> dict[str, Any]:
        return {kind: text} if kind != "arguments" else _called(0, "c1", text)

    deltas = [half("reasoning_content", "so \ud83d"), half("reasoning_content", "\ude00")]
    deltas += [half("content", "a \ud83d"), half("content", "\ude00!"), half("content", "\ude00b\ud83d")]
    deltas += [half("arguments", '{"a": "\ud83d'), half("arguments", '\ude00"}')]
    heard: list[Piece] = []
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    with ProviderDouble([Played([event(json.dumps(chunk)) for chunk in chunks])]) as double:
        answer = await ask(double, on_text=heard)
    assert answer.reasoning == "so \U0001f600"
    assert answer.text == "a \U0001f600!\N{REPLACEMENT CHARACTER}b"
    assert "".join(piece.text for piece in heard if piece.kind == "text") == answer.text
    assert answer.tool_calls[0].arguments == '{"a": "\U0001f600"}'


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": "12", "completion_tokens": 3.0}, Usage(0, 3)),
        ({"prompt_tokens": -1, "completion_tokens": 1e30, "prompt_tokens_details": 5}, Usage()),
        ({"prompt_tokens": 4, "prompt_tokens_details": {"cached_tokens": [2]}}, Usage(4)),
        ({"prompt_tokens": 4, "completion_tokens_details": None}, Usage(4)),
    ],
)
async def test_what_counts_no_tokens_is_not_counted(ask: Ask, usage: dict[str, Any], counted: Usage) -> None:
    with ProviderDouble([Played(chat_chunks({"content": "one"}, usage=usage))]) as double:
        answer = await ask(double)
    assert (answer.text, answer.usage) == ("one", counted)
    assert msgspec.json.decode(msgspec.json.encode(answer), type=ModelAnswer) == answer


async def test_an_answer_that_could_not_be_read_from_the_log_again_is_none(ask: Ask) -> None:
    told = [
        {"type": "message_start", "message": {}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "signature": {"odd": 1}}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]
    playing = Played([event(one) for one in told])
    with ProviderDouble([playing]) as double, pytest.raises(ProviderFailed, match="no part of an answer"):
        await ask(double, "anthropic")


def test_an_event_of_many_lines_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MOST", 1000)
    stream = EventStream()
    assert [stream.feed(b"data: some more\n") for _ in range(60)] == [[]] * 60
    with pytest.raises(TooLong):
        stream.feed(b"data: " + b"some more" * 100 + b"\n")
    whole = EventStream()
    assert len([one for _ in range(1000) for one in whole.feed(b"data: some more\n\n")]) == 1000


@pytest.mark.parametrize(
    ("headers", "body", "wait"),
    [
        ({"retry-after": "9" * 400}, b"", 1000),
        ({"retry-after": "1000000000"}, b"", 86_400_000),
        ({"retry-after-ms": "inf"}, b"", 1000),
        ({"retry-after-ms": "-5"}, b"", 1000),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, b"", 86_400_000),
        ({}, b'{"error": {"details": [{"retryDelay": "99999999999999999999s"}]}}', 86_400_000),
    ],
)
def test_no_provider_can_ask_for_more_than_a_day(headers: dict[str, str], body: bytes, wait: int) -> None:
    assert refused("m", 503, headers, body, 0).problem.retry_after_ms == wait
