"""The whole stack inside a script: its servers, its model and the script's own agents, for as long as a block runs."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from infra.client import Client, connected
from infra.configuration import configure
from infra.privacy import stack_master


def _quiet(_stage: str, _seconds: float) -> None:
    """Tell nobody."""


@asynccontextmanager
async def inline(
    agents: str, data: str | None = None, settings: Mapping[str, Any] | None = None
) -> AsyncIterator[Client]:
    """Run a stack that serves the agents of a file or module.

    The file may be the script's own (`inline(__file__)`): its processes import it, so what the script does stands below
    `if __name__ == "__main__":`.

    Args:
        agents: a Python file or module that defines agents at its top level.
        data: the data directory; one that is removed in the end unless given.
        settings: any setting by its name (docs/configuration.md), such as `{"engine.model": "Qwen/Qwen3-0.6B"}`.

    Raises:
        InfraError: something is wrong with the machine or the settings; says what and how to mend it.
    """
    with _folder() as folder:
        wanted = {"data": data or f"{folder}/data", "agents": (agents,), "port": 0, **(settings or {})}
        made = configure(wanted, None, os.environ).settings
        # an HTTP server's worth of modules: who only defines agents needs none of them
        launcher = importlib.import_module("infra.launcher")
        async with (
            launcher.running(made, _quiet) as stack,
            connected(stack.servers.nats_url, stack.servers.postgres_url, master=stack_master(stack.store)) as client,
        ):
            yield client


@contextmanager
def _folder() -> Iterator[str]:
    """Make a folder that the servers can enter, which run as nobody where we are root."""
    with tempfile.TemporaryDirectory(prefix="ostinato-") as name:
        Path(name).chmod(0o755)
        yield name
