"""What an owner keeps of its shard: checkpoints, snapshots, threads that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from actors.models.provider import ModelCall
from actors.runtime.cells import SNAPSHOT_EACH, Cell
from actors.runtime.shard import ShardOwner
from actors.testing import ScriptedModel
from bus.commands import send_command
from bus.connection import Connection
from bus.errors import LogDamaged, Unavailable
from bus.log import START, Position
from bus.recorder import Recorder
from bus.snapshots import Checkpoint, History, Snapshot, ThreadKey, drop_snapshots
from bus.store import Store, StoredEvent
from bus.streams import EV, ensure_streams
from bus.trim import trim
from infra.readback import LateStore
from infra.snapshots import check_snapshots
from schemas.envelope import Envelope
from schemas.live import Committed, Outcome
from tests.actors.runtime.bench import Bench, answer_of, answering, ends, hearing, owning, run, until
from tests.bus.test_keyring import MASTER, ring

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(30)]


class Counting(LateStore):
    """A record that counts which threads were read, and that may be out of reach."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.read: list[str] = []
        self.away = False

    async def checkpoint(self, shard: int) -> Checkpoint | None:
        return None if self.away else await super().checkpoint(shard)

    async def facts(self, shard: int, until: int) -> AsyncIterator[tuple[Position, list[StoredEvent]]]:
        if self.away:
            raise Unavailable("Postgres cannot be used")
        async for part in super().facts(shard, until):
            yield part

    async def histories(self, keys: Sequence[ThreadKey], *others: Any) -> dict[ThreadKey, History]:
        if self.away:
            raise Unavailable("Postgres cannot be used")
        self.read += [key.thread for key in keys]
        return await super().histories(keys, *others)

    async def keep(self, shard: int, checkpoint: Checkpoint, snapshots: Sequence[Snapshot]) -> None:
        if self.away:
            raise Unavailable("Postgres cannot be used")
        await super().keep(shard, checkpoint, snapshots)


@pytest.fixture
async def record(database: str) -> AsyncIterator[Counting]:
    async with Counting(database) as opened:
        yield opened


@pytest.fixture
async def bench(connection: Connection, nats_url: str, record: Counting) -> Bench:
    await ensure_streams(connection, 1)
    return Bench(connection, nats_url, ScriptedModel(answering), record=record)


@pytest.fixture
async def recorder(bench: Bench, store: Store) -> AsyncIterator[Recorder]:
    recorder = Recorder(bench.connection, store, "rec1", (EV,))
    task = asyncio.create_task(recorder.run())
    yield recorder
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def checkpoint(owner: ShardOwner, recorder: Recorder) -> None:
    """Have all recorded, and a checkpoint made of it."""
    await recorder.drain()
    await owner.checkpoint()


def said(call: ModelCall) -> list[str]:
    return [message.content for message in call.messages if message.role == "user"]


async def test_an_owner_reads_the_tail_alone_and_a_cold_thread_when_it_is_spoken_in(
    bench: Bench, recorder: Recorder, record: Counting
) -> None:
    async with owning(bench.runtime("p1")) as owner:
        for n in range(10):
            await answer_of(bench, run(f"c{n}", f"hello {n}", f"t{n}"))
        await checkpoint(owner, recorder)
        await answer_of(bench, run("d3", "more", "t3"))
        await answer_of(bench, run("d10", "new", "t10"))
    async with owning(bench.runtime("p2")) as owner:
        assert owner.statistics()["threads"] == 2
        assert record.read == ["t3"]
        await answer_of(bench, run("e3", "and more", "t3"))
        assert record.read == ["t3"]
        await answer_of(bench, run("e7", "again", "t7"))
        assert record.read == ["t3", "t7"]
        assert [said(call) for call in bench.model.calls[-2:]] == [
            ["hello 3", "more", "and more"],
            ["hello 7", "again"],
        ]
        await answer_of(bench, run("e11", "hello", "t11"))
        assert record.read == ["t3", "t7"]
    for thread in ("t3", "t7"):
        await bench.verified(thread)


