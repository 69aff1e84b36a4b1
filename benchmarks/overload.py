"""What becomes of the stack when four times as much is asked of it as it can do: the embedded model over HTTP.

First as many clients ask as there are places, each again as soon as it is answered: the peak. Then requests come at
four times that rate, whatever becomes of those before, and nobody asks again. An answer is good if it is whole and came
within the patience of its client. `goodput_ratio` is good answers a second of the second part by those of the first;
the target is 0.9. `refused_p99_ms` is how long the others waited for their 429, each of which must say when to come
again. This process, which asks, takes its share of the same cores in both parts, four times as often in the second:
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

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bridge import request_bytes, whole_stack

PLACES = 32
TOKENS = 48
PATIENCE_S = 10.0
SECONDS, QUICK_SECONDS = 30.0, 10.0
TIMES = 4


@dataclass
class Found:
    """What came of requests."""

    good: list[float] = field(default_factory=list)
    """When each good answer was whole."""
    late: int = 0
    refused_s: list[float] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)
    """Connections that are kept for the next, as clients do."""

    async def connection(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Give a connection that is kept and that the server has not closed since, or a new one."""
        while self.idle:
            reader, writer = self.idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", port)

    def close(self) -> None:
        """Give the connections up."""
        for _, writer in self.idle:
            writer.close()


async def ask(port: int, number: int, found: Found) -> None:
    """Ask once."""
    body = {"model": "ostinato-mini", "prompt": f"{number} ships", "max_tokens": TOKENS, "ignore_eos": True}
    began = time.perf_counter()
    reader, writer = await found.connection(port)
    writer.write(request_bytes("/v1/completions", body, port))
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split()[0])
    await reader.readexactly(length)
    found.idle.append((reader, writer))
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


async def closed(port: int, seconds: float) -> float:
    """Have as many ask as there are places; return good answers a second."""
    found, end = Found(), time.perf_counter() + seconds

    async def client(number: int) -> None:
        while time.perf_counter() < end:
            await ask(port, number, found)
            number += PLACES

    await asyncio.gather(*(client(number) for number in range(PLACES)))
    assert not found.other, found.other[0]
    found.close()
    return sum(at <= end for at in found.good) / seconds


async def opened(port: int, rate: float, seconds: float) -> tuple[float, Found]:
    """Have requests come at a rate; return good answers a second once it is full, and everything."""
    found, began = Found(), time.perf_counter()
    asking = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        asking.append(asyncio.create_task(ask(port, 100_000 + number, found)))
    end = time.perf_counter()
    await asyncio.gather(*asking)
    assert not found.other, found.other[0]
    found.close()
    warm = began + seconds / 4
    return sum(warm <= at <= end for at in found.good) / (end - warm), found


async def measure(port: int, seconds: float) -> dict[str, float]:
    """Measure both parts."""
    await closed(port, 2)
    began, spent = time.perf_counter(), time.process_time()
    peak = await closed(port, seconds)
    middle, half = time.perf_counter(), time.process_time()
    over, found = await opened(port, TIMES * peak, seconds)
    took, all_of_it = time.perf_counter() - middle, time.process_time() - half
    waits = sorted(found.refused_s)
    return {
        "peak_per_s": peak,
        "overload_per_s": over,
        "goodput_ratio": over / peak,
        "refused": len(waits),
        "late": found.late,
        "refused_p50_ms": statistics.median(waits) * 1000,
        "refused_p99_ms": waits[int(len(waits) * 0.99)] * 1000,
        "asking_percent_peak": (half - spent) / (middle - began) * 100,
        "asking_percent": all_of_it / took * 100,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter")
    seconds = QUICK_SECONDS if parser.parse_args().quick else SECONDS
    with tempfile.TemporaryDirectory(prefix="ostinato-benchmark-") as name:
        Path(name).chmod(0o755)
        with whole_stack(f"{name}/data", {"OSTINATO_LIMITS_IN_FLIGHT": str(PLACES)}) as url:
            found = uvloop.run(measure(int(url.rpartition(":")[2]), seconds))
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))  # noqa: T201


if __name__ == "__main__":
    main()
