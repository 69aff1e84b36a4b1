"""Puts the models together that agents may ask: engines here, and models elsewhere as the settings say."""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from actors.models.breaker import Breaker
from actors.models.budgets import Budgeted, Ledger, Tell
from actors.models.cache import Answers, Cached
from actors.models.pricing import Priced, Pricing
from actors.models.provider import ModelProvider
from actors.models.registry import Registry
from actors.models.remote import Outside
from actors.models.router import Router
from actors.models.sight import Show, as_it_is
from actors.models.transport import Transport
from bus.connection import Connection
from bus.errors import Unavailable
from bus.spending import hear_spent, tell_spent
from infra.process import Status
from infra.readback import LateStore
from infra.settings import ModelSettings
from schemas.context import Clock
from schemas.models import ModelChain, ModelEntry, Spent

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """The models of a process, and its books."""

    router: Router
    ledger: Ledger | None
    """None where there are no budgets."""


def make_models(
    engines: Mapping[str, ModelProvider],
    settings: ModelSettings,
    clock: Clock,
    tell: Tell,
    nearby: Callable[[str], ModelProvider] | None = None,
    environment: Mapping[str, str] = os.environ,
    show: Show = as_it_is,
) -> Models:
    """Put the models of a process together; `tell` tells others what was spent, `show` gives pictures whole."""

    making: list[asyncio.Task[Transport]] = []

    async def transport() -> Transport:
        # its library, and the certificates that it trusts, are loaded by processes alone that ask somebody elsewhere
        if not making:
            making.append(asyncio.create_task(asyncio.to_thread(_client, settings)))
        return await asyncio.shield(making[0])

    outside = Outside(transport, environment, clock, settings.first_s, settings.after_crash, show)
    registry = Registry.load(settings.providers)
    pricing = Pricing(registry, settings.prices)
    ledger = Ledger(settings.budgets, clock, pricing.known_cost) if settings.budgets else None
    answers = Answers(settings.cache_answers)

    def wrap(name: str, model: ModelProvider) -> ModelProvider:
        # an answer that is kept costs nothing, so the cache is outside of the books
        priced = Priced(name, model, pricing)
        inner = priced if ledger is None else Budgeted(name, priced, ledger, clock, tell)
        return Cached(name, inner, answers) if settings.cache_answers else inner

    chains = {name: _chain(entries) for name, entries in settings.chains.items()}
    breaker = functools.partial(Breaker, clock, settings.breaker_failures, settings.breaker_s)
    return Models(Router(engines, registry, outside, chains, breaker, wrap, nearby, pricing), ledger)


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


async def keep_books(models: Models, connection: Connection, record: LateStore, status: Status) -> None:
    """Hear of what other processes spend, and read what was spent before, where there are budgets."""
    ledger = models.ledger
    if ledger is None:
        return
    await hear_spent(connection, ledger.learn, status.run)
    try:
        before = await record.spending(ledger.since)
    except (Unavailable, TimeoutError) as error:
        log.warning("budgets begin at nothing: the record cannot be read: %s", error)
        return
    for spent in before:
        ledger.learn(spent)
