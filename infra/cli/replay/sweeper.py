"""One process of a sweep: spans come as lines of JSON, the outcomes of each go back as one."""

from __future__ import annotations

import asyncio
import sys

import msgspec

from bus.errors import BusError
from bus.sweep import Span, threads_of
from infra.cli.replay.checking import check
from infra.privacy import opened_store


async def _serve() -> None:
    url, master = msgspec.json.decode(sys.stdin.buffer.readline(), type=tuple[str, str])
    async with await opened_store(url, master.encode()) as store:
        for line in sys.stdin.buffer:
            span = msgspec.json.decode(line, type=Span)
            outcomes = [check(events) for events in await threads_of(store, span)]
            sys.stdout.buffer.write(msgspec.json.encode(outcomes) + b"\n")
            sys.stdout.buffer.flush()


def main() -> None:
    """Serve until the input ends."""
    try:
        asyncio.run(_serve())
    except BusError as error:
        sys.stderr.write(f"ostinato: {error}\n")
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
