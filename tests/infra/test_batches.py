"""Files and batches as their desk takes them: within bounds, and nothing is left of what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from actors.runtime.context import SystemChance, SystemClock, SystemIds
from bus.batched import batch_of, batches_of, open_batches
from bus.connection import Connection
from bus.files import Files, LineTooLong, NoSuchFile
from bus.projector import bring_up
from bus.rebuild import rebuild
from bus.store import Store
from bus.streams import EV
from infra.batches.desk import BatchDesk, window_of
from infra.bridge.app import Bridge
from infra.bridge.batches.routes import batch_doors
from infra.bundles import Bundle
from infra.errors import BatchUnfit
from infra.settings import BatchSettings
from schemas.batches import Batch, BatchCommand
from tests.bus.test_projector import write
from tests.infra.bridge.documented import Checked
from tests.infra.test_recorded_threads import BUNDLES

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(60)]


@pytest.fixture
async def desk(connection: Connection, store: Store) -> BatchDesk:
    async def opened() -> Store:
        return store

    limits = BatchSettings(file_mb=1, storage_mb=2, open=1)
    return BatchDesk(connection, opened, Files(opened, seals=True), SystemIds(), SystemClock(), limits)


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for one in data:
        yield one


async def test_what_is_too_large_is_refused_and_nothing_of_it_stays(desk: BatchDesk) -> None:
    line = b"x" * 99_999 + b"\n"
    kept = [(await desk.bring("acme", "f", pieces(*[line] * 10))).id for _ in range(2)]
    for tenant, data, why in (("third", [line] * 11, "larger than 1 MiB"), ("acme", [line], "all files together")):
        with pytest.raises(BatchUnfit, match=why) as refused:
            await desk.bring(tenant, "f", pieces(*data))
        assert refused.value.code == "too_large"
    assert (await desk.files.used("acme"), await desk.files.used("third")) == (2_000_000, 0)
    assert (await desk.bring("other", "f", pieces(line))).bytes == 100_000
    for identity in kept:
        await desk.files.delete("acme", identity)
    assert (await desk.bring("acme", "f", pieces(line, line[:-1]))).lines == 2


async def test_a_file_whose_client_went_away_is_not_there(desk: BatchDesk) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 300_000 + b"\n"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await desk.bring("acme", "f", broken())
    with pytest.raises(BatchUnfit):
        await desk.bring("acme", "f", pieces())
    assert await desk.files.used("acme") == 0


async def test_a_line_that_no_request_needs_is_refused(desk: BatchDesk) -> None:
    big = BatchSettings(file_mb=9, storage_mb=20)
    roomy = BatchDesk(desk.connection, desk.opened, desk.files, desk.ids, desk.clock, big)
    with pytest.raises(LineTooLong):
        await roomy.bring("acme", "f", pieces(*[b"x" * (1 << 20)] * 5))
    assert await desk.files.used("acme") == 0


async def test_a_file_that_has_expired_is_not_there(desk: BatchDesk) -> None:
    row = await desk.bring("acme", "f", pieces(b"{}\n"), expires_s=3600)
    assert (await desk.file("acme", row.id)).expires == row.created + 3_600_000_000
    await desk.files.begin("acme", "old", "f", "batch", 0, expires=1)
    await desk.files.put("acme", "old", 0, b"{}\n")
    await desk.files.complete("acme", "old")
    with pytest.raises(NoSuchFile):
        await desk.file("acme", "old")
    with pytest.raises(BatchUnfit) as refused:
        await desk.create("acme", Batch("old", "/v1/completions"))
    assert (refused.value.field, refused.value.code) == ("input_file_id", "not_found")


@pytest.mark.parametrize(("text", "seconds"), [("24h", 86_400), ("30m", 1800), ("5s", 5), ("14d", 1_209_600)])
def test_windows_are_read(text: str, seconds: int) -> None:
    assert window_of(text) == seconds


@pytest.mark.parametrize("text", ["", "24", "h", "0h", "15d", "-1h", "24H", "1.5h", "9" * 30 + "s"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(BatchUnfit) as refused:
        window_of(text)
    assert refused.value.field == "completion_window"


async def test_the_book_of_batches_says_how_they_ended(desk: BatchDesk, store: Store) -> None:
    (golden,) = (path for path in BUNDLES if path.stem == "0.1.0-batches")
    events = [event for thread in Bundle(golden).threads() for event in thread]
    placed = [event._replace(incarnation=1, sequence=number, idx=0) for number, event in enumerate(events, 1)]
    await write(store, placed)
    await bring_up(store)
    rows = await batches_of(store, "default", None, 10)
    assert [row.status for row in rows] == ["expired", "cancelled", "failed", "completed"]
    expired, cancelled, failed, completed = rows
    assert (completed.total, completed.completed, completed.failed) == (3, 2, 1)
    assert completed.output_file == f"file-{completed.id}-out"
    assert completed.usage.completion_tokens > 0
    assert completed.batch.metadata == {"team": "blue"}
    assert (failed.problems[0].code, failed.output_file) == ("invalid_json_line", "")
    assert cancelled.cancelling == cancelled.finalizing
    assert (expired.failed, expired.error_file) == (70, f"file-{expired.id}-err")
    assert [row.id for row in await batches_of(store, "default", cancelled.id, 1)] == [failed.id]
    assert await batches_of(store, "other", None, 10) == []
    assert await batch_of(store, "other", completed.id) is None
    assert await desk.cancel("default", completed.id) == completed
    assert await desk.batch("default", "nonsense!") is None
    assert await open_batches(store, "default") == 0
    await rebuild(store, ["batches"])
    assert await batches_of(store, "default", None, 10) == rows


class Recorded(BatchDesk):
    """A desk whose batches are recorded as soon as they are begun."""

    async def _send(self, tenant: str, batch: str, data: BatchCommand) -> None:
        (golden,) = (path for path in BUNDLES if path.stem == "0.1.0-batches")
        events = [event for thread in Bundle(golden).threads() for event in thread]
        created = next(event for event in events if event.fact.type == "batch.created")
        fact = msgspec.structs.replace(created.fact, tenant=tenant, thread=batch, entity=batch)
        store = await self.opened()
        cursor = await store.cursor(EV)
        number = 1 if cursor is None else cursor.sequence + 1
        await write(store, [created._replace(incarnation=1, sequence=number, idx=0, fact=fact)])
        await bring_up(store)


async def test_only_so_many_are_open_however_many_processes_begin_them(desk: BatchDesk) -> None:
    row = await desk.bring("acme", "f", pieces(b"{}\n"))
    limits = BatchSettings(open=3)
    about = (desk.connection, desk.opened, desk.files, desk.ids, desk.clock, limits)
    desks = [Recorded(*about) for _ in range(4)]
    asked = [one.create("acme", Batch(row.id, "/v1/completions")) for one in desks for _ in range(3)]
    told = await asyncio.gather(*asked, return_exceptions=True)
    assert sorted(type(one).__name__ for one in told) == ["BatchRow"] * 3 + ["BatchUnfit"] * 9
    assert {one.code for one in told if isinstance(one, BatchUnfit)} == {"too_many"}


def form(**changes: Any) -> dict[str, Any]:
    """Give what an HTTP client needs to bring a file."""
    content, name = changes.pop("content", b"{}\n"), changes.pop("name", "f.jsonl")
    fields = {"purpose": "batch", **changes}
    return {
        "data": {name: value for name, value in fields.items() if value is not None},
        "files": {} if content is None else {"file": (name, content)},
    }


@pytest.mark.parametrize(
    ("asked", "status", "param"),
    [
        (form(content=b"x" * (1 << 20) + b"\n"), 413, "file"),
        (form(content=b"x" * (3 << 20)), 413, None),
        (form(content=b""), 400, "file"),
        (form(content=None), 400, "file"),
        (form(purpose=None), 400, "purpose"),
        (form(purpose="assistants"), 400, "purpose"),
        (form(purpose="x" * 10_000), 400, None),
        (form(**{"expires_after[anchor]": "created_at", "expires_after[seconds]": "5"}), 400, "expires_after"),
        (form(**{"expires_after[seconds]": "7200"}), 400, "expires_after"),
        ({"content": b"--x\r\nnonsense", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, "file"),
        ({"content": b"--y\r\nnonsense", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, None),
        ({"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data"}}, 400, None),
        ({"json": {"purpose": "batch"}}, 400, "file"),
        (form(), 200, None),
        (form(name="a\0b" + "x" * 1000), 200, None),
    ],
)
async def test_forms_that_bring_no_file_say_why(
    desk: BatchDesk, asked: dict[str, Any], status: int, param: str | None
) -> None:
    nothing: Any = None
    about: dict[str, Any] = {"ids": desk.ids, "clock": desk.clock, "chance": SystemChance(), "state": nothing}
    bridge = Bridge(nothing, nothing, models=(), agents=(), tenant="acme", more=batch_doors(desk), **about)
    transport = Checked(bridge.application())
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        answer = await client.post("/v1/files", **asked)
        assert answer.status_code == status, answer.text
        assert status == 200 or answer.json()["error"]["param"] == param
        listed = (await client.get("/v1/files")).json()
        assert len(listed["data"]) == int(status == 200)
        for query in ("limit=0", "limit=x", "order=up"):
            wrong = await client.get(f"/v1/files?{query}")
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, query.partition("=")[0])
        assert (await client.get("/v1/batches?limit=101")).status_code == 400
        for strange in ("nonsense!", "%00", "a%00b", "%ff", "x" * 500, "file-%F0%9F%98%80"):
            for path in ("/v1/batches/{}", "/v1/files/{}", "/v1/files/{}/content"):
                assert (await client.get(path.format(strange))).status_code == 404, strange
            for path in ("/v1/batches?after={}", "/v1/files?after={}"):
                assert (await client.get(path.format(strange))).status_code == 400, strange
            assert (await client.get(f"/v1/files?purpose={strange}")).json()["data"] == []
        begun = {"input_file_id": "a\0b", "endpoint": "/v1/completions", "completion_window": "24h"}
        assert (await client.post("/v1/batches", json=begun)).status_code == 404
    if status != 200:
        assert await desk.files.used("acme") == 0
