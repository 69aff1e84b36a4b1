"""Waiting for a time by the clock."""

from __future__ import annotations

import asyncio
from typing import Final

from schemas.context import Clock

_LOOK_S: Final = 60.0
"""A clock may be set meanwhile: it is looked at that often."""


async def wait_until(clock: Clock, at: int) -> None:
    """Wait until the clock says a time, microseconds since the Unix epoch."""
    while (left := at - clock.now()) > 0:  # noqa: ASYNC110  a clock wakes nobody
        await asyncio.sleep(min(left / 1e6, _LOOK_S))
