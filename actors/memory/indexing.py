"""Keeps vectors of what was said up to date with the record, beside everything else.

What an embedder refuses, although it takes other texts, holds up nothing: it is tried again some times, longer apart
each time, and then set aside until somebody asks for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import Final, Protocol

from actors.errors import CallFailed
from actors.memory.embedding import Embedder
from bus.errors import BusError
from bus.store import Store
from bus.unindexed import give_back, index_late, refuse_again, take_due
from bus.vectors import NoVector, Spoken, keep, next_page
from schemas.faults import fault
from schemas.runs import Problem

log = logging.getLogger(__name__)

_POLL_S = 0.25
_RETRY_S = 5.0
LONGEST = 4000
"""Characters of a message that are embedded."""
PASSING: Final = frozenset({"overloaded", "timeout", "budget"})
"""Kinds of problems that are mostly no fault of a text's."""
_PATIENCE = 5
"""How often an embedder with such a problem is waited for, before it is seen whether one text makes it."""
DELAYS_S: Final = (10.0, 60.0, 600.0, 3600.0)
"""After each try to make a vector of a text that is refused."""
_AT_ONCE = 32
"""Texts that an embedder is given."""
_LIMIT_S = 60.0
_EACH_S = 10.0
"""How long an embedder may take, and for each text."""
_PROBE = "text"
"""What every embedder takes that takes anything."""
_REASON = 500
"""Characters of a reason that are kept."""
_LARGEST = 3e38
"""Of a number that Postgres keeps."""


class Opening(Protocol):
    """Opens the record when something is asked of it."""

    async def __call__(self) -> Store:
        """Open it, once.

        Raises:
            Unavailable: Postgres cannot be reached.
        """


async def catch_up(
    store: Store, embedder: Embedder, waited_for: Collection[str] = PASSING, delays_s: Sequence[float] = DELAYS_S
) -> int:
    """Embed all that is recorded by now, then what is to be tried again; return how many messages that were.

    Args:
        store: the record.
        embedder: whose vectors.
        waited_for: kinds of problems that are waited for; otherwise it is seen which texts cause them.
        delays_s: after each try to make a vector of what is refused.

    Raises:
        CallFailed: the embedder takes nothing now; it is gone on with there.
        Unavailable: Postgres cannot be reached.
    """
    done = 0
    while (page := await next_page(store, embedder.name)) is not None:
        vectors = list[list[float] | NoVector]()
        for first in range(0, len(page.spoken), _AT_ONCE):
            texts = [one.message.content[:LONGEST] for one in page.spoken[first : first + _AT_ONCE]]
            vectors += await _vectors(embedder, texts, waited_for, delays_s)
        if await keep(store, embedder.name, page, vectors):
            refused = [one for one, vector in zip(page.spoken, vectors, strict=True) if isinstance(vector, NoVector)]
            _warn_of(embedder, refused)
            done += len(vectors) - len(refused)
    while due := await take_due(store, embedder.name, delays_s, _AT_ONCE):
        done += await _try_again(store, embedder, due)
    return done


async def embedded(embedder: Embedder, texts: Sequence[str]) -> list[list[float]]:
    """Ask an embedder, whoever wrote it.

    Raises:
        BusError: it asks over the bus, and cannot.
        CallFailed: it refuses, breaks, takes too long, or gives what are no vectors.
    """
    limit_s = _LIMIT_S + _EACH_S * len(texts)
    try:
        async with asyncio.timeout(limit_s):
            vectors = await embedder.embed(texts)
        return _checked(vectors, len(texts))
    except (CallFailed, BusError):
        raise
    except TimeoutError:
        raise CallFailed(Problem("timeout", f"{embedder.name}: no vectors within {limit_s:g} s")) from None
    except Exception as error:
        # its words may hold what was said
        raise CallFailed(Problem("engine", f"{embedder.name}: it broke ({type(error).__name__})")) from error


async def _vectors(
    embedder: Embedder, texts: Sequence[str], waited_for: Collection[str], delays_s: Sequence[float]
) -> list[list[float] | NoVector]:
    """Embed texts; of one that is refused, although others are taken, the reason is told."""
    try:
        return list(await embedded(embedder, texts))
    except CallFailed as failure:
        if failure.problem.kind in waited_for or not await _takes_anything(embedder):
            raise
        if len(texts) == 1:
            return [NoVector(_reason(failure), delays_s[0])]
    half = len(texts) // 2
    parts = (texts[:half], texts[half:])
    return [vector for part in parts for vector in await _vectors(embedder, part, waited_for, delays_s)]


async def _try_again(store: Store, embedder: Embedder, due: Sequence[Spoken]) -> int:
    done = 0
    for at, one in enumerate(due):
        try:
            (vector,) = await embedded(embedder, [one.message.content[:LONGEST]])
        except CallFailed as failure:
            if not await _takes_anything(embedder):
                await give_back(store, embedder.name, due[at:])
                raise
            await refuse_again(store, embedder.name, one, _reason(failure))
            _warn_of(embedder, [one])
        else:
            await index_late(store, embedder.name, one, vector)
            done += 1
    return done


async def _takes_anything(embedder: Embedder) -> bool:
    """Say whether it is a text's fault that an embedder failed: another one it takes."""
    try:
        await embedded(embedder, [_PROBE])
    except CallFailed:
        return False
    return True


def _checked(vectors: Sequence[list[float]], count: int) -> list[list[float]]:
    """Refuse what is no vector: nothing could be compared with it, or it would be near to everything.

    Raises:
        ValueError: there are not as many as texts, or one is empty, nothing but zeros, or too large to be kept.
    """
    if len(vectors) != count:
        raise ValueError(f"{count} texts were given, and {len(vectors)} vectors came back")
    if not all(any(vector) and all(abs(number) <= _LARGEST for number in vector) for vector in vectors):
        raise ValueError("a vector came back that is empty, or holds what is no number")
    return list(vectors)


def _reason(failure: CallFailed) -> str:
    return failure.problem.message[:_REASON].encode("utf-8", "replace").decode()


def _warn_of(embedder: Embedder, refused: Sequence[Spoken]) -> None:
    """Say where; the reasons may quote what was said, and stand in the record."""
    if refused:
        one = refused[0]
        where = f"{one.thread} {one.place.sequence}/{one.place.idx}"
        log.warning("%s makes no vectors of %d texts, such as %s", embedder.name, len(refused), where)


async def index(opened: Opening, embedder: Embedder) -> None:
    """Keep up until cancelled; whatever fails is tried again, for nothing waits for it."""
    failures = 0
    while True:
        try:
            await catch_up(await opened(), embedder, PASSING if failures < _PATIENCE else ())
            failures = 0
        except (BusError, CallFailed) as error:
            log.warning("vectors of %s wait: %s", embedder.name, fault(error))
            await asyncio.sleep(_RETRY_S * 2 ** min(failures, _PATIENCE))
            failures += isinstance(error, CallFailed)
        except Exception as error:  # noqa: BLE001  likewise
            log.error("vectors of %s cannot be made: %s", embedder.name, fault(error))  # noqa: TRY400
            await asyncio.sleep(_RETRY_S)
        await asyncio.sleep(_POLL_S)
