"""The door for new commands: while it is closed JetStream refuses each at once, and what was taken before goes on."""

from __future__ import annotations

from bus.connection import Connection
from bus.errors import Refused
from bus.streams import CMD, TAKES_COMMANDS

FULL = 10077
"""JetStream's code for a stream at a limit."""
_NOTHING = 1
"""No command fits so many bytes."""


async def close_admission(connection: Connection, why: str) -> None:
    """Take no more commands; whoever sends one is told `why`.

    Raises:
        BusError: JetStream does not do it.
        TimeoutError: no answer.
    """
    await _set(connection, _NOTHING, why)


async def open_admission(connection: Connection) -> None:
    """Take commands again.

    Raises:
        BusError: JetStream does not do it.
        TimeoutError: no answer.
    """
    await _set(connection, -1, TAKES_COMMANDS)


async def _set(connection: Connection, max_bytes: int, description: str) -> None:
    config = (await connection.api(f"STREAM.INFO.{CMD}"))["config"]
    await connection.api(f"STREAM.UPDATE.{CMD}", {**config, "max_bytes": max_bytes, "description": description})


async def explained(connection: Connection, refusal: Refused) -> Refused:
    """Return a refusal of a command with the reason that the door was closed for, if it was.

    Raises:
        BusError: JetStream cannot say.
        TimeoutError: no answer.
    """
    if refusal.code != FULL:
        return refusal
    config = (await connection.api(f"STREAM.INFO.{CMD}"))["config"]
    if config.get("max_bytes") != _NOTHING:
        return Refused(refusal.code, f"{config['max_msgs']} commands wait already")
    return Refused(refusal.code, str(config.get("description")))
