"""Runs the scripts of this folder, which are clients from npm, and reads what they tell."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CLIENTS = Path(__file__).parent
_LONGEST_S = 90.0


def node_path() -> str:
    """Find the node of the environment, else the machine's."""
    ours = Path(sys.executable).parent / "node"
    found = str(ours) if ours.exists() else shutil.which("node")
    assert found, "no node: run `make test`, which installs it"
    assert (CLIENTS / "node_modules").exists(), "the clients are not installed: run `make test`"
    return found


async def node(
    script: str, scenario: str, on: Mapping[str, Callable[[], None]] | None = None, **given: Any
) -> dict[str, Any]:
    """Run a script's scenario; return what it came to.

    Args:
        script: its file's name.
        scenario: which of its scenarios.
        on: what to do when it tells something on the way.
        given: what it is given.
    """
    process = await asyncio.create_subprocess_exec(
        *(node_path(), script, scenario, json.dumps(given)),
        cwd=CLIENTS,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.create_task(process.stderr.read())
    try:
        async with asyncio.timeout(_LONGEST_S):
            told: Any = None
            async for line in process.stdout:
                told = json.loads(line)
                if isinstance(told, str) and on is not None:
                    on[told]()
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        problem = (await errors).decode()
    assert process.returncode == 0, problem
    assert isinstance(told, dict), problem
    return told
