"""A tenant's threads, searched; whoever reads for one tenant sees no other's, whatever is asked."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bus.projected import latest_threads
from bus.projections import PROJECTIONS
from bus.projector import Projector
from bus.rebuild import rebuild
from bus.store import Store, StoredEvent
from bus.threads import Wanted, reading_as, threads_of
from schemas import codec
from schemas.envelope import Fact
from schemas.memory import ThreadCreated, ThreadDeleted, ThreadRenamed
from schemas.messages import Message
from schemas.runs import MessageAdded
from tests.bus.test_projector import write

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(60)]

SAID = MessageAdded(message=Message("user", "hi"))


def events(*told: tuple[str, str, Any]) -> list[StoredEvent]:
    """Events of (tenant, thread, what happened), an envelope each."""
    facts = (
        Fact(tenant, thread, "thread", thread, number, codec.tag(event), "c", codec.payload(event))
        for number, (tenant, thread, event) in enumerate(told, start=1)
    )
    return [StoredEvent(1, fact.version, 0, fact.version, fact) for fact in facts]


async def filled(store: Store, *told: tuple[str, str, Any]) -> None:
    await write(store, events(*told))
    await rebuild(store, list(PROJECTIONS))
    await Projector(store).catch_up()


THREADS = (
    ("acme", "t1", ThreadCreated(resource="ann", title="100% sums", metadata={"team": "red", "floor": "2"})),
    ("acme", "t2", ThreadCreated(resource="ann", title="Products")),
    ("acme", "t3", ThreadCreated(resource="bob", title="More sums")),
    ("other", "t1", ThreadCreated(resource="ann", title="Sums of others")),
    ("acme", "t2", ThreadRenamed(title="Sums, renamed", metadata={"team": "blue\0"})),
    ("acme", "t4", SAID),
    ("acme", "t5", ThreadCreated(resource="ann", title="Secret sums")),
    ("acme", "t5", ThreadDeleted()),
    ("acme", "t1", SAID),
)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(), ["t1", "t4", "t2", "t3"]),
        (Wanted(resource="ann"), ["t1", "t2"]),
        (Wanted(resource=""), ["t4"]),
        (Wanted(text="SUMS"), ["t1", "t2", "t3"]),
        (Wanted(text="100%"), ["t1"]),
        (Wanted(text="%"), ["t1"]),
        (Wanted(metadata={"team": "red"}), ["t1"]),
        (Wanted(metadata={"team": "red", "floor": "3"}), []),
        (Wanted(before=9), ["t4", "t2", "t3"]),
    ],
)
async def test_threads_are_found_by_whose_they_are_and_what_they_are_called(
    store: Store, wanted: Wanted, found: list[str]
) -> None:
    await filled(store, *THREADS)
    assert [row.thread for row in await threads_of(store, "acme", wanted)] == found


async def test_a_page_ends_where_the_next_begins_and_nothing_is_left_of_what_was_deleted(store: Store) -> None:
    await filled(store, *THREADS)
    first = await threads_of(store, "acme", Wanted(), 2)
    rest = await threads_of(store, "acme", Wanted(before=first[-1].last), 2)
    assert [row.thread for row in (*first, *rest)] == ["t1", "t4", "t2", "t3"]
    (gone,) = [row for row in await latest_threads(store, 99) if row.status == "deleted"]
    assert (gone.title, gone.resource, gone.metadata) == ("", "", "")
    assert msgspec.json.decode(first[0].metadata) == {"team": "red", "floor": "2"}
    rows = await store.rows("SELECT * FROM projected_thread")
    assert not [row for row in rows if "Secret" in str(dict(row))]


@pytest.mark.parametrize("table", ["projected_thread", "projected_run", "projected_usage"])
async def test_a_reader_for_a_tenant_sees_its_rows_alone(store: Store, table: str) -> None:
    await filled(store, *THREADS)
    run = "'other', 't', 'r', 'agent', '', '', '', '', false, 1, 1, 1, 0, 0, 0, 0, 0"
    await store.rows(f"INSERT INTO projected_run SELECT 1, {run}")
    await store.rows("INSERT INTO projected_usage SELECT 1, 'other', '', '', '2026-01-01', 0, 0, 0, 0, 0, 0, 0, 0")
    for tenant in ("acme", "other", "", "nobody"):
        async with reading_as(store, tenant) as connection:
            rows = await connection.fetch(f"SELECT tenant FROM {table}")
        assert {row["tenant"] for row in rows} <= {tenant}
        if tenant == "other":
            assert rows
    async with store.transaction() as connection:
        await connection.execute("SET LOCAL ROLE ostinato_tenant")
        assert await connection.fetch(f"SELECT 1 FROM {table}") == []
        with pytest.raises(Exception, match="permission denied"):
            await connection.fetch("SELECT 1 FROM event")


async def test_the_listing_of_everybody_can_be_narrowed_too(store: Store) -> None:
    await filled(store, *THREADS)
    found = await latest_threads(store, 99, resource="ann", title="sums")
    assert {(row.tenant, row.thread) for row in found} == {("acme", "t1"), ("acme", "t2"), ("other", "t1")}
