"""The requests that clients of this bridge wait for, by every name they may call them; ends those nobody waits for."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable

from bus.errors import BusError
from infra.bridge.exchange import Exchange

log = logging.getLogger(__name__)

Abort = Callable[[str, str, str], Awaitable[None]]
"""Ends a tenant's generation with an id, for a reason."""

_LAST_WORDS_S = 2.0
"""How long what was ended may take to say so."""
_PREFIXES = ("chatcmpl-", "cmpl-", "msg_", "resp_")


class UnderWay:
    """Exchanges that have begun and are not over."""

    def __init__(self, abort: Abort) -> None:
        self._abort = abort
        self._named: dict[tuple[str, str], list[Exchange]] = defaultdict(list)
        """By tenant and name."""
        self._aborting: set[asyncio.Task[None]] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self.draining = False
        """Whether nothing new is begun."""

    def __len__(self) -> int:
        return len({id(exchange) for exchanges in self._named.values() for exchange in exchanges})

    def __contains__(self, named: tuple[str, str]) -> bool:
        """Say whether somebody waits for a tenant's exchange of some name."""
        return named in self._named

    def enter(self, exchange: Exchange, name: str) -> None:
        """Note an exchange that begins; `name` is what its client calls it."""
        self._quiet.clear()
        for known in self._names(exchange, name):
            self._named[known].append(exchange)

    def leave(self, exchange: Exchange, name: str) -> None:
        """Note that nobody waits any more: generations that are not over are ended, runs of agents go on."""
        for known in self._names(exchange, name):
            self._named[known].remove(exchange)
            if not self._named[known]:
                del self._named[known]
        if not self._named:
            self._quiet.set()
        if not exchange.lasting:
            self._end(exchange, "its client went away")

    def abort(self, tenant: str, names: Iterable[str]) -> None:
        """End a tenant's generations with these names; a name that is none here is taken for a generation's."""
        for name in names:
            bare = next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)
            found = self._named.get((tenant, name)) or self._named.get((tenant, bare))
            for exchange in found or ():
                self._end(exchange, "a client aborted it")
            if not found:
                self._begin(tenant, bare, "a client aborted it")

    async def drain(self, seconds: float) -> None:
        """Wait until no exchange is under way, for so long at most, then end what is left and let clients hear it.

        None must be begun from now on: see `draining`.
        """
        self.draining = True
        if await self._quiet_within(seconds):
            return
        left = {id(exchange): exchange for several in self._named.values() for exchange in several}.values()
        for exchange in left:
            if not exchange.lasting:
                self._end(exchange, "the server stops")
        if not all(exchange.lasting for exchange in left):
            await self._quiet_within(_LAST_WORDS_S)

    async def _quiet_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    def _names(self, exchange: Exchange, name: str) -> set[tuple[str, str]]:
        return {(command.tenant, known) for command in exchange.commands for known in (name, command.id)}

    def _end(self, exchange: Exchange, reason: str) -> None:
        if not exchange.agent:
            for command in exchange.commands:
                if command.id not in exchange.over:
                    self._begin(command.tenant, command.id, reason)

    def _begin(self, tenant: str, generation: str, reason: str) -> None:
        task = asyncio.create_task(self._send(tenant, generation, reason), name=f"abort-{generation}")
        self._aborting.add(task)
        task.add_done_callback(self._aborting.discard)

    async def _send(self, tenant: str, generation: str, reason: str) -> None:
        try:
            await self._abort(tenant, generation, reason)
        except (BusError, TimeoutError) as error:
            log.warning("generation %s is not aborted: %s", generation, error)
