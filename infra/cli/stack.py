"""What `up` and `demo` share: options to settings, progress, and running a stack until a signal."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

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


SERVE_FLAGS = {
    "data": "data",
    "host": "host",
    "port": "port",
    "nats": "nats",
    "postgres": "postgres",
    "model": "engine.model",
    "served_model_name": "engine.name",
    "device": "engine.device",
    "dtype": "engine.dtype",
    "load_format": "engine.load_format",
    "quantization": "engine.quantization",
    "max_model_len": "engine.context_length",
    "block_size": "engine.block_size",
    "kv_cache_memory_bytes": "engine.kv_memory_mb",
    "num_gpu_blocks_override": "engine.kv_blocks",
    "max_num_seqs": "engine.max_running",
    "max_num_batched_tokens": "engine.max_step_tokens",
    "long_prefill_token_threshold": "engine.prefill_chunk",
    "scheduling_policy": "engine.policy",
    "max_num_queued_reqs": "engine.max_waiting",
    "max_num_queued_tokens": "engine.max_waiting_tokens",
    "shutdown_timeout": "engine.shutdown_timeout_s",
    "tool_call_parser": "engine.tool_parser",
    "reasoning_parser": "engine.reasoning_parser",
    "chat_template": "engine.chat_template",
    "trust_request_chat_template": "engine.trust_request_chat_template",
    "enforce_eager": "engine.enforce_eager",
    "batch_invariant": "engine.batch_invariant",
    "lora_modules": "engine.adapters",
    "logprobs_mode": "engine.logprobs_mode",
}
"""The same of `ostinato serve`, whose options are named as vLLM's."""


def settings_from(options: argparse.Namespace, default_port: int = Settings().port) -> Settings:
    """Give the settings that the command line, the environment and the configuration file ask for."""
    return configuration_from(options, default_port).settings


def configuration_from(options: argparse.Namespace, default_port: int = Settings().port) -> Configuration:
    """Give the settings with where each came from."""
    given = _given(options, _FLAGS)
    if "agents" in given:
        given["agents"] = tuple(given["agents"])
    return configure(given, options.config, os.environ, {"port": default_port})


def engine_settings_from(options: argparse.Namespace) -> Settings:
    """Give the settings of a stack that serves a model and no agents, whatever the file or environment names."""
    alone = {"agents": (), "demo_agent": False}
    return configure({**_given(options, SERVE_FLAGS), **alone}, options.config, os.environ).settings


def _given(options: argparse.Namespace, flags: Mapping[str, str]) -> dict[str, Any]:
    return {key: getattr(options, name) for name, key in flags.items() if getattr(options, name) is not None}


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
