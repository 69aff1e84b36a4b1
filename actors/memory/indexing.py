"""Keeps the vectors of what was said up with the record, for as long as it runs."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from actors.errors import CallFailed
from actors.memory.embedding import Embedder
from bus.errors import BusError
from bus.store import Store
from bus.vectors import keep, next_page
from schemas.faults import fault

log = logging.getLogger(__name__)

_POLL_S = 0.25
_RETRY_S = 5.0
LONGEST = 4000
"""Characters of a message that are embedded."""


class Opening(Protocol):
    """Gives the record, once it can be had."""

    async def __call__(self) -> Store:
        """Open it, or give the one that is open.

        Raises:
            Unavailable: Postgres cannot be reached.
        """


async def catch_up(store: Store, embedder: Embedder) -> int:
    """Embed all that is recorded by now; return how many messages that were.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    done = 0
    while (page := await next_page(store, embedder.name)) is not None:
        texts = [one.message.content[:LONGEST] for one in page.spoken]
        vectors = await embedder.embed(texts) if texts else []
        if await keep(store, embedder.name, page, vectors):
            done += len(texts)
    return done


async def index(opened: Opening, embedder: Embedder) -> None:
    """Keep up until cancelled; whatever fails is tried again, for nothing waits for it."""
    while True:
        try:
            await catch_up(await opened(), embedder)
        except (BusError, CallFailed) as error:
            log.warning("vectors of %s wait: %s", embedder.name, fault(error))
            await asyncio.sleep(_RETRY_S)
        except Exception as error:  # noqa: BLE001  likewise
            log.error("vectors of %s cannot be made: %s", embedder.name, fault(error))  # noqa: TRY400
            await asyncio.sleep(_RETRY_S)
        await asyncio.sleep(_POLL_S)
