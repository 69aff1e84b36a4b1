"""Puts the models together that agents may ask: engines here, and models elsewhere as the settings say."""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import os
import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from actors.errors import CallFailed
from actors.memory.embedding import Embedder
from actors.models.breaker import Breaker
from actors.models.budgets import Books, Budgeted, Ledger, Tell
from actors.models.cache import Answers, Cached
from actors.models.embedding import Embeddings, RoutedEmbedder
from actors.models.poolers import Poolers
from actors.models.pricing import Priced, Pricing
from actors.models.provider import ModelProvider
from actors.models.registry import Registry
from actors.models.remote import Outside
from actors.models.router import Router
from actors.models.sight import Show, as_it_is
from actors.models.transport import Transport
from bus import subjects
from bus.connection import Connection
from bus.conversation import Send, offer
from bus.errors import Unavailable
from bus.spending import hear_spent, recorded_spending, tell_spent
from infra.process import Status
from infra.readback import LateStore
from infra.settings import ModelSettings
from schemas.context import Clock
from schemas.models import ModelChain, ModelEntry, Spent
from schemas.pooling import EmbedElsewhere, PoolRefused, PoolTold, Vectors
from schemas.runs import Problem

log = logging.getLogger(__name__)

_READ_S = 5.0
"""How long a start waits for what was spent before."""
_AGAIN_S = 2.0


@dataclass(frozen=True)
class Models:
    """The models of a process, and its books."""

    router: Router
    ledger: Ledger | None
    """None where there are no budgets."""
    embeddings: Embeddings
    """By models elsewhere."""
    answers: Answers
    """Those that are kept."""


def make_models(
    engines: Mapping[str, ModelProvider],
    settings: ModelSettings,
    clock: Clock,
    tell: Tell,
    nearby: Callable[[str], ModelProvider] | None = None,
    environment: Mapping[str, str] = os.environ,
    show: Show = as_it_is,
    poolers: Poolers | None = None,
) -> Models:
    """Put the models of a process together; `tell` tells others what was spent, `show` gives pictures whole, and
    `poolers` are the stack's own models that give vectors."""

    making: list[asyncio.Task[Transport]] = []

    async def transport() -> Transport:
        # its library, and the certificates that it trusts, are loaded by processes alone that ask somebody elsewhere
        if not making:
            making.append(asyncio.create_task(asyncio.to_thread(_client, settings)))
        return await asyncio.shield(making[0])

    outside = Outside(
        transport, environment, clock, settings.first_s, settings.after_crash, show, silence_s=settings.silence_s
    )
    registry = Registry.load(settings.providers)
    pricing = Pricing(registry, settings.prices)
    ledger = Ledger(settings.budgets, clock, pricing.known_cost) if settings.budgets else None
    books = None if ledger is None else Books(ledger, clock, tell)
    answers = Answers(settings.cache_answers)

    def wrap(name: str, model: ModelProvider) -> ModelProvider:
        # an answer that is kept costs nothing, so the cache is outside of the books
        priced = Priced(name, model, pricing)
        inner = priced if books is None else Budgeted(name, priced, books)
        return Cached(name, inner, answers) if settings.cache_answers else inner

    chains = {name: _chain(entries) for name, entries in settings.chains.items()}
    breaker = functools.partial(Breaker, clock, settings.breaker_failures, settings.breaker_s)
    router = Router(engines, registry, outside, chains, breaker, wrap, nearby, pricing)
    return Models(router, ledger, Embeddings(registry, outside, books, poolers), answers)


def _client(settings: ModelSettings) -> Transport:
    client: Transport = importlib.import_module("actors.models.http").HttpClient(settings.connect_s, settings.silence_s)
    return client


def _chain(entries: tuple[str | ModelEntry, ...]) -> ModelChain:
    return ModelChain(tuple(ModelEntry(entry) if isinstance(entry, str) else entry for entry in entries))


def teller(connection: Connection, status: Status) -> Tell:
    """Give what tells other processes what was spent in this one."""

    async def tell(spent: Spent) -> None:
        await tell_spent(connection, replace(spent, process=status.run))

    return tell


async def keep_books(models: Models, connection: Connection, record: LateStore, status: Status) -> asyncio.Task[None]:
    """Hear of what other processes spend, and read what was spent before, where there are budgets.

    Returns:
        What reads on where the record is long or away; calls are made meanwhile.
    """
    if models.ledger is not None:
        await hear_spent(connection, models.ledger.learn, status.run)
    reading = asyncio.create_task(_read_books(models.ledger, record), name="books")
    await asyncio.wait({reading}, timeout=_READ_S)
    return reading


async def _read_books(ledger: Ledger | None, record: LateStore) -> None:
    """Enter what was spent before, each call once, however often the record goes away."""
    since, entered = 0 if ledger is None else ledger.since, 0
    while ledger is not None:
        try:
            at = 0
            async for part in recorded_spending(await record.opened(), since):
                at += 1
                for spent in part if at > entered else ():
                    ledger.learn(spent)
                entered = max(entered, at)
        except (Unavailable, TimeoutError) as error:
            log.warning("what was spent before is not known yet: %s", error)
            await asyncio.sleep(_AGAIN_S)
        else:
            return


def bind_embedders(embedders: Sequence[Embedder], models: Models) -> None:
    """Have embedders that are models elsewhere ask through this process; what one lacks is told in the log."""
    for embedder in embedders:
        if isinstance(embedder, RoutedEmbedder):
            try:
                embedder.bind(models.embeddings)
            except CallFailed as failure:
                log.warning("vectors of %s cannot be had: %s", embedder.name, failure.problem.message)


async def serve_embeddings(connection: Connection, version: str, embeddings: Embeddings) -> None:
    """Give vectors of models elsewhere to whoever asks on the bus: the keys are here.

    Raises:
        Unavailable: the connection is closed.
    """

    async def answer(data: bytes, send: Send) -> None:
        await send(msgspec.json.encode(await _embedded(data, embeddings)))

    await offer(connection, "embeddings", version, subjects.EMBED_ELSEWHERE, {}, answer)


async def _embedded(data: bytes, embeddings: Embeddings) -> PoolTold:
    try:
        asked = msgspec.json.decode(data, type=EmbedElsewhere)
        told = await embeddings.embed(asked.model, asked.texts, asked.dimensions, asked.tenant)
    except msgspec.DecodeError as error:
        return PoolRefused(Problem(kind="invalid", message=f"this asks for no vectors: {error}"))
    except CallFailed as failure:
        return PoolRefused(failure.problem)
    numbers = array("f", [number for vector in told.vectors for number in vector])
    if sys.byteorder == "big":
        numbers.byteswap()
    return Vectors(len(told.vectors[0]), numbers.tobytes(), told.tokens)
