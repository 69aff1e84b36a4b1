"""The API keys that open the bridge: made here, held as digests, and let go as soon as the log says so."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import NamedTuple

import msgspec

from actors.access.key import KIND, Key, KeyMachine
from actors.runtime.machine import Emitted
from bus.connection import Connection
from bus.errors import BusError
from bus.keys import hear_keys, key_events
from bus.store import Store
from schemas import codec
from schemas.context import Chance
from schemas.errors import SchemaError
from schemas.live import Committed
from schemas.runs import Event

log = logging.getLogger(__name__)

BEGINNING = "ost_"
"""Of every secret: what it is can be told, by people and by those who look for leaked ones."""
_SHOWN = 12
_LOOK_S = 15.0


class Secret(NamedTuple):
    """A new key's secret: told once, kept nowhere."""

    text: str

    @property
    def prefix(self) -> str:
        """What it is known by afterwards."""
        return self.text[:_SHOWN]


def new_secret(chance: Chance) -> Secret:
    """Make a secret of 256 bits of chance."""
    drawn = chance.bits(256).to_bytes(32, "big")
    return Secret(BEGINNING + base64.urlsafe_b64encode(drawn).decode().rstrip("="))


def digest_of(secret: str) -> str:
    """Return what is kept of a secret."""
    return sha256(secret.encode()).hexdigest()


class ApiKeys:
    """Every key there is, by digest."""

    def __init__(self) -> None:
        self._machine = KeyMachine()
        self._keys: dict[tuple[str, str], Key] = {}
        self._by_digest: dict[str, Key] = {}

    def find(self, secret: str, now: int) -> Key | None:
        """Return the key of a secret, if it opens anything at this time.

        What is compared are digests, in a table: how long that takes tells nothing that could be used.
        """
        key = self._by_digest.get(digest_of(secret))
        if key is None or key.issued is None or key.revoked is not None:
            return None
        return None if key.issued.expires and key.issued.expires <= now else key

    def entries(self) -> list[Key]:
        """List all, those that open nothing any more too, the oldest first."""
        return sorted((key for key in self._keys.values() if key.issued is not None), key=lambda key: key.time)

    def note(self, tenant: str, identity: str, event: Event) -> None:
        """Take in what happened to a key; twice is once, and a revocation outlives what comes after it."""
        before = self._keys.get((tenant, identity)) or self._machine.initial(tenant, identity)
        key = self._machine.evolve(before, Emitted(KIND, identity, event))
        self._keys[tenant, identity] = key
        if key.issued is not None:
            self._by_digest[key.issued.digest] = key

    async def read(self, store: Store) -> None:
        """Take in all that is recorded.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        for stored in await key_events(store):
            self._take(stored.fact.tenant, stored.fact.entity, stored.fact.payload)

    async def hear(self, told: Committed) -> None:
        """Take in what was committed just now."""
        self._take(told.tenant, told.subject, told.data)

    def _take(self, tenant: str, identity: str, data: bytes | msgspec.Raw) -> None:
        """Take an event in; one that cannot be read, of newer code maybe, holds up no other."""
        try:
            event = codec.decode_event(data)
        except SchemaError as error:
            log.warning("key %s: %s", identity, error)
            return
        self.note(tenant, identity, event)


@asynccontextmanager
async def kept_up(ring: ApiKeys, connection: Connection, store: Store) -> AsyncIterator[None]:
    """Keep keys as the log has it, for as long as the block runs.

    A revocation is heard as it is committed. What was said while the connection was away is read soon after.

    Raises:
        Unavailable: a server cannot be reached.
    """
    subscription = await hear_keys(connection, ring.hear)
    await connection.flush()
    await ring.read(store)
    looking = asyncio.create_task(_look(ring, store), name="keys")
    try:
        yield
    finally:
        looking.cancel()
        await subscription.unsubscribe()


async def _look(ring: ApiKeys, store: Store) -> None:
    while True:
        await asyncio.sleep(_LOOK_S)
        try:
            await ring.read(store)
        except (BusError, TimeoutError) as error:
            log.warning("keys: %s", error)