async def test_a_command_of_a_cold_thread_that_comes_again_is_answered_and_not_done_again(
    bench: Bench, recorder: Recorder
) -> None:
    async with owning(bench.runtime("p1")) as owner:
        await answer_of(bench, run("c1"))
        await checkpoint(owner, recorder)
    async with owning(bench.runtime("p2")), hearing(bench, "command.c1") as watcher:
        await bench.connection.publish("in.acme.agent.t1.run", b'{"id":"c1","data":{"agent":"demo","text":"hi"}}')
        (outcome,) = await until(watcher, lambda frame: isinstance(frame, Outcome))
    assert isinstance(outcome, Outcome)
    assert outcome.result == "accepted"
    assert len(bench.model.calls) == 1


async def test_what_was_under_way_before_the_checkpoint_goes_on(bench: Bench, recorder: Recorder) -> None:
    hold = bench.model.hold = asyncio.Event()
    async with hearing(bench, "run.c1") as watcher:
        async with owning(bench.runtime("p1")) as owner:
            await send_command(bench.connection, run("c1"))
            await until(watcher, lambda frame: isinstance(frame, Committed) and frame.type == "model.called")
            await checkpoint(owner, recorder)
        hold.set()
        async with owning(bench.runtime("p2")) as owner:
            assert owner.statistics()["checkpoint"] > 0
            await until(watcher, ends)
    await bench.verified("t1")


async def test_what_is_under_way_in_a_sealed_thread_goes_on_in_a_process_that_has_its_key_to_read(
    bench: Bench, recorder: Recorder, store: Store, database: str
) -> None:
    hold = bench.model.hold = asyncio.Event()
    async with hearing(bench, "run.c1") as watcher, LateStore(database, MASTER) as opening:
        bench.record = opening
        bench.connection.keys = ring(store)
        async with owning(bench.runtime("p1")) as owner:
            await send_command(bench.connection, run("c1"))
            await until(watcher, lambda frame: isinstance(frame, Committed) and frame.type == "model.called")
            await checkpoint(owner, recorder)
        hold.set()
        bench.connection.keys = ring(store)
        async with owning(bench.runtime("p2")):
            await until(watcher, ends)
    await bench.verified("t1")
    assert {fact.key for _, _, fact in await bench.facts()} & {None} == set()


async def test_memory_holds_the_latest_threads_and_what_is_under_way(
    bench: Bench, recorder: Recorder, record: Counting
) -> None:
    bench.room = 2
    bench.hold["look"] = asyncio.Event()
    async with owning(bench.runtime("p1")) as owner, hearing(bench, "run.b1") as watcher:
        await send_command(bench.connection, run("b1", "use look", "busy"))
        await until(watcher, lambda frame: isinstance(frame, Committed) and frame.type == "tool.called")
        for n in range(6):
            await answer_of(bench, run(f"c{n}", f"hello {n}", f"t{n}"))
        assert owner.statistics()["threads"] == 7
        await checkpoint(owner, recorder)
        assert owner.statistics()["threads"] == 2
        await answer_of(bench, run("d0", "again", "t0"))
        assert said(bench.model.calls[-1]) == ["hello 0", "again"]
        assert record.read == ["t0"]
        bench.hold["look"].set()
        await until(watcher, ends)
    for thread in ("t0", "busy"):
        await bench.verified(thread)


async def test_while_the_record_is_away_new_threads_go_on_and_cold_ones_wait(
    bench: Bench, recorder: Recorder, record: Counting
) -> None:
    async with owning(bench.runtime("p1")) as owner:
        await answer_of(bench, run("c1", "hello"))
        await checkpoint(owner, recorder)
    async with owning(bench.runtime("p2")) as owner, hearing(bench, "run.c2", "run.n1") as watcher:
        record.away = True
        await send_command(bench.connection, run("c2", "more"))
        await send_command(bench.connection, run("n1", "new", "t2"))
        heard = await until(watcher, ends)
        assert {frame.subject for frame in heard if isinstance(frame, Committed)} == {"n1"}
        with pytest.raises(Unavailable):
            await checkpoint(owner, recorder)
        record.away = False
        await until(watcher, ends)
        await checkpoint(owner, recorder)
    assert said(bench.model.calls[-1]) == ["hello", "more"]


