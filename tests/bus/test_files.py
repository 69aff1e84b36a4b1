"""Files in a real Postgres: in parts, sealed, each tenant's own, and gone when they are deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.runtime.context import SystemChance
from bus.files import MOST_LINE, PART, Cutter, Files, LineTooLong, NoSuchFile, lines_of
from bus.keyring import Keyring
from bus.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(30)]

SECRET = b'{"said": "nobody reads this"}\n'


@pytest.fixture
async def files(store: Store) -> AsyncIterator[Files]:
    async def opened() -> Store:
        return store

    store.keys = Keyring(opened, b"a master key", SystemChance(), seals=False)
    yield Files(opened, seals=True)
    store.keys = None


async def content(files: Files, tenant: str, identity: str) -> bytes:
    return b"".join([part async for _, part in files.parts(tenant, identity)])


async def test_a_file_is_what_was_put_in_the_order_of_its_numbers(files: Files) -> None:
    await files.begin("acme", "f", "f.jsonl", "batch", 5)
    for at, line in ((2, b"c\n"), (0, b"a\nb\n"), (3, b"d\n")):
        assert await files.put("acme", "f", at, line)
    assert await files.put("acme", "f", 3, b"e\n")
    row = await files.complete("acme", "f")
    assert row is not None
    assert (row.bytes, row.lines, row.complete, row.name, row.purpose) == (8, 4, True, "f.jsonl", "batch")
    assert await content(files, "acme", "f") == b"a\nb\nc\ne\n"
    assert await files.part_of("acme", "f", 1) == (0, b"a\nb\n")
    assert not await files.put("acme", "f", 4, b"late\n")
    assert await files.complete("acme", "f") == row


async def test_what_is_in_it_is_nowhere_in_clear_and_goes_with_its_key(files: Files, store: Store) -> None:
    await files.begin("acme", "f", "f.jsonl", "batch", 5)
    await files.put("acme", "f", 0, SECRET)
    await files.complete("acme", "f")
    (row,) = await store.rows("SELECT data, key_id FROM file_part JOIN file ON id = file WHERE file = 'f'")
    assert b"nobody" not in bytes(row["data"])
    assert await content(files, "acme", "f") == SECRET
    assert await files.delete("acme", "f")
    assert not await store.rows("SELECT 1 FROM sealing_key WHERE id = $1", row["key_id"])
    assert not await store.rows("SELECT 1 FROM file_part WHERE file = 'f'")
    assert not await files.delete("acme", "f")
    assert not await files.put("acme", "f", 0, b"late\n")
    with pytest.raises(NoSuchFile):
        await files.part_of("acme", "f", 0)


async def test_a_tenant_has_only_its_own(files: Files) -> None:
    for tenant in ("acme", "other"):
        await files.begin(tenant, "f", "f.jsonl", "batch", 5)
        await files.put(tenant, "f", 0, tenant.encode())
        await files.complete(tenant, "f")
    assert await content(files, "other", "f") == b"other"
    assert await files.find("third", "f") is None
    assert await files.delete("other", "f")
    assert await content(files, "acme", "f") == b"acme"
    assert (await files.used("acme"), await files.used("other")) == (4, 0)


async def test_files_are_listed_in_their_order_and_page_by_page(files: Files) -> None:
    for number in range(5):
        await files.begin("acme", f"f{number}", "f", "batch" if number % 2 else "batch_output", 10 + number)
        if number != 3:
            await files.put("acme", f"f{number}", 0, b"x\n")
            await files.complete("acme", f"f{number}")

    async def named(purpose: str | None, after: str | None, limit: int, newest_first: bool = True) -> list[str]:
        rows = await files.listed("acme", 0, purpose, after, limit, newest_first=newest_first)
        return [row.id for row in rows]

    assert await named(None, None, 10) == ["f4", "f2", "f1", "f0"]
    assert await named(None, "f4", 2) == ["f2", "f1"]
    assert await named("batch_output", None, 10, newest_first=False) == ["f0", "f2", "f4"]
    assert await named(None, "f1", 10, newest_first=False) == ["f2", "f4"]


async def test_a_line_stands_in_one_of_two_files_and_in_none_that_is_complete(files: Files) -> None:
    for name in ("out", "err"):
        await files.begin("acme", name, name, "batch_output", 5)
    assert await files.put("acme", "err", 0, b"no\n", instead_of="out")
    assert await files.put("acme", "out", 0, b"yes\n", instead_of="err")
    assert (await files.numbers("acme", "out"), await files.numbers("acme", "err")) == ({0}, set())
    assert await files.complete("acme", "err") is None
    assert await files.find("acme", "err") is None
    assert not await files.put("acme", "out", 1, b"more\n", instead_of="err")


async def test_of_many_that_write_while_it_is_completed_each_is_in_it_or_knows_that_it_is_not(files: Files) -> None:
    await files.begin("acme", "f", "f", "batch_output", 5)
    writing = [asyncio.create_task(files.put("acme", "f", at, b"x\n")) for at in range(40)]
    row = (await asyncio.gather(files.complete("acme", "f"), *writing[:20]))[0]
    done = [await one for one in writing]
    found = await files.find("acme", "f")
    if row is None:
        assert found is None  # it was completed before the first one wrote
    else:
        assert row.lines == sum(done) == len(await files.numbers("acme", "f"))


async def test_what_expired_or_was_abandoned_is_swept(files: Files) -> None:
    day = 86_400_000_000
    await files.begin("acme", "expires", "f", "batch", 0, expires=100)
    await files.begin("acme", "stays", "f", "batch", 0)
    await files.begin("acme", "answers", "f", "batch_output", 0)
    for name in ("expires", "stays"):
        await files.put("acme", name, 0, b"x\n")
        await files.complete("acme", name)
    await files.begin("acme", "abandoned", "f", "batch", 0)
    assert await files.sweep(99) == 0
    assert await files.sweep(100) == 1
    assert await files.sweep(2 * day) == 1
    assert [await files.find("acme", name) is None for name in ("expires", "stays", "answers", "abandoned")] == [
        *(True, False, False, True)
    ]


@settings(max_examples=60)
@given(
    st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b" ") + b"\n"), max_size=60),
    st.integers(1, 50),
    st.integers(1, 40),
)
def test_parts_are_whole_lines_that_are_numbered_without_the_blank_ones(
    given_lines: list[bytes], step: int, size: int
) -> None:
    whole, cutter = b"".join(given_lines), Cutter(size)
    parts = [part for first in range(0, len(whole), step) for part in cutter.feed(whole[first : first + step])]
    parts += cutter.rest()
    assert b"".join(part for _, part in parts) == whole
    assert len({at for at, _ in parts}) == len(parts)
    found = [line for _, part in parts for line in lines_of(part)]
    assert found == lines_of(whole)
    for at, part in parts:
        assert found[at : at + len(lines_of(part))] == lines_of(part)


def test_a_line_that_is_too_long_is_refused_and_not_kept() -> None:
    for piece in (b"x", b" "):
        cutter = Cutter()
        with pytest.raises(LineTooLong):
            fed(cutter, piece * PART, 2 + (MOST_LINE + PART) // PART)
    cutter = Cutter()
    cutter.feed(b"ok\n" + b"x" * (MOST_LINE + 1))
    with pytest.raises(LineTooLong) as refused:
        cutter.rest()
    assert refused.value.line == 1


def fed(cutter: Cutter, piece: bytes, count: int) -> None:
    for _ in range(count):
        cutter.feed(piece)
