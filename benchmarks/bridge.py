"""What the HTTP bridge costs: CPU of its process per streamed token and per connection, time it adds, and memory.

The bridge runs as the stack runs it, over a real nats-server and Postgres; behind it, in this process, stands an engine
that makes tokens up, one for each stream at every step. Clients are bare sockets. Beside it, at the same pace, a bare
ASGI application streams ready bytes under the same HTTP server: what streaming costs with nothing behind it.

`cpu_us_per_token` is the middle load's, 64 streams; `cpu_us_per_request` is what a stream costs beside its tokens.
`added_ttft_ms` is the time to the first token of the whole stack with the embedded model over HTTP, less that of the
same engine inline, in turns, the median of the differences. `idle_stream_kb` is what the bridge's memory grows by for
each of many streams that stand still. Targets: 30 us, 3 ms, 100 KB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bridge_answers import Answers, answering
from benchmarks.log_servers import fresh_servers
from bus.connection import Connection
from bus.streams import ensure_streams

ROOT = Path(__file__).parents[1]
LOADS = ((1, 0.004), (64, 0.016), (256, 0.064))
"""Streams, and seconds between two tokens of each."""
SECONDS, QUICK_SECONDS = 8.0, 2.5
STILL_S, QUICK_STILL_S = 4.0, 2.0
IDLE, QUICK_IDLE = 1000, 300
FIRSTS, QUICK_FIRSTS = 60, 20
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A process that listens."""

    process: subprocess.Popen[str]
    port: int

    @property
    def cpu_s(self) -> float:
        """CPU time that it has taken, in user and system together."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_S

    @property
    def resident_kb(self) -> float:
        """Memory that it has now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1024


@contextmanager
def server(*argv: str) -> Iterator[Server]:
    """Run a server for as long as the block runs."""
    command = [sys.executable, "-m", "benchmarks.bridge_process", *argv]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield Server(process, int(process.stdout.readline()))
    finally:
        process.communicate(timeout=30)


def request_bytes(path: str, body: Mapping[str, Any], port: int) -> bytes:
    """Write a request as it goes over the wire."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


def _asked(port: int, tokens: int) -> bytes:
    message = {"role": "user", "content": "hello"}
    body = {"model": "m", "messages": [message], "max_tokens": tokens, "stream": True}
    return request_bytes("/v1/chat/completions", body, port)


async def stream(port: int, tokens: int) -> int:
    """Ask for a stream and read it to its end; return how many tokens came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_asked(port, tokens))
        seen, tail = 0, b""
        while b"[DONE]" not in tail:
            piece = await reader.read(1 << 16)
            assert piece, f"the stream broke off after {seen} tokens: {tail!r}"
            seen += piece.count(b'" token"')
            tail = (tail + piece)[-200:]
        return seen
    finally:
        writer.close()


async def cost(served: Server, streams: int, tokens: int) -> tuple[float, float]:
    """Have so many streams run at once: CPU seconds of the server, and tokens that came, which must be all."""
    before = served.cpu_s
    came = sum(await asyncio.gather(*(stream(served.port, tokens) for _ in range(streams))))
    assert came == streams * tokens, f"{came} of {streams * tokens} tokens came"
    return served.cpu_s - before, came


async def loads(served: Server, answers: Answers, seconds: float) -> dict[str, float]:
    """Measure every load, and what a request costs without many tokens."""
    found: dict[str, float] = {}
    await cost(served, 16, 20)
    rounds, many = 10, 64
    answers.interval_s = 0.001
    spent = sum([(await cost(served, many, 1))[0] for _ in range(rounds)])
    request_s = spent / rounds / many
    found["cpu_us_per_request"] = request_s * 1e6
    for streams, interval_s in LOADS:
        tokens = int(seconds / interval_s)
        answers.interval_s = interval_s
        spent, came = await cost(served, streams, tokens)
        found[f"cpu_us_per_token_{streams}"] = (spent - streams * request_s) / came * 1e6
    return found


async def echoes(seconds: float) -> dict[str, float]:
    """Measure the same loads of the bare application."""
    found: dict[str, float] = {}
    for streams, interval_s in LOADS:
        tokens = int(seconds / interval_s)
        with server("echo", str(tokens), str(interval_s)) as served:
            spent, came = await cost(served, streams, tokens)
            found[f"echo_us_per_token_{streams}"] = spent / came * 1e6
    return found


