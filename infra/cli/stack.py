"""What `up` and `demo` share: options to settings, progress, and running a stack until a signal."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys

from infra.cli.progress import StageLine
from infra.configuration import Configuration, configure
from infra.launcher import slots
from infra.settings import Settings

_FLAGS = {
    "data": "data",
    "host": "host",
    "port": "port",
    "agents": "agents",
    "agent_processes": "agent_processes",
    "model": "engine.model",
    "model_name": "engine.name",
    "context_length": "engine.context_length",
    "kv_memory_mb": "engine.kv_memory_mb",
    "nats": "nats",
    "postgres": "postgres",
    "replicas": "replicas",
}
"""The settings that have a flag: the option's name, and the setting's key."""


def settings_from(options: argparse.Namespace, default_port: int = Settings().port) -> Settings:
    """Give the settings that the command line, the environment and the configuration file ask for."""
    return configuration_from(options, default_port).settings


def configuration_from(options: argparse.Namespace, default_port: int = Settings().port) -> Configuration:
    """Give the settings with where each came from."""
    given = {key: getattr(options, name) for name, key in _FLAGS.items() if getattr(options, name) is not None}
    if "agents" in given:
        given["agents"] = tuple(given["agents"])
    return configure(given, options.config, os.environ, {"port": default_port})


def progress_line(settings: Settings) -> StageLine:
    """Show on standard error how starting goes on."""
    return StageLine(sys.stderr, [["model"], ["servers"], [slot for slot, _ in slots(settings)], ["ready"]])


def stopped_by_signal() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    return stopping
