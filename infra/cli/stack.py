"""What `up` and `demo` share: options to settings, progress, and running a stack until a signal."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import msgspec

from infra.cli.progress import StageLine
from infra.launcher import slots
from infra.settings import EngineSettings, Settings

_PORT = 8000


def settings_from(options: argparse.Namespace, default_port: int = _PORT) -> Settings:
    """Give the settings that the command line asks for."""
    engine = EngineSettings(context_length=options.context_length, kv_memory_mb=options.kv_memory_mb)
    if options.model is not None:
        name = options.model_name or Path(options.model).name
        engine = msgspec.structs.replace(engine, model=options.model, name=name)
    elif options.model_name is not None:
        engine = msgspec.structs.replace(engine, name=options.model_name)
    return Settings(
        data=options.data,
        host=options.host,
        port=default_port if options.port is None else options.port,
        agents=tuple(options.agents),
        agent_processes=options.agent_processes,
        engine=engine,
    )


def progress_line(settings: Settings) -> StageLine:
    """Show on standard error how starting goes on."""
    return StageLine(sys.stderr, [["model"], ["servers"], [slot for slot, _ in slots(settings)], ["ready"]])


def program() -> str:
    """Name this command as the user can type it here: by name if it is on the path, else by where it is."""
    found = shutil.which("ostinato")
    own = Path(sys.executable).parent / "ostinato"
    if found is not None and Path(found).samefile(own):
        return "ostinato"
    return shlex.quote(os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own))


def stopped_by_signal() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    return stopping
