"""The service of the page on agents that waits for data, in a process of its own, as anybody would run it."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import nats

PAGE = Path(__file__).parents[2] / "docs" / "agents.md"


async def serve(url: str) -> None:
    """Serve it, and say so."""
    blocks = re.findall(r"```py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    named: dict[str, Any] = {}
    for block in blocks:
        if "add_service" in block:
            exec(block, named)
    client = await nats.connect(url)
    await named["serve_booking"](client)
    await client.flush()
    sys.stdout.write("serving\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
