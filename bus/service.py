"""A process as a NATS service: who is there, and how full its queues are, for every tool that speaks the protocol.

`nats micro ls`, `nats req '$SRV.STATS' '' --replies=0`. Protocol: NATS ADR-32.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from nats.errors import Error as NatsError
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointStats

from bus.connection import Connection
from bus.errors import Unavailable

_SEMVER = re.compile(r"\d+\.\d+\.\d+")

Numbers = dict[str, Any]
"""Names to numbers, nested where there are several of a kind."""


async def serve_status(
    connection: Connection,
    role: str,
    version: str,
    slot: str,
    subject: str,
    status: Callable[[], bytes],
    statistics: Callable[[], Numbers],
) -> None:
    """Answer on `subject` with the status, and on `$SRV.STATS` with the statistics, for as long as the connection is.

    Args:
        connection: to NATS.
        role: the service is called `ostinato-<role>`.
        version: of the code.
        slot: which one of its role.
        subject: where the status is asked for.
        status: gives it, encoded.
        statistics: gives how full every queue is, and what was done.

    Raises:
        Unavailable: the connection is closed.
    """

    async def answer(request: Request) -> None:
        await request.respond(status())

    def numbers(_: EndpointStats) -> Numbers:
        return statistics()

    found = _SEMVER.match(version)
    try:
        service = await add_service(
            connection.client,
            name=f"ostinato-{role}",
            version=found.group() if found else "0.0.0",
            metadata={"slot": slot},
            stats_handler=numbers,
        )
        await service.add_endpoint(name="status", subject=subject, handler=answer)
    except NatsError as error:
        raise Unavailable(f"cannot serve the status of {slot!r}: {error}") from error
