"""Another master key wraps every key, and no event is written again."""

from __future__ import annotations

import pytest

from bus.master import WrongMaster
from bus.rotation import rewrap
from bus.store import Store
from schemas import codec
from tests.bus.test_keyring import SAID, fact, ring

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

OLD, NEW = b"the old master key", b"the new master key"


async def test_what_was_sealed_before_is_opened_by_the_new_master_key_and_by_no_other(store: Store) -> None:
    before, after = ring(store, OLD), ring(store, NEW)
    sealed = before.sealed(fact(await before.fresh()))
    assert await rewrap(store, before.master, after.master) == 64
    (opened,) = await ring(store, NEW).open([sealed])
    assert codec.event_of(opened) == SAID
    with pytest.raises(WrongMaster, match="rotate-master"):
        await ring(store, OLD).open([sealed])
    assert await rewrap(store, before.master, after.master) == 0


async def test_more_keys_than_are_read_at_once_are_all_wrapped(store: Store) -> None:
    before = ring(store, OLD)
    keys = {f"k{index}": b"x" * 32 for index in range(2100)}
    rows = [(name, before.master.wrap(name, key), before.master.name) for name, key in keys.items()]
    async with store.transaction() as connection:
        await connection.executemany("INSERT INTO sealing_key (id, wrapped, master) VALUES ($1, $2, $3)", rows)
    after = ring(store, NEW)
    assert await rewrap(store, before.master, after.master) == 2100
    await after.load(keys)


async def test_where_one_was_wrapped_by_a_third_master_key_nothing_changes(store: Store) -> None:
    before, third = ring(store, OLD), ring(store, b"a third master key")
    sealed, strange = before.sealed(fact(await before.fresh())), third.sealed(fact(await third.fresh()))
    with pytest.raises(WrongMaster):
        await rewrap(store, before.master, ring(store, NEW).master)
    assert codec.event_of((await ring(store, OLD).open([sealed]))[0]) == SAID
    assert codec.event_of((await third.open([strange]))[0]) == SAID
