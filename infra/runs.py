"""Runs that agents ask for, followed through the bus and the record."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from bus.commands import send_command
from bus.connection import Connection
from infra.follow import ReadBack, follow
from schemas.commands import Command
from schemas.live import Frame

log = logging.getLogger(__name__)

LONGEST_S = 30 * 86_400.0
"""A run may wait for a person; nobody waits longer for it."""


@dataclass(frozen=True, slots=True)
class BusRuns:
    """The `Runs` of a bus."""

    connection: Connection
    read_back: ReadBack

    def follow(self, command: Command) -> AsyncIterator[Frame]:
        """Send and follow; what was missed is read back from the record."""
        return follow(self.connection, self.read_back, command, LONGEST_S)

    async def abort(self, command: Command) -> None:
        """Send it."""
        await send_command(self.connection, command)
