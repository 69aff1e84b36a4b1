"""Keys seal what people say for its place, and what a destroyed key sealed nobody reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest
from msgspec.structs import replace

from actors.runtime.context import SystemChance
from actors.testing import CountedIds, FixedClock
from bus.commit import ShardWriter, Writer
from bus.connection import Connection
from bus.erasure import destroy
from bus.errors import Unavailable
from bus.keyring import Keyring
from bus.log import START, read_shard
from bus.master import WrongMaster
from bus.store import Store
from bus.streams import ensure_streams
from bus.trace import Trace
from schemas import codec
from schemas.envelope import Fact
from schemas.errors import BadShape, Erased, Sealed
from schemas.live import Delta
from schemas.messages import Message
from schemas.runs import MessageAdded

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

MASTER = b"a master key that is hard to guess"
SAID = MessageAdded(message=Message(role="user", content="my cat is Mitzi"))


def giving(store: Store) -> Callable[[], Awaitable[Store]]:
    async def opened() -> Store:
        return store

    return opened


def ring(store: Store, master: bytes = MASTER) -> Keyring:
    return Keyring(giving(store), master, SystemChance(), seals=True)


def fact(key: str | None, **other: object) -> Fact:
    plain = Fact("acme", "t1", "thread", "t1", 3, "message.added", "c1", codec.payload(SAID), key=key)
    return replace(plain, **other)


async def test_what_a_key_sealed_is_opened_by_another_process_with_the_same_master_key(store: Store) -> None:
    mine, theirs = ring(store), ring(store)
    key = await mine.fresh()
    sealed = mine.sealed(fact(key))
    assert b"Mitzi" not in bytes(sealed.payload)
    assert msgspec.json.decode(sealed.payload, type=str)
    (opened,) = await theirs.open([sealed])
    assert codec.event_of(opened) == SAID
    with pytest.raises(Sealed, match=r"privacy\.master_key"):
        codec.event_of(sealed)


async def test_the_same_sealed_twice_is_not_the_same_bytes(store: Store) -> None:
    mine = ring(store)
    key = await mine.fresh()
    assert bytes(mine.sealed(fact(key)).payload) != bytes(mine.sealed(fact(key)).payload)


@pytest.mark.parametrize(
    "elsewhere", [{"thread": "t2"}, {"tenant": "other"}, {"version": 4}, {"type": "working.written"}, {"entity": "t9"}]
)
async def test_what_is_sealed_cannot_be_read_in_another_place(store: Store, elsewhere: dict[str, object]) -> None:
    mine = ring(store)
    sealed = mine.sealed(fact(await mine.fresh()))
    (damaged,) = await mine.open([replace(sealed, **elsewhere)])
    assert b"Mitzi" not in bytes(damaged.payload)
    with pytest.raises(BadShape):
        codec.event_of(damaged)


async def test_a_destroyed_key_leaves_nothing_and_other_threads_are_as_they_were(store: Store) -> None:
    mine, theirs = ring(store), ring(store)
    gone, stays = await mine.fresh(), await mine.fresh()
    facts = [mine.sealed(fact(gone)), mine.sealed(fact(stays, thread="t2"))]
    await theirs.open(facts)
    await destroy(store, [gone], "acme", "t1")
    # who has it at hand still reads what comes over the bus until told; who reads the record does not
    first, second = await theirs.open(facts, surely=True)
    with pytest.raises(Erased):
        codec.event_of(first)
    assert codec.event_of(second) == SAID
    mine.forget([gone])
    late = mine.sealed(fact(gone))
    assert codec.is_erased((await mine.open([late]))[0].payload)


async def test_another_master_key_opens_nothing_and_says_which_is_missing(store: Store) -> None:
    mine = ring(store)
    sealed = mine.sealed(fact(await mine.fresh()))
    with pytest.raises(WrongMaster, match=r"privacy\.master_key"):
        await ring(store, b"another one").open([sealed])


async def test_keys_are_made_ahead_so_that_threads_begin_without_the_database(store: Store) -> None:
    away = False

    async def opened() -> Store:
        if away:
            raise Unavailable("Postgres cannot be used")
        return store

    mine = Keyring(opened, MASTER, SystemChance(), seals=True)
    names = {await mine.fresh()}
    away = True
    names |= {await mine.fresh() for _ in range(20)}
    assert len(names) == 21
    with pytest.raises(Unavailable):
        names |= {await mine.fresh() for _ in range(100)}
    away = False
    assert await mine.fresh() not in names


async def test_generations_of_a_tenant_share_a_key_for_a_while_and_never_that_of_another(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus.keyring._SHARED", 3)
    away = False

    async def opened() -> Store:
        if away:
            raise Unavailable("Postgres cannot be used")
        return store

    mine = Keyring(opened, MASTER, SystemChance(), seals=True)
    given = [await mine.shared.of("acme") for _ in range(7)]
    assert [given.index(key) for key in given] == [0, 0, 0, 3, 3, 3, 6]
    assert await mine.shared.of("other") not in given
    while mine._spare:
        await mine.fresh()
    away = True
    # without the database the last one does for longer, and who has none waits
    assert {await mine.shared.of("acme") for _ in range(4)} == {given[-1]}
    with pytest.raises(Unavailable):
        await mine.shared.of("third")


async def test_a_pen_reads_the_keys_of_what_it_is_to_write(store: Store, connection: Connection) -> None:
    key = await ring(store).fresh()
    await ensure_streams(connection, 1)
    mine = connection.keys = ring(store)
    pen = await ShardWriter.take(connection, 0, Writer("p1", "test"), FixedClock(), CountedIds(), "agents-0")
    place = await pen.append([fact(key)])
    (stored,) = [one async for one in read_shard(connection, 0, START, place.sequence) if one.sequence > 1]
    assert codec.event_of(stored.envelope.facts[0]) == SAID
    connection.keys = None
    (closed,) = [one async for one in read_shard(connection, 0, START, place.sequence) if one.sequence > 1]
    assert b"Mitzi" not in bytes(closed.envelope.facts[0].payload)
    assert mine.opened(closed.envelope.facts[0]).payload == codec.payload(SAID)


async def test_keys_that_cannot_be_read_are_nobody_s_fault_but_this_append_s(
    store: Store, connection: Connection
) -> None:
    away = True

    async def opened() -> Store:
        if away:
            raise Unavailable("Postgres cannot be used")
        return store

    key = await ring(store).fresh()
    await ensure_streams(connection, 1)
    connection.keys = Keyring(opened, MASTER, SystemChance(), seals=False)
    pen = await ShardWriter.take(connection, 0, Writer("p1", "test"), FixedClock(), CountedIds(), "agents-0")
    pen.deadline_s = 0.1
    with pytest.raises(Unavailable):
        await pen.append([fact(key)])
    await pen.append([fact(None)])
    away = False
    await pen.append([fact(key, version=4)])


async def test_no_text_is_in_the_trace_in_clear_for_want_of_a_key(store: Store) -> None:
    mine = ring(store)
    mine.use("acme", "t1", "k0")
    told = mine.sealed_delta("acme", Delta("r1", "t1", "r1-1-m", 4, 7, "my cat is Mitzi"))
    assert (told.text, told.key) == ("", "")


async def test_text_in_the_trace_is_sealed_with_its_threads_key(store: Store, connection: Connection) -> None:
    mine = connection.keys = ring(store)
    mine.use("acme", "t1", await mine.fresh())
    delta = Delta("r1", "t1", "r1-1-m", 4, 7, "my cat is Mitzi", reasoning="a cat")
    kept: list[bytes] = []

    class Keeping(Trace):
        def keep(self, subject: str, data: bytes) -> None:
            kept.append(data)

    trace = Keeping(connection, "p1")
    trace._keep_delta("trace.acme.run.r1", delta)
    trace._keep_delta("trace.acme.run.r2", replace(delta, subject="r2", thread="t2"))
    sealed, plain = (codec.decode(data, Delta) for data in kept)
    assert (sealed.offset, sealed.effect, sealed.text, sealed.reasoning) == (7, "r1-1-m", "", "")
    assert b"Mitzi" not in kept[0]
    assert plain.text == delta.text
    assert mine.opened_delta("acme", sealed) == delta
    mine.forget([sealed.key])
    assert mine.opened_delta("acme", sealed).text == ""
