"""`ostinato config show`: every setting as it would be used, and where it came from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

import msgspec

from infra.cli.stack import configuration_from
from infra.configuration import Value, shown


def main(options: argparse.Namespace) -> int:
    """Print the settings."""
    values = configuration_from(options).values
    sys.stdout.write(_as_json(values, options) if options.json else _as_toml(values, options))
    return 0


def _as_json(values: Mapping[str, Value], options: argparse.Namespace) -> str:
    whole = {
        key: {"value": shown(key, item.value), "origin": item.origin} if options.origin else shown(key, item.value)
        for key, item in values.items()
    }
    return msgspec.json.encode(whole).decode() + "\n"


def _as_toml(values: Mapping[str, Value], options: argparse.Namespace) -> str:
    return "".join(_line(key, item, options) + "\n" for key, item in values.items())


def _line(key: str, item: Value, options: argparse.Namespace) -> str:
    text = f"{key} = {msgspec.json.encode(shown(key, item.value)).decode()}"
    return f"{text:<50}  # {item.origin}" if options.origin else text
