"""Puts the models together that agents may ask: engines here, and models elsewhere as the settings say."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Mapping

from actors.models.breaker import Breaker
from actors.models.provider import ModelProvider
from actors.models.registry import Registry
from actors.models.remote import Outside
from actors.models.router import Router
from actors.models.transport import Transport
from infra.settings import ModelSettings
from schemas.context import Clock
from schemas.models import ModelChain, ModelEntry


def make_router(
    engines: Mapping[str, ModelProvider],
    settings: ModelSettings,
    clock: Clock,
    environment: Mapping[str, str] = os.environ,
) -> Router:
    """Make the router of a process."""

    making: list[asyncio.Task[Transport]] = []

    async def transport() -> Transport:
        # its library, and the certificates that it trusts, are loaded by processes alone that ask somebody elsewhere
        if not making:
            making.append(asyncio.create_task(asyncio.to_thread(_client, settings)))
        return await asyncio.shield(making[0])

    outside = Outside(transport, environment, clock, settings.first_s, settings.after_crash)
    return Router(
        engines,
        Registry.load(settings.providers),
        outside,
        {name: _chain(entries) for name, entries in settings.chains.items()},
        lambda: Breaker(clock, settings.breaker_failures, settings.breaker_s),
    )


def _client(settings: ModelSettings) -> Transport:
    client: Transport = importlib.import_module("actors.models.http").HttpClient(settings.connect_s, settings.silence_s)
    return client


def _chain(entries: tuple[str | ModelEntry, ...]) -> ModelChain:
    return ModelChain(tuple(ModelEntry(entry) if isinstance(entry, str) else entry for entry in entries))
