"""A client of one streamed completion, by any server that speaks OpenAI's API, with the time of every piece.

One connection a request, HTTP/1.1 by hand on asyncio's streams: what is measured is the server, and a client that
does more would be part of the figure.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from infra.bench.measures import Sample
from infra.bench.workload import Question

Backend = Literal["openai", "vllm", "openai-chat"]
ENDPOINTS: Mapping[str, str] = {
    "openai": "/v1/completions",
    "vllm": "/v1/completions",
    "openai-chat": "/v1/chat/completions",
}
_LIMIT = 1 << 22


class Failed(Exception):
    """The server's answer is no completion."""


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked, and how."""

    url: str
    """Of the endpoint."""
    backend: Backend
    model: str
    more: Mapping[str, Any]
    """Fields of every request, such as `ignore_eos`."""
    key: str = ""
    """Sent as bearer token."""
    timeout_s: float = 600.0

    def body(self, question: Question) -> bytes:
        """Write a request."""
        asked: dict[str, Any] = {"prompt": question.prompt}
        if self.backend == "openai-chat":
            asked = {"messages": [{"role": "user", "content": question.prompt}]}
        options = {"max_tokens": question.max_tokens, "stream": True, "stream_options": {"include_usage": True}}
        return msgspec.json.encode({"model": self.model, **asked, **options, **self.more})


async def measured(target: Target, question: Question) -> Sample:
    """Ask, and time the answer; what goes wrong is told in the sample."""
    started = time.perf_counter()
    times: list[float] = []
    usage: dict[str, int] = {}
    error = ""
    try:
        async with asyncio.timeout(target.timeout_s):
            async for event in events(target, target.body(question)):
                error = error or _error(event)
                usage = event.get("usage") or usage
                if any(_text(choice) for choice in event.get("choices", ())):
                    times.append(time.perf_counter())
    except Failed as failure:
        error = str(failure)
    except TimeoutError:
        error = f"no answer within {target.timeout_s:.0f} s"
    except (OSError, EOFError, ValueError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    return Sample(
        started=started,
        ended=time.perf_counter(),
        first=times[0] if times else None,
        gaps=tuple(after - before for before, after in pairwise(times)),
        prompt_tokens=usage.get("prompt_tokens", 0),
        output_tokens=usage.get("completion_tokens", len(times)),
        error=error,
    )


def _error(event: Mapping[str, Any]) -> str:
    told = event.get("error")
    return str(told.get("message", told)) if isinstance(told, dict) else str(told or "")


def _text(choice: Mapping[str, Any]) -> str:
    delta = choice.get("delta")
    return str((choice.get("text") if delta is None else delta.get("content") or delta.get("reasoning_content")) or "")


async def events(target: Target, body: bytes) -> AsyncIterator[dict[str, Any]]:
    """Yield the objects of a streamed answer.

    Raises:
        Failed: There is none: the server's own words.
        OSError: It cannot be reached, or went away.
    """
    place = urlsplit(target.url)
    secure = ssl.create_default_context() if place.scheme == "https" else None
    port = place.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(place.hostname, port, ssl=secure, limit=_LIMIT)
    try:
        path = place.path + (f"?{place.query}" if place.query else "")
        key = f"Authorization: Bearer {target.key}\r\n" if target.key else ""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {place.netloc.rpartition('@')[2]}\r\nContent-Type: application/json\r\n"
            f"Accept: text/event-stream\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{key}\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        status, headers = await _head(reader)
        lines = _lines(_pieces(reader, headers))
        if status != 200:
            text = b"\n".join([line async for line in lines]).decode(errors="replace")
            raise Failed(f"status {status}: {text[:300]}")
        async for line in lines:
            if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
                yield msgspec.json.decode(data, type=dict[str, Any])
    finally:
        writer.close()
        with contextlib.suppress(OSError):  # whatever the server makes of the end, it is over
            await writer.wait_closed()


async def _head(reader: asyncio.StreamReader) -> tuple[int, Mapping[str, str]]:
    first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)}
    return int(first.split()[1]), headers


async def _pieces(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
    """Yield the body as it comes, chunked or up to its end."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readline()
        return
    while piece := await reader.read(_LIMIT):
        yield piece


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    held = b""
    async for piece in pieces:
        *whole, held = (held + piece).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")
    if held:
        yield held