async def test_commands_of_a_thread_that_cannot_be_read_keep_their_order(
    bench: Bench, recorder: Recorder, record: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with owning(bench.runtime("p1")) as owner:
        await answer_of(bench, run("c1", "hello"))
        await checkpoint(owner, recorder)
    async with owning(bench.runtime("p2")) as owner, hearing(bench, "run.c2", "run.c3") as watcher:
        using, second = owner._cells.using, asyncio.Event()

        def joined(wanted: ThreadKey) -> AbstractAsyncContextManager[Cell]:
            second.set()
            return using(wanted)

        async def away(*_: object) -> dict[ThreadKey, History]:
            monkeypatch.undo()
            monkeypatch.setattr(owner._cells, "using", joined)
            await send_command(bench.connection, run("c3", "second"))
            await second.wait()
            raise Unavailable("Postgres cannot be used")

        monkeypatch.setattr(record, "histories", away)
        await send_command(bench.connection, run("c2", "first"))
        await until(watcher, ends)
        await until(watcher, ends)
    assert said(bench.model.calls[-1]) == ["hello", "first", "second"]


async def test_a_record_that_is_away_at_a_takeover_makes_it_read_all(bench: Bench, recorder: Recorder) -> None:
    async with owning(bench.runtime("p1")) as owner:
        await answer_of(bench, run("c1", "hello"))
        await checkpoint(owner, recorder)
    bench.record = LateStore("postgresql://127.0.0.1:1/nowhere")
    async with owning(bench.runtime("p2")) as owner:
        assert owner.statistics()["threads"] == 1
        await answer_of(bench, run("c2", "more"))
    assert said(bench.model.calls[-1]) == ["hello", "more"]


async def trimmed(bench: Bench, recorder: Recorder, store: Store) -> None:
    """Have two threads of which JetStream has forgotten all."""
    async with owning(bench.runtime("p1")) as owner:
        await answer_of(bench, run("c1", "hello", "t1"))
        await answer_of(bench, run("c2", "hello", "t2"))
        await checkpoint(owner, recorder)
    async with owning(bench.runtime("p2")) as owner:
        await checkpoint(owner, recorder)
    assert (await trim(bench.connection, store, 2**60)).envelopes > 2


@pytest.mark.parametrize("kept", [True, False])
async def test_what_was_trimmed_from_the_log_is_read_from_the_record(
    bench: Bench, recorder: Recorder, store: Store, kept: bool
) -> None:
    await trimmed(bench, recorder, store)
    if not kept:
        await store.rows("DELETE FROM checkpoint")
    async with owning(bench.runtime("p3")) as owner, hearing(bench, "run.c3") as watcher:
        assert owner.statistics()["threads"] == (0 if kept else 2)
        await send_command(bench.connection, run("c3", "more", "t1"))
        await until(watcher, ends)
    assert said(bench.model.calls[-1]) == ["hello", "more"]


async def test_an_owner_of_a_trimmed_log_waits_for_the_record(
    bench: Bench, recorder: Recorder, store: Store, record: Counting
) -> None:
    await trimmed(bench, recorder, store)
    record.away = True
    owner = ShardOwner(bench.runtime("p3"), 0)
    task = asyncio.create_task(owner.run())
    async with hearing(bench, "run.c3") as watcher:
        await send_command(bench.connection, run("c3", "more", "t1"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await owner.ready.wait()
        record.away = False
        await until(watcher, ends)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert said(bench.model.calls[-1]) == ["hello", "more"]


@pytest.mark.parametrize("paused", [True, False])
async def test_what_is_trimmed_while_an_owner_takes_the_shard_is_no_damage(
    bench: Bench, recorder: Recorder, store: Store, record: Counting, paused: bool
) -> None:
    async with owning(bench.runtime("p1")) as owner:
        await answer_of(bench, run("c1", "hello"))
        await checkpoint(owner, recorder)
        await answer_of(bench, run("c2", "more"))

    async def trimmed_meanwhile(shard: int) -> Checkpoint | None:
        del record.checkpoint  # type: ignore[method-assign]
        found = await record.checkpoint(shard)
        async with owning(bench.runtime("p3")) as other:
            await checkpoint(other, recorder)
        assert (await trim(bench.connection, store, 2**60)).envelopes > 2
        return await record.checkpoint(shard) if paused else found

    record.checkpoint = trimmed_meanwhile  # type: ignore[method-assign]
    async with owning(bench.runtime("p2")), hearing(bench, "run.c3") as watcher:
        await send_command(bench.connection, run("c3", "and more"))
        await until(watcher, ends)
    assert said(bench.model.calls[-1]) == ["hello", "more", "and more"]


async def test_a_log_that_ends_before_its_checkpoint_is_not_built_upon(
    bench: Bench, recorder: Recorder, record: Counting
) -> None:
    async with owning(bench.runtime("p1")) as owner:
        await answer_of(bench, run("c1", "hello"))
        await checkpoint(owner, recorder)
    await bench.connection.api(f"STREAM.DELETE.{EV}")
    await ensure_streams(bench.connection, 1)

    async def late(_shard: int) -> Position:
        return START

    record.head = late  # type: ignore[method-assign]
    with pytest.RaisesGroup(LogDamaged, flatten_subgroups=True):
        await ShardOwner(bench.runtime("p2"), 0).run()


async def test_a_long_thread_is_kept_as_a_snapshot_and_folds_on_from_it(
    bench: Bench, recorder: Recorder, store: Store
) -> None:
    turns = SNAPSHOT_EACH // 6 + 1
    async with owning(bench.runtime("p1")) as owner:
        for n in range(turns):
            await answer_of(bench, run(f"c{n}", f"hello {n}"))
        await answer_of(bench, run("s1", "hello", "short"))
        await checkpoint(owner, recorder)
    (row,) = await store.rows("SELECT thread, seq FROM snapshot")
    assert row["thread"] == "t1"
    async with owning(bench.runtime("p2")):
        await answer_of(bench, run("more", "more"))
        assert said(bench.model.calls[-1]) == [*(f"hello {n}" for n in range(turns)), "more"]
    await bench.verified("t1")


async def test_a_snapshot_that_differs_from_a_fold_from_zero_is_found_and_dropped(
    bench: Bench, recorder: Recorder, store: Store
) -> None:
    async with owning(bench.runtime("p1")) as owner:
        for n in range(SNAPSHOT_EACH // 6 + 1):
            await answer_of(bench, run(f"c{n}", f"hello {n}"))
        await checkpoint(owner, recorder)
    heard: list[tuple[int, int]] = []
    found = await check_snapshots(store, lambda done, of_all: heard.append((done, of_all)))
    assert (found.checked, found.wrong, heard) == (1, (), [(1, 1)])
    await store.rows("UPDATE snapshot SET state = replace(convert_from(state, 'UTF8'), 'hello 3', 'hello 4')::bytea")
    (wrong,) = (await check_snapshots(store, lambda *_: None)).wrong
    assert wrong.key == ("agent", "acme", "t1")
    await drop_snapshots(store, [wrong.key])
    assert (await check_snapshots(store, lambda *_: None)).checked == 0


async def test_a_snapshot_of_other_code_or_of_another_history_is_not_used(
    bench: Bench, recorder: Recorder, store: Store
) -> None:
    turns = SNAPSHOT_EACH // 6 + 1
    async with owning(bench.runtime("p1")) as owner:
        for n in range(turns):
            await answer_of(bench, run(f"c{n}", "hello"))
        await checkpoint(owner, recorder)
    for spoiled in ("reducer = 'other'", "hash = 'other'"):
        await store.rows(f"UPDATE snapshot SET state = 'nonsense', {spoiled}")
        async with owning(bench.runtime("p2")):
            await answer_of(bench, run(f"m{len(spoiled)}", "more"))
    assert len(said(bench.model.calls[-1])) == turns + 2
    await store.rows("UPDATE checkpoint SET hash = 'other'")
    async with owning(bench.runtime("p3")) as owner:
        assert owner.statistics()["checkpoint"] == 0
        assert owner.statistics()["threads"] == 1


async def test_a_snapshot_that_cannot_be_read_is_passed_over(bench: Bench, recorder: Recorder, store: Store) -> None:
    turns = SNAPSHOT_EACH // 6 + 1
    async with owning(bench.runtime("p1")) as owner:
        for n in range(turns):
            await answer_of(bench, run(f"c{n}", "hello"))
        await checkpoint(owner, recorder)
        await store.rows("UPDATE snapshot SET state = 'nonsense'")
        await answer_of(bench, run("more", "more"))
    async with owning(bench.runtime("p2")):
        await answer_of(bench, run("last", "last"))
    assert len(said(bench.model.calls[-1])) == turns + 2
    await bench.verified("t1")


async def test_a_checkpoint_that_fails_for_whatever_reason_leaves_its_shard_alone(
    bench: Bench, recorder: Recorder, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    async def failing(*_: object) -> None:
        failed.set()
        raise ValueError("so odd")

    monkeypatch.setattr(bench.record, "keep", failing)
    monkeypatch.setattr("actors.runtime.shard.CHECKPOINT_S", 0.01)
    async with owning(bench.runtime("p1")) as owner:
        await recorder.drain()
        await failed.wait()
        await answer_of(bench, run("c1", "hello"))
        assert owner.statistics()["checkpoint"] == 0


async def test_a_thread_with_a_hole_in_the_record_is_damage(bench: Bench, recorder: Recorder, store: Store) -> None:
    async with owning(bench.runtime("p1")) as owner:
        await answer_of(bench, run("c1", "hello"))
        await checkpoint(owner, recorder)
    await store.rows("DELETE FROM event WHERE type = 'model.called'")
    owner = ShardOwner(bench.runtime("p2"), 0)
    task = asyncio.create_task(owner.run())
    await owner.ready.wait()
    await send_command(bench.connection, run("c2", "more"))
    with pytest.RaisesGroup(LogDamaged, flatten_subgroups=True):
        await task


async def test_an_owner_that_gave_its_pen_up_makes_no_checkpoint(
    bench: Bench, recorder: Recorder, store: Store
) -> None:
    async with owning(bench.runtime("p1")) as owner:
        await answer_of(bench, run("c1", "hello"))
        pen = owner._pen
        assert pen is not None
        pen.give_up()
        await checkpoint(owner, recorder)
        assert not await store.rows("SELECT * FROM checkpoint")


async def test_an_owner_that_was_replaced_makes_no_checkpoint(bench: Bench, recorder: Recorder, store: Store) -> None:
    async with owning(bench.runtime("p1")) as stale:
        async with owning(bench.runtime("p2")):
            await answer_of(bench, run("c1", "hello"))
        await checkpoint(stale, recorder)
        assert not await store.rows("SELECT * FROM checkpoint")


async def test_a_commit_that_is_recorded_before_its_owner_has_folded_it_is_in_no_checkpoint(
    bench: Bench, recorder: Recorder, store: Store
) -> None:
    hold = bench.model.hold = asyncio.Event()
    telling, told = asyncio.Event(), asyncio.Event()
    async with owning(bench.runtime("p1")) as owner:
        pen = owner._pen
        assert pen is not None

        async def slowly(_sequence: int, _envelope: Envelope) -> None:
            telling.set()
            await told.wait()

        pen.on_commit = slowly
        await send_command(bench.connection, run("c1"))
        await telling.wait()
        await checkpoint(owner, recorder)
    hold.set()
    async with owning(bench.runtime("p2")), hearing(bench, "run.c1") as watcher:
        await until(watcher, ends)
    await bench.verified("t1")
