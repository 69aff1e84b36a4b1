"""Load on a server that a test plays: what is sent, how many at once, and how what comes back is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from infra.bench.client import Target, measured
from infra.bench.load import put_load
from infra.bench.workload import Question

pytestmark = pytest.mark.anyio
TEXTS = ["On", "ce", " upon"]


class Played:
    """A server that answers every request in pieces, and counts."""

    def __init__(self, answer: Callable[[dict[str, Any]], list[bytes]], status: str = "200 OK") -> None:
        self._answer = answer
        self._status = status
        self.heads: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.now = self.most = 0
        self.over = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/completions"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self._speak(reader, writer)
        except ConnectionError:
            pass  # the client has heard enough
        finally:
            self.now -= 1
            writer.close()
            self.over.set()

    async def _speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
        body = msgspec.json.decode(await reader.readexactly(length))
        self.heads.append(head)
        self.bodies.append(body)
        writer.write(f"HTTP/1.1 {self._status}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for piece in self._answer(body):
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def streamed(body: dict[str, Any]) -> list[bytes]:
    usage = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
    texts = b"".join(event({"choices": [{"index": 0, "text": text}]}) for text in TEXTS)
    end = event({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}) + event(
        {"choices": [], "usage": usage}
    )
    whole = texts + end + b"data: [DONE]\n\n"
    return [whole[at : at + 31] for at in range(0, len(whole), 31)]  # cut where no event ends


async def test_a_streamed_answer_is_timed_wherever_it_is_cut() -> None:
    server = Played(streamed)
    async with server.running() as url:
        target = Target(url, "openai", "m", {"ignore_eos": True}, "key")
        sample = await measured(target, Question((1, 2), 4))
    assert (sample.error, sample.prompt_tokens, sample.output_tokens, len(sample.gaps)) == ("", 7, 4, 2)
    assert sample.started < (sample.first or 0) < sample.ended
    assert "Authorization: Bearer key" in server.heads[0]
    (body,) = server.bodies
    assert (body["prompt"], body["max_tokens"], body["ignore_eos"], body["stream"]) == ([1, 2], 4, True, True)


@pytest.mark.parametrize("most", [1, 3, None])
async def test_no_more_are_under_way_than_asked_for(most: int | None) -> None:
    server, told = Played(streamed), list[tuple[int, int]]()
    async with server.running() as url:
        target = Target(url, "openai-chat", "m", {})
        questions = [Question(f"q{number}", 4) for number in range(6)]
        samples, duration = await put_load(target, questions, [0.0] * 6, most, lambda *done: told.append(done))
    assert server.most <= (most or 6)
    assert told[-1] == (6, 6)
    assert duration > 0
    assert not any(sample.error for sample in samples)
    assert sorted(body["messages"][0]["content"] for body in server.bodies) == [f"q{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("status", "answer", "says"),
    [
        ("503 Service Unavailable", [b'{"error": {"message": "full"}}'], "status 503"),
        ("200 OK", [event({"error": {"message": "it broke"}})], "it broke"),
        ("200 OK", [b"data: nonsense\n\n"], "malformed"),
    ],
)
async def test_what_goes_wrong_is_told_in_the_sample(status: str, answer: list[bytes], says: str) -> None:
    server = Played(lambda _: answer, status)
    async with server.running() as url:
        sample = await measured(Target(url, "openai", "m", {}), Question("q", 1))
        await server.over.wait()
    assert says in sample.error


async def test_a_server_that_is_not_there_is_told_in_the_sample() -> None:
    async with Played(streamed).running() as url:
        pass
    assert "ConnectionRefused" in (await measured(Target(url, "openai", "m", {}), Question("q", 1))).error
