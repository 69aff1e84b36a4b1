"""What is looked for and not there: it may be in the log and not yet in the record, which is a moment behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from bus.connection import Connection
from bus.store import Store
from infra.access import behind

T = TypeVar("T")

LATE_S: Final = 1.0
"""How long a request waits for the record: what its client has heard of is there then, or nobody knows when."""


class Copies(Protocol):
    """Both copies of the log: a bridge's desk, or a client of its."""

    @property
    def connection(self) -> Connection:
        """The bus."""

    @property
    def store(self) -> Callable[[], Awaitable[Store]]:
        """Opens the record."""


async def caught_up(copies: Copies) -> None:
    """Wait until the record holds what clients may have heard of: not at all where it does, and never for long.

    Raises:
        BusError: a server cannot be reached.
        TimeoutError: JetStream does not answer.
    """
    await behind(copies.connection, await copies.store(), LATE_S)


async def lately(copies: Copies, look: Callable[[], Awaitable[T | None]]) -> T | None:
    """Look for something; where it is not there, once more when the record holds all that is in the log by now.

    Raises:
        BusError: a server cannot be reached.
        TimeoutError: JetStream does not answer.
    """
    found = await look()
    if found is None:
        await caught_up(copies)
        found = await look()
    return found
