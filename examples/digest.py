"""A digest every morning: `ostinato up --agents examples/digest.py`, then once `python examples/digest.py`."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ostinato import Agent, ToolContext, connect, tool

FOLDER = Path.cwd()
"""What is watched."""


@tool(effect="pure")
def changed(context: ToolContext, hours: int = 24) -> str:
    """List the files that changed in the last hours."""
    now = datetime.fromtimestamp(context.now / 1e6, UTC)
    files = [path for path in sorted(FOLDER.rglob("*")) if path.is_file()]
    since = (now - timedelta(hours=hours)).timestamp()
    return "\n".join(str(path.relative_to(FOLDER)) for path in files if path.stat().st_mtime > since) or "nothing"


digest = Agent("digest", "You say in three lines what is new, and what it is about.", tools=[changed])


async def main() -> None:
    """Have it asked on working days, in one thread; of mornings that were missed the last is made up for."""
    async with connect() as client:
        about = {"timezone": "Europe/Vienna", "thread": "digest", "missed": "once"}
        await client.schedules.add("morning", "0 8 * * MON-FRI", "digest", "What is new since yesterday?", **about)


if __name__ == "__main__":
    asyncio.run(main())
