"""Bundle files: what was written is read, and what was cut off or changed is found."""

from __future__ import annotations

import gzip
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.imported import BundleKept, keep_bundle, kept_thread, replace_bundle
from bus.store import Store, StoredEvent
from infra.bundles import Bundle, BundleWriter
from infra.cli.replay.checking import check
from infra.cli.replay.difference import beside, comparable
from infra.errors import BundleUnusable
from infra.redaction import Redactor
from tests.infra.cli.replay.stored import conversation, insert, stored

THREADS = [stored(name, conversation(name, turns).log, base) for name, turns, base in (("a", 1, 0), ("b", 2, 50))]


def written(path: Path, redactor: Redactor | None = None) -> Path:
    with BundleWriter(path, redactor) as writer:
        for events in THREADS:
            writer.add(events)
    return path


@pytest.mark.parametrize("name", ["threads.jsonl", "threads.jsonl.gz"])
def test_what_was_written_is_read(tmp_path: Path, name: str) -> None:
    bundle = Bundle(written(tmp_path / name))
    assert [*bundle.threads()] == THREADS
    assert (bundle.header.threads, bundle.header.events, bundle.header.redacted) == (2, 30, False)
    assert [check(events).state for events in bundle.threads()] == ["same", "same"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_same_threads_make_the_same_bytes(tmp_path: Path) -> None:
    assert written(tmp_path / "a.gz").read_bytes() == written(tmp_path / "b.gz").read_bytes()


def test_what_is_redacted_is_compared_as_before(tmp_path: Path) -> None:
    whole, bundle = THREADS, Bundle(written(tmp_path / "r.jsonl", Redactor(b"secret")))
    assert bundle.header.redacted
    assert b"question" not in (tmp_path / "r.jsonl").read_bytes()
    a, b = bundle.threads()
    plain = beside(comparable(whole[0]), comparable(whole[1]))
    redacted = beside(comparable(a), comparable(b))
    assert [(row.a and row.a.number, row.b and row.b.number, row.same) for row in redacted] == [
        (row.a and row.a.number, row.b and row.b.number, row.same) for row in plain
    ]


BYTES: list[bytes] = []


@pytest.fixture(scope="module", autouse=True)
def a_bundle(tmp_path_factory: pytest.TempPathFactory) -> None:
    BYTES[:] = [written(tmp_path_factory.mktemp("bundle") / "b.jsonl").read_bytes()]


@given(st.data())
def test_any_byte_changed_or_cut_off_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = BYTES[0]
    at = data.draw(st.integers(0, len(whole) - 1))
    path = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    flipped = bytes([whole[at] ^ data.draw(st.integers(1, 127))])
    for damaged in (whole[:at], whole[:at] + flipped + whole[at + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(BundleUnusable):
            Bundle(path)


def test_a_packed_bundle_that_is_cut_off_is_found(tmp_path: Path) -> None:
    path = written(tmp_path / "b.gz")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(BundleUnusable, match="copy it again whole"):
        Bundle(path)
    path.write_bytes(gzip.compress(gzip.compress(b"x")))
    with pytest.raises(BundleUnusable, match="it is no bundle"):
        Bundle(path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"format": "ostinato-bundle", "version": 2}, "has version 2, this code reads 1: upgrade Ostinato"),
        ({"format": "else", "version": 1}, "no bundle but 'else'"),
    ],
)
def test_another_format_is_refused(tmp_path: Path, line: dict[str, object], says: str) -> None:
    path = tmp_path / "b.jsonl"
    whole = {"redacted": False, "threads": 0, "events": 0, "digest": "", **line}
    path.write_bytes(msgspec.json.encode(whole) + b"\n")
    with pytest.raises(BundleUnusable, match=says):
        Bundle(path)


def test_an_export_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_bytes(b"older")
    bad = THREADS[0][0]._replace(fact=msgspec.structs.replace(THREADS[0][0].fact, payload=msgspec.Raw(b"{")))
    with pytest.raises(BundleUnusable, match=r"event 1/0 of thread 'a'"), BundleWriter(path, None) as writer:
        writer.add([bad])
    assert path.read_bytes() == b"older"


@pytest.mark.anyio
@pytest.mark.servers
async def test_an_import_is_kept_beside_the_log_once_and_apart_from_it(store: Store) -> None:
    await insert(store.url, [event for events in THREADS for event in events])
    other = stored("a", conversation("a", 3).log)
    await keep_bundle(store, "bug", "d1", False, [other])
    kept = await kept_thread(store, "bug", "acme", "a")
    assert kept is not None
    assert kept == (other, False)
    assert await store.events_of_thread("acme", "a") == THREADS[0]
    assert [line.thread for line in await store.threads(10)] == ["b", "a"]
    for digest, same in (("d1", True), ("d2", False)):
        with pytest.raises(BundleKept) as refused:
            await keep_bundle(store, "bug", digest, False, [other])
        assert refused.value.same is same
    await replace_bundle(store, "bug", "d2", True, THREADS)
    kept = await kept_thread(store, "bug", "acme", "a")
    assert kept is not None
    assert kept == (THREADS[0], True)


@pytest.mark.anyio
@pytest.mark.servers
async def test_a_bundle_is_replaced_whole_or_not_at_all(store: Store) -> None:
    def threads() -> list[list[StoredEvent]]:
        raise BundleUnusable(Path("b"), "it is cut off", "copy it again")

    await keep_bundle(store, "bug", "d1", False, THREADS)
    with pytest.raises(BundleUnusable):
        await replace_bundle(store, "bug", "d2", False, (events for events in threads()))
    kept = await kept_thread(store, "bug", "acme", "a")
    assert kept is not None
    assert kept == (THREADS[0], False)


@pytest.mark.anyio
@pytest.mark.servers
async def test_an_import_that_breaks_off_leaves_nothing(store: Store) -> None:
    def threads() -> list[list[StoredEvent]]:
        raise BundleUnusable(Path("b"), "it is cut off", "copy it again")

    with pytest.raises(BundleUnusable):
        await keep_bundle(store, "bug", "d1", False, (events for events in threads()))
    await keep_bundle(store, "bug", "d1", True, THREADS)
    kept = await kept_thread(store, "bug", "acme", "b")
    assert kept is not None
    assert kept.redacted
