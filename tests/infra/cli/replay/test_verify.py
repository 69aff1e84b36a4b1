"""Verifying all threads: each once and whole, over processes, and none of them spoils it for the others."""

from __future__ import annotations

import itertools
import os

import msgspec
import pytest

from bus.errors import Unavailable
from bus.store import Store, StoredEvent
from bus.sweep import spans, threads_of
from infra.cli.replay import sweeping
from infra.cli.replay.checking import Checked, check
from infra.errors import SweepFailed
from tests.infra.cli.replay.stored import conversation, insert, stored


def damaged(event: StoredEvent, payload: bytes, type_: str = "") -> StoredEvent:
    fact = msgspec.structs.replace(event.fact, payload=msgspec.Raw(payload), type=type_ or event.fact.type)
    return event._replace(fact=fact)


def test_a_thread_that_is_decided_the_same_counts_its_decisions() -> None:
    checked = check(stored("t1", conversation("t1", turns=2).log))
    assert (checked.state, checked.ok, checked.events, checked.decisions) == ("same", True, 20, 8)


@pytest.mark.parametrize(
    ("at", "payload", "type_", "state"),
    [
        (4, b"not json", "", "unreadable"),
        (1, b'{"type":"message.added"}', "", "unreadable"),
        (2, b'{"type":"run.exploded"}', "run.exploded", "unreadable"),
        (1, b'{"type":"message.added","message":{"role":"user","content":"another"}}', "", "differs"),
    ],
)
def test_what_is_wrong_with_a_thread_is_its_outcome(at: int, payload: bytes, type_: str, state: str) -> None:
    events = stored("t1", conversation("t1").log)
    events[at] = damaged(events[at], payload, type_)
    checked = check(events)
    assert (checked.state, checked.ok, checked.place) == (state, False, f"{events[at].sequence}/{events[at].idx}")
    assert checked.event == events[at].fact.type


def test_events_that_nobody_decided_break_their_thread_alone() -> None:
    events = stored("t1", conversation("t1").log)[4:]
    assert check(events).ok is False


async def fill(url: str) -> list[tuple[str, str]]:
    """Write threads of 10, 20 and 30 events, some of one name in two tenants."""
    sequences = itertools.count(0, 1000)
    places = [("acme", f"t{n}") for n in range(6)] + [("bolt", "t1"), ("bolt", "zz")]
    for number, (tenant, thread) in enumerate(places):
        log = conversation(thread, turns=1 + number % 3).log
        await insert(url, stored(thread, log, next(sequences), tenant))
    return places


@pytest.mark.anyio
@pytest.mark.servers
@pytest.mark.parametrize("size", [1, 7, 10, 11, 35, 1000])
async def test_spans_of_any_size_hold_each_thread_once_and_whole(store: Store, size: int) -> None:
    places = await fill(store.url)
    parts = await spans(store, size)
    read = [events for part in parts for events in await threads_of(store, part)]
    assert [(events[0].fact.tenant, events[0].fact.thread) for events in read] == places
    for (tenant, thread), events in zip(places, read, strict=True):
        assert events == await store.events_of_thread(tenant, thread)


@pytest.mark.anyio
@pytest.mark.servers
@pytest.mark.deadline(30)
@pytest.mark.parametrize("jobs", [1, 2])
async def test_one_process_or_several_find_the_same(store: Store, monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    await fill(store.url)
    bad = stored("bad", conversation("bad").log, 90_000)
    await insert(store.url, [damaged(event, b"{", "") if at == 3 else event for at, event in enumerate(bad)])
    monkeypatch.setattr(sweeping, "SPAN", 12)
    told: list[tuple[int, int]] = []
    found: list[Checked] = []
    async for outcomes in sweeping.sweep(store, jobs, lambda done, parts: told.append((done, parts))):
        found += outcomes
    assert sorted((one.tenant, one.thread) for one in found if one.ok) == sorted(
        [("acme", f"t{n}") for n in range(6)] + [("bolt", "t1"), ("bolt", "zz")]
    )
    assert [(one.thread, one.state) for one in found if not one.ok] == [("bad", "unreadable")]
    assert sum(one.decisions for one in found) == 4 * (1 + 2 + 3 + 1 + 2 + 3 + 1 + 2)
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1] == len(told) - 1


@pytest.mark.anyio
@pytest.mark.servers
@pytest.mark.deadline(30)
async def test_stopping_early_leaves_no_process_and_a_process_that_dies_is_an_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store.url)
    monkeypatch.setattr(sweeping, "SPAN", 12)
    begun: list[int] = []
    start = sweeping._start

    async def noted(of: Store) -> sweeping.Process:
        process = await start(of)
        begun.append(process.pid)
        return process

    monkeypatch.setattr(sweeping, "_start", noted)
    sweep = sweeping.sweep(store, 2, lambda done, parts: None)
    await anext(sweep)
    await sweep.aclose()
    assert len(begun) == 2
    for pid in begun:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    async def nowhere(of: Store) -> sweeping.Process:
        monkeypatch.setattr(of, "url", "postgresql://ostinato@127.0.0.1:1/nothing")
        return await start(of)

    monkeypatch.setattr(sweeping, "_start", nowhere)
    with pytest.raises(SweepFailed, match="--jobs 1"):
        async for _ in sweeping.sweep(store, 2, lambda done, parts: None):
            pass


@pytest.mark.anyio
@pytest.mark.servers
async def test_a_database_that_goes_away_is_an_error_of_ours(store: Store) -> None:
    await store.close()
    with pytest.raises(Unavailable):
        await spans(store, 10)
