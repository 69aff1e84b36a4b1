"""`ostinato up`: the stack, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Callable

import msgspec
import uvloop

from bus.address import masked
from infra.bridge.access import needs_key
from infra.cli.hints import on_data, program
from infra.cli.progress import StageLine
from infra.cli.stack import progress_line, settings_from, stopped_by_signal
from infra.launcher import Stack, running, why_failed
from infra.settings import Settings


def main(options: argparse.Namespace) -> int:
    """Run the stack in the foreground."""
    return keep_up(settings_from(options), ready_line if options.json else banner)


def keep_up(settings: Settings, announce: Callable[[Stack], str]) -> int:
    """Run a stack until a signal; `announce` says where it is, once it is."""
    return uvloop.run(_up(settings, announce))


async def _up(settings: Settings, announce: Callable[[Stack], str]) -> int:
    with progress_line(settings) as progress:
        return await _run(settings, progress, announce)


async def _run(settings: Settings, progress: StageLine, announce: Callable[[Stack], str]) -> int:
    ready = asyncio.Event()

    def notice(text: str) -> None:
        if ready.is_set():  # until then the progress line says what is waited for, or the error what failed
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    async with running(settings, progress, progress.note, notice) as stack:
        ready.set()
        gc.freeze()  # what stays is not looked through again: that would hold every stream up for a tenth of a second
        for done in stack.mended:
            notice(done)
        signalled = stopped_by_signal()
        sys.stdout.write(announce(stack))
        sys.stdout.flush()
        stopping = asyncio.create_task(signalled.wait())
        failing = asyncio.create_task(stack.supervisor.failed.wait())
        await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            raise await why_failed(stack)
        stopping.cancel()
        failing.cancel()
        sys.stderr.write("stopping\n")
    return 0


def ready_line(stack: Stack) -> str:
    """Say where everything is, for programs: one JSON object."""
    ready = {
        "url": stack.url,
        "openai": f"{stack.url}/v1",
        "nats": masked(stack.servers.nats_url),
        "postgres": masked(stack.servers.postgres_url),
        "data": str(stack.directory.path),
        "model": stack.settings.engine.name,
        "pid": os.getpid(),
    }
    return msgspec.json.encode(ready).decode() + "\n"


def banner(stack: Stack) -> str:
    """Say where everything is and what to try first, in eight lines."""
    body = '{"model": "agent/demo", "messages": [{"role": "user", "content": "What is 12 * 34?"}]}'
    guarded = needs_key(stack.settings.access, stack.settings.host)
    key = f"$({program()} keys create{on_data(stack.settings.data)})" if guarded else "none"
    given = '-H "authorization: Bearer $OPENAI_API_KEY" ' if guarded else ""
    return (
        f"Ostinato is up at {stack.url} (Ctrl-C stops it)\n"
        f"  export OPENAI_BASE_URL={stack.url}/v1 OPENAI_API_KEY={key}\n"
        f"  NATS   {masked(stack.servers.nats_url)}\n"
        f"  data   {stack.directory.path}\n"
        f"  model  {stack.settings.engine.name}\n"
        f"  try    curl {stack.url}/v1/chat/completions {given}-H 'content-type: application/json' -d '{body}'\n"
        f"  then   {program()} replay ls{on_data(stack.settings.data)}\n"
    )
