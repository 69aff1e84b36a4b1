"""`ostinato serve MODEL`: the stack with one model and no agents, until Ctrl-C."""

from __future__ import annotations

import argparse

from bus.address import masked
from infra.cli.hints import on_data, program
from infra.cli.stack import engine_settings_from
from infra.cli.up import keep_up, ready_line
from infra.launcher import Stack


def main(options: argparse.Namespace) -> int:
    """Serve in the foreground."""
    return keep_up(engine_settings_from(options), ready_line if options.json else banner)


def banner(stack: Stack) -> str:
    """Say where the model is served and what to try first, in seven lines."""
    name = stack.settings.engine.name
    body = f'{{"model": "{name}", "prompt": "Hello", "max_tokens": 16}}'
    return (
        f"{name} is served at {stack.url}/v1 (Ctrl-C stops it)\n"
        f"  export OPENAI_BASE_URL={stack.url}/v1 OPENAI_API_KEY=none\n"
        f"  NATS   {masked(stack.servers.nats_url)}\n"
        f"  data   {stack.directory.path}\n"
        f"  try    curl {stack.url}/v1/completions -H 'content-type: application/json' -d '{body}'\n"
        f"  then   {program()} replay ls{on_data(stack.settings.data)}\n"
    )
