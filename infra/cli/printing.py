"""Lines on standard output: a text for people, or one JSON object for programs."""

from __future__ import annotations

import sys

import msgspec


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")


def say_json(value: object) -> None:
    """Print a value as a line of JSON."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
