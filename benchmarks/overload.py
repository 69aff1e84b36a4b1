"""What becomes of the stack when four times as much is asked of it as it can do: the embedded model over HTTP.

A round has two parts. First as many clients ask as there are places, each again as soon as it is answered: the peak.
Then requests come at four times that rate, whatever becomes of those before, and nobody asks again. An answer is good
if it is whole and came within the patience of its client; the first quarter of each part, in which it fills up, does
not count. The speed of a shared machine wanders within a minute, so rounds are short, and `goodput_ratio` is the median
over them of good answers a second in the second part by those in the first; the target is 0.9, `goodput_ratios` are
all of them. `refused_p99_ms` is how long the others waited for their 429, each of which must say when to come again.
This process, which asks, takes its share of the same cores in both parts, four times as often in the second:
`asking_percent` is that share of one core in each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bridge import request_bytes, whole_stack

PLACES = 32
FEWEST, MOST = 24, 72
"""Tokens of an answer. Were all as long, the clients of the first part would come in step, 32 at once, which is cheaper
than any load that comes as it likes."""
PATIENCE_S = 10.0
SECONDS = 6.0
"""Of a part."""
ROUNDS, QUICK_ROUNDS = 9, 2
TIMES = 4


class Asker(asyncio.Protocol):
    """A connection that asks once at a time, with as little CPU as may be: it is taken from those who answer."""

    def __init__(self) -> None:
        self.open = True
        self._heard = b""
        self._head = self._whole = 0
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"the server closed the connection: {exc}"))

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        """Send a request; gives its answer's head, in lower case, when all of the answer is there."""
        self._heard, self._head = b"", 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        """Hear of it."""
        self._heard += data
        if not self._head:
            self._head = self._heard.find(b"\r\n\r\n") + 4
            if self._head < 4:
                self._head = 0
                return
            length = self._heard[: self._head].lower().split(b"content-length:")[1].split()[0]
            self._whole = self._head + int(length)
        if len(self._heard) >= self._whole and self._answer is not None:
            self._answer.set_result(self._heard[: self._head].lower())
            self._answer = None

    def close(self) -> None:
        """Give it up."""
        self._transport.close()


@dataclass
class Found:
    """What came of requests."""

    good: list[float] = field(default_factory=list)
    """When each good answer was whole."""
    late: int = 0
    refused_s: list[float] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    idle: list[Asker] = field(default_factory=list)
    """Connections that are kept for the next, as clients do."""

    async def connection(self, port: int) -> Asker:
        """Give a connection that is kept and that the server has not closed since, or a new one."""
        while self.idle:
            asker = self.idle.pop()
            if asker.open:
                return asker
        return (await asyncio.get_running_loop().create_connection(Asker, "127.0.0.1", port))[1]

    def close(self) -> None:
        """Give the connections up."""
        for asker in self.idle:
            asker.close()


async def ask(port: int, number: int, found: Found) -> None:
    """Ask once."""
    tokens = FEWEST + number * 31 % (MOST - FEWEST + 1)
    body = {"model": "ostinato-mini", "prompt": f"{number} ships", "max_tokens": tokens, "ignore_eos": True}
    began = time.perf_counter()
    asker = await found.connection(port)
    head = await asker.ask(request_bytes("/v1/completions", body, port))
    found.idle.append(asker)
    took, status = time.perf_counter() - began, head.split(maxsplit=2)[1]
    if status == b"200":
        if took <= PATIENCE_S:
            found.good.append(time.perf_counter())
        else:
            found.late += 1
    elif status == b"429" and b"retry-after-ms:" in head:
        found.refused_s.append(took)
    else:
        found.other.append(head.decode(errors="replace"))


def rate(found: Found, began: float, end: float) -> float:
    """Count good answers a second, from when it was full."""
    assert not found.other, found.other[0]
    found.close()
    warm = began + (end - began) / 4
    return sum(warm <= at <= end for at in found.good) / (end - warm)


async def closed(port: int, seconds: float) -> float:
    """Have as many ask as there are places; return good answers a second."""
    found, began = Found(), time.perf_counter()
    end = began + seconds

    async def client(number: int) -> None:
        while time.perf_counter() < end:
            await ask(port, number, found)
            number += PLACES

    await asyncio.gather(*(client(number) for number in range(PLACES)))
    return rate(found, began, end)


async def opened(port: int, asked: float, seconds: float) -> tuple[float, Found]:
    """Have so many requests come a second; return good answers a second, and everything."""
    found, began = Found(), time.perf_counter()
    asking = []
    for number in range(int(asked * seconds)):
        await asyncio.sleep(max(0.0, began + number / asked - time.perf_counter()))
        asking.append(asyncio.create_task(ask(port, 100_000 + number, found)))
    end = time.perf_counter()
    await asyncio.gather(*asking)
    return rate(found, began, end), found


@dataclass(frozen=True)
class Round:
    """What was measured in one."""

    peak: float
    over: float
    asking_peak: float
    """Share of a core that asking took."""
    asking: float
    found: Found


async def measured(port: int) -> Round:
    """Measure both parts."""
    began, spent = time.perf_counter(), time.process_time()
    peak = await closed(port, SECONDS)
    middle, half = time.perf_counter(), time.process_time()
    over, found = await opened(port, TIMES * peak, SECONDS)
    end, whole = time.perf_counter(), time.process_time()
    return Round(peak, over, (half - spent) / (middle - began), (whole - half) / (end - middle), found)


async def measure(port: int, count: int) -> dict[str, Any]:
    """Measure so many rounds."""
    await closed(port, 3)
    rounds = [await measured(port) for _ in range(count)]
    waits = sorted(wait for one in rounds for wait in one.found.refused_s)
    ratios = [one.over / one.peak for one in rounds]
    found = {
        "goodput_ratio": statistics.median(ratios),
        "peak_per_s": statistics.median(one.peak for one in rounds),
        "overload_per_s": statistics.median(one.over for one in rounds),
        "refused": len(waits),
        "late": sum(one.found.late for one in rounds),
        "refused_p50_ms": statistics.median(waits) * 1000,
        "refused_p99_ms": waits[int(len(waits) * 0.99)] * 1000,
        "asking_percent_peak": statistics.median(one.asking_peak for one in rounds) * 100,
        "asking_percent": statistics.median(one.asking for one in rounds) * 100,
    }
    rounded = {name: round(value, 3) for name, value in found.items()}
    return {**rounded, "goodput_ratios": [round(ratio, 3) for ratio in ratios]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    count = QUICK_ROUNDS if parser.parse_args().quick else ROUNDS
    with tempfile.TemporaryDirectory(prefix="ostinato-benchmark-") as name:
        Path(name).chmod(0o755)
        with whole_stack(f"{name}/data", {"OSTINATO_LIMITS_IN_FLIGHT": str(PLACES)}) as url:
            found = uvloop.run(measure(int(url.rpartition(":")[2]), count))
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
