"""Keys that seal what people say, a key a thread: who destroys it has erased the thread in every copy of the log.

A key is a row of Postgres, wrapped with a master key that is not in the database; a process keeps what it unwrapped.
Keys are made some at a time and ahead, so that a thread begins without a word with Postgres. What is sealed is sealed
for its place: it cannot be read in another thread's name, nor as another event.
"""

from __future__ import annotations

import asyncio
import binascii
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec.structs import replace

from bus.errors import Unavailable
from bus.master import Master
from schemas import codec
from schemas.context import Chance
from schemas.envelope import Envelope, Fact
from schemas.errors import BadShape
from schemas.live import Delta

log = logging.getLogger(__name__)

_NONCE = 12
_KEY_BITS = 256
_SPARE = 64
"""Keys that are made at once; when a quarter is left, more are."""
_SHARED = 4096
"""Generations without a thread that have the same key, and as many more as it takes where there is no other."""
_KEPT = 50_000
"""Keys that a process keeps unwrapped."""


class Database(Protocol):
    """Where keys are; `bus.store.Store`."""

    async def rows(self, sql: str, *values: object) -> list[Any]:
        """Run a query."""

    def transaction(self) -> Any:
        """Give a connection on which all that is done is kept together."""


class KeyDestroyed(Exception):
    """What it sealed is erased."""