async def idle(served: Server, answers: Answers, streams: int, still_s: float) -> dict[str, float]:
    """Open streams that stand still after their first token: memory of each, and CPU that all of them take."""
    before, begun = served.resident_kb, answers.begun
    answers.silent = True
    writers = []
    for _ in range(streams):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(_asked(served.port, 10))
        await reader.readuntil(b'" token"')
        writers.append(writer)
    assert answers.begun - begun == streams
    grown = served.resident_kb - before
    began, spent = time.perf_counter(), served.cpu_s
    await asyncio.sleep(still_s)
    busy = (served.cpu_s - spent) / (time.perf_counter() - began)
    for writer in writers:
        writer.close()
    await asyncio.sleep(1)
    return {"idle_stream_kb": grown / streams, "idle_cpu_percent": busy * 100}


async def bridged(nats: str, postgres: str, *, quick: bool) -> dict[str, float]:
    """Measure the bridge."""
    seconds = QUICK_SECONDS if quick else SECONDS
    async with await Connection.open(nats, "engine") as connection:
        await ensure_streams(connection, 4)
        with server("bridge", nats, postgres) as served:
            async with answering(connection) as answers:
                found = await loads(served, answers, seconds)
        with server("bridge", nats, postgres) as served:
            async with answering(connection) as answers:
                await cost(served, 1, 1)
                found |= await idle(served, answers, *((QUICK_IDLE, QUICK_STILL_S) if quick else (IDLE, STILL_S)))
    return found | await echoes(seconds)


class Pipe:
    """A process that answers lines with lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def line(self) -> str:
        """Read one."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def ask(self, text: str) -> str:
        """Write one and read the answer."""
        pipe: IO[str] | None = self._process.stdin
        assert pipe is not None
        pipe.write(text + "\n")
        pipe.flush()
        return self.line()


@contextmanager
def whole_stack(folder: str, more: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run a stack with the embedded model and more in its environment; gives its URL."""
    argv = [sys.executable, "-m", "infra.cli.main", "up", "--json", "--port", "0", "--data", folder]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env={**os.environ, **(more or {})}
    )
    try:
        assert process.stdout is not None
        yield str(json.loads(process.stdout.readline())["url"])
    finally:
        process.terminate()
        process.communicate(timeout=60)


@contextmanager
def inline_engine(threads: int) -> Iterator[Pipe]:
    """Run the engine alone."""
    argv = [sys.executable, "-m", "benchmarks.bridge_inline", str(threads)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "MKL_CBWR": "AUTO,STRICT"}
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    try:
        yield Pipe(process)
    finally:
        process.communicate(timeout=30)


async def first_token_s(port: int, prompt: str) -> float:
    """Ask over HTTP; return the time until there is the first token."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = {"model": "ostinato-mini", "prompt": prompt, "max_tokens": 4, "ignore_eos": True, "stream": True}
    try:
        began = time.perf_counter()
        writer.write(request_bytes("/v1/completions", body, port))
        await reader.readuntil(b'"text":"')
        first = time.perf_counter() - began
        await reader.readuntil(b"[DONE]")
        return first
    finally:
        writer.close()


def added_ttft(rounds: int) -> dict[str, float]:
    """Measure the whole stack and the engine alone in turns."""
    threads = max(1, (os.cpu_count() or 2) // 2)
    with (
        tempfile.TemporaryDirectory(prefix="ostinato-benchmark-") as name,
        inline_engine(threads) as inline,
    ):
        Path(name).chmod(0o755)
        with whole_stack(f"{name}/data") as url:
            assert inline.line() == "ready\n"
            pairs = uvloop.run(_pairs(int(url.rpartition(":")[2]), inline, rounds))
    served, alone = zip(*pairs[len(pairs) // 5 :], strict=True)  # the first warm both up
    differences = [one - other for one, other in zip(served, alone, strict=True)]
    return {
        "added_ttft_ms": statistics.median(differences) * 1000,
        "ttft_ms": statistics.median(served) * 1000,
        "inline_ttft_ms": statistics.median(alone) * 1000,
    }


async def _pairs(port: int, inline: Pipe, rounds: int) -> list[tuple[float, float]]:
    pairs = []
    for number in range(rounds):
        prompt = f"{number} times the ship went out, and {number * 7} times it came back"
        served = await first_token_s(port, prompt)
        pairs.append((served, float(await asyncio.to_thread(inline.ask, json.dumps(prompt)))))
    return pairs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter, with fewer streams")
    quick: bool = parser.parse_args().quick
    with fresh_servers(4) as urls:
        found = uvloop.run(bridged(urls.nats, urls.postgres, quick=quick))
    found |= added_ttft(QUICK_FIRSTS if quick else FIRSTS)
    found["cpu_us_per_token"] = found["cpu_us_per_token_64"]
    print(json.dumps({name: round(value, 2) for name, value in found.items()}))  # noqa: T201


if __name__ == "__main__":
    main()
