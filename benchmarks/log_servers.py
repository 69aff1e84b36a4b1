"""Both servers as `ostinato up` runs them, in a process of their own: uvloop cannot start them as another user.

`python -m benchmarks.log_servers FOLDER SHARDS` prints their URLs as JSON, and stops them when its input ends.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from infra.services.data_directory import DataDirectory
from infra.services.embedded import embedded

ROOT = Path(__file__).parents[1]


class Urls(NamedTuple):
    """Where they are."""

    nats: str
    postgres: str
    pids: dict[str, int]
    """Of both, by name."""


@contextmanager
def fresh_servers(shards: int) -> Iterator[Urls]:
    """Run servers without data for as long as the block runs. Blocks for a second or two."""
    with tempfile.TemporaryDirectory(prefix="ostinato-benchmark-") as name:
        Path(name).chmod(0o755)
        argv = [sys.executable, "-m", "benchmarks.log_servers", f"{name}/data", str(shards)]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        try:
            assert process.stdout is not None
            yield Urls(**json.loads(process.stdout.readline()))
        finally:
            process.communicate(timeout=30)


async def _serve(folder: Path, shards: int) -> None:
    async with embedded(DataDirectory(folder, shards=shards)) as running:
        pids = {name: server.pid for name, server in running.own.items()}
        urls = {"nats": running.nats_url, "postgres": running.postgres_url, "pids": pids}
        print(json.dumps(urls), flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