class Keyring:
    """The keys that a process has at hand; makes new ones where it may."""

    def __init__(self, opened: Callable[[], Awaitable[Database]], master: bytes, chance: Chance, seals: bool) -> None:
        """Make it.

        Args:
            opened: gives the database with the keys.
            master: unwraps them; any bytes that are hard to guess.
            chance: makes keys.
            seals: whether threads that begin are sealed; those that are stay so.
        """
        self._opened = opened
        self.master = Master(master, chance)
        self._chance = chance
        self._known: dict[str, AESGCM] = {}
        self._destroyed: set[str] = set()
        self._spare: list[str] = []
        self._making: asyncio.Task[None] | None = None
        self._used: dict[tuple[str, str], str] = {}
        self.seals = seals
        self.shared = SharedKeys(self)
        """For what is in nobody's thread."""

    async def fresh(self) -> str:
        """Give a key that seals nothing yet.

        Raises:
            Unavailable: there is none left, and Postgres cannot be reached.
        """
        self.prepare()
        while not self._spare:
            await asyncio.shield(self._making or asyncio.create_task(self._make(), name="sealing-keys"))
        return self._spare.pop()

    async def _make(self) -> None:
        try:
            made = {f"k{self._bits(10).hex()}": self._bits(_KEY_BITS // 8) for _ in range(_SPARE)}
            rows = [(name, self.master.wrap(name, key), self.master.name) for name, key in made.items()]
            async with (await self._opened()).transaction() as connection:
                await connection.executemany("INSERT INTO sealing_key (id, wrapped, master) VALUES ($1, $2, $3)", rows)
        except TimeoutError as error:
            raise Unavailable(f"no keys can be made now: {error}") from error
        finally:
            self._making = None
        for name, key in made.items():
            self._known[name] = AESGCM(key)
        self._spare += made

    def prepare(self) -> None:
        """Make keys ahead, beside whatever goes on."""
        if self._making is None and len(self._spare) <= _SPARE // 4:
            self._making = asyncio.create_task(self._make(), name="sealing-keys")
            self._making.add_done_callback(_look_at)

    def use(self, tenant: str, thread: str, key: str) -> None:
        """Note which key seals a thread."""
        self._used[tenant, thread] = key
        while len(self._used) > _KEPT:
            del self._used[next(iter(self._used))]

    def of(self, tenant: str, thread: str) -> str | None:
        """Say which key seals a thread, as far as this process has written to it."""
        return self._used.get((tenant, thread))

    async def load(self, keys: Collection[str], *, surely: bool = False) -> None:
        """Have keys at hand, or know that they were destroyed.

        Args:
            keys: their ids.
            surely: whether those that are at hand are looked for again: they may have been destroyed elsewhere.

        Raises:
            Unavailable: Postgres cannot be reached.
            WrongMaster: another master key wrapped one.
        """
        for key in keys:
            if key in self._known:
                self._known[key] = self._known.pop(key)  # the latest used are kept
        wanted = {key for key in keys if key not in self._destroyed and (surely or key not in self._known)}
        if not wanted:
            return
        rows = await (await self._opened()).rows("SELECT * FROM sealing_key WHERE id = ANY($1)", list(wanted))
        for row in rows:
            if row["id"] not in self._known:
                self._known[row["id"]] = AESGCM(self.master.unwrap(row["id"], row["wrapped"], row["master"]))
        self.forget(wanted - {row["id"] for row in rows})
        while len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]

    def forget(self, keys: Collection[str]) -> None:
        """Hear that keys were destroyed."""
        for key in keys:
            self._known.pop(key, None)
            self._destroyed.add(key)

    def seal(self, key: str, data: bytes | memoryview, about: str) -> bytes:
        """Encrypt something with a key that is at hand, for one place."""
        cipher = self._known.get(key)
        if cipher is None:
            assert key in self._destroyed, f"key {key!r} is not at hand"
            # whatever is still said of an erased thread is erased from the beginning
            cipher = AESGCM(self._bits(_KEY_BITS // 8))
        nonce = self._bits(_NONCE)
        return binascii.b2a_base64(nonce + cipher.encrypt(nonce, data, about.encode()), newline=False)

    def unseal(self, key: str, data: bytes | memoryview, about: str) -> bytes:
        """Decrypt what `seal` gave.

        Raises:
            KeyDestroyed: nobody can any more.
            Unavailable: the key is not at hand.
            BadShape: it is not what was sealed for this place.
        """
        cipher = self._known.get(key)
        if cipher is None:
            if key in self._destroyed:
                raise KeyDestroyed(key)
            raise Unavailable(f"key {key!r} is not at hand")
        try:
            held = binascii.a2b_base64(data)
            return cipher.decrypt(held[:_NONCE], held[_NONCE:], about.encode())
        except (InvalidTag, ValueError) as error:
            raise BadShape(f"{about!r}: not what was sealed with key {key!r}") from error

    def sealed(self, fact: Fact) -> Fact:
        """Seal a fact's payload with the key that it names; one that names none stays as it is."""
        if fact.key is None:
            return fact
        hidden = self.seal(fact.key, memoryview(fact.payload), _place(fact))
        return replace(fact, payload=msgspec.Raw(b'"' + hidden + b'"'))

    async def open(self, facts: Sequence[Fact], *, surely: bool = False) -> list[Fact]:
        """Open sealed payloads; of one whose key was destroyed there is `codec.ERASED`, of a damaged one `DAMAGED`.

        Raises:
            Unavailable: Postgres cannot be reached.
            WrongMaster: another master key wrapped a key.
        """
        await self.load(
            {fact.key for fact in facts if fact.key is not None and codec.is_sealed(fact.payload)}, surely=surely
        )
        return [self.opened(fact) for fact in facts]

    def opened(self, fact: Fact) -> Fact:
        """Open a fact whose key is at hand; as `open`."""
        if fact.key is None or not codec.is_sealed(fact.payload):
            return fact
        try:
            payload = self.unseal(fact.key, memoryview(fact.payload)[1:-1], _place(fact))
        except KeyDestroyed:
            return replace(fact, payload=codec.ERASED)
        except BadShape as error:
            # whoever reads it finds no event there, and says so of this one alone
            log.warning("a payload is damaged: %s", error)
            return replace(fact, payload=codec.DAMAGED)
        return replace(fact, payload=msgspec.Raw(payload))

    async def open_envelope(self, envelope: Envelope) -> Envelope:
        """Open an envelope's payloads; as `open`."""
        if all(fact.key is None for fact in envelope.facts):
            return envelope
        return replace(envelope, facts=tuple(await self.open(envelope.facts)))

    def sealed_delta(self, tenant: str, delta: Delta) -> Delta:
        """Seal a piece of text, where its thread is sealed."""
        key = self.of(tenant, delta.thread)
        if key is None:
            return delta
        bare = Delta(delta.subject, delta.thread, delta.effect, delta.version, delta.offset, "", delta.choice)
        if key not in self._known and key not in self._destroyed:
            return bare  # the log will have the text; the trace may lack it, and not have it in clear
        hidden = self.seal(key, codec.encode(delta), f"{tenant}\0{delta.thread}\0{delta.effect}\0{delta.offset}")
        return replace(bare, key=key, sealed=hidden.decode())

    def opened_delta(self, tenant: str, delta: Delta) -> Delta:
        """Open a piece of text whose key is at hand; nothing is left of one whose key was destroyed."""
        if not delta.key:
            return delta
        try:
            about = f"{tenant}\0{delta.thread}\0{delta.effect}\0{delta.offset}"
            opened: Delta = codec.decode(self.unseal(delta.key, delta.sealed.encode(), about), Delta)
        except KeyDestroyed:
            return delta
        return opened

    def _bits(self, size: int) -> bytes:
        return self._chance.bits(8 * size).to_bytes(size, "big")


class SharedKeys:
    """Keys that some thousand generations of a tenant in a row have: they are too many for keys of their own."""

    def __init__(self, keys: Keyring) -> None:
        self._keys = keys
        self._now: dict[str, tuple[str, int]] = {}
        """Of each tenant the key, and for how many more."""

    async def of(self, tenant: str) -> str:
        """Give the key of a tenant's next generation.

        Raises:
            Unavailable: there is none, and Postgres cannot be reached.
        """
        key, left = self._now.get(tenant, ("", 0))
        if not left:
            left = _SHARED
            try:
                key = await self._keys.fresh()
            except (Unavailable, TimeoutError):
                if not key:
                    raise
        await self._keys.load([key])
        self._now[tenant] = key, left - 1
        return key


def _look_at(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.warning("keys cannot be made ahead: %s", task.exception())


def _place(fact: Fact) -> str:
    return f"{fact.tenant}\0{fact.thread}\0{fact.kind}\0{fact.entity}\0{fact.version}\0{fact.type}"
