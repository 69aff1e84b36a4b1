"""Two threads compared: what must differ is no difference, anything else is found at its place."""

from __future__ import annotations

import unicodedata
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.store import StoredEvent
from infra.cli.replay.diff import fitted
from infra.cli.replay.difference import Row, beside, comparable
from schemas.messages import ToolCall
from tests.actors.agent.test_loop import World, returned, said
from tests.infra.cli.replay.stored import conversation, stored


def rows(a: list[StoredEvent], b: list[StoredEvent]) -> list[Row]:
    return beside(comparable(a), comparable(b))


def events_of(thread: str, turns: int = 2) -> list[StoredEvent]:
    return stored(thread, conversation(thread, turns).log)


@given(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True).filter(lambda name: name not in {"any", "existing"}))
def test_ids_are_compared_by_the_order_in_which_they_are_named(thread: str) -> None:
    assert rows(events_of("alpha"), events_of(thread)) == []


def test_chosen_by_chance_or_by_the_clock_is_no_difference() -> None:
    a = events_of("alpha")
    b = [event._replace(time=event.time + 7, sequence=event.sequence + 99) for event in events_of("beta")]
    b[0] = changed(b[0], lambda fields: fields["command"].update(time="2026-11-24T00:00:00Z", traceparent="00-1-2-01"))
    b[2] = changed(b[2], lambda fields: fields["profile"]["sampling"].update(seed=5))
    b[4] = changed(b[4], lambda fields: fields["usage"].update(cached_tokens=3))
    assert rows(a, b) == []
    warm = changed(b[2], lambda fields: fields["profile"]["sampling"].update(seed=5, temperature=0.5))
    (first, *_) = rows(a, [*b[:2], warm, *b[3:]])
    assert {field.field for field in first.fields()} == {"profile.sampling.temperature", "profile.sampling.seed"}


def changed(event: StoredEvent, change: Any) -> StoredEvent:
    fields = msgspec.json.decode(event.fact.payload)
    change(fields)
    fact = msgspec.structs.replace(event.fact, payload=msgspec.Raw(msgspec.json.encode(fields)))
    return event._replace(fact=fact)


@given(st.data())
def test_one_changed_value_is_the_first_difference_and_the_only_one(data: st.DataObject) -> None:
    a, b = events_of("alpha"), events_of("beta")
    at = data.draw(st.integers(0, len(a) - 1))
    event = comparable(b)[at]
    leaves = [name for name, value in event.fields.items() if isinstance(value, str) and "#" not in value]
    name = data.draw(st.sampled_from([name for name in leaves if name != "entity"]))

    def change(fields: Any) -> None:
        *way, last = (
            int(part) if part.isdecimal() else part for part in name.replace("[", ".").replace("]", "").split(".")
        )
        for part in way:
            fields = fields[part]
        fields[last] += "!"

    b[at] = changed(b[at], change)
    found = rows(a, b)
    assert (found[0].a and found[0].a.number, found[0].b and found[0].b.number) == (at + 1, at + 1)
    assert [field.field for field in found[0].fields()] == [name]
    assert all(row.same for row in found[1:])


def test_threads_that_go_on_differently_are_paired_by_what_happened() -> None:
    a, b = World("alpha"), World("beta")
    for world, calls in ((a, ["x", "y"]), (b, ["x"])):
        world.ask("r", text="same")
        world.result(said("r-1-m", calls=[ToolCall(name, "add", "{}") for name in calls]))
        for index, _ in enumerate(calls):
            returned(world, f"r-1-t{index}")
        world.result(said("r-2-m", "end"))
    found = rows(stored("alpha", a.log), stored("beta", b.log))
    assert found[0].a is not None
    assert found[0].a.type == "model.returned"
    assert [row.a.type for row in found if row.b is None and row.a] == ["tool.called", "tool.returned"]
    assert found[-1].a is not None
    assert found[-1].b is not None
    assert (found[-1].a.type, found[-1].b.type) == ("run.finished", "run.finished")


@pytest.mark.parametrize("cut", [1, 5, 19])
def test_a_thread_that_ends_earlier_differs_where_it_ends(cut: int) -> None:
    a, b = events_of("alpha"), events_of("beta")[:cut]
    assert [(row.a and row.a.number, row.b) for row in rows(a, b)] == [(n, None) for n in range(cut + 1, len(a) + 1)]
    assert [(row.a, row.b and row.b.number) for row in rows(b, a)] == [(None, n) for n in range(cut + 1, len(a) + 1)]


@given(st.text(), st.integers(2, 40))
def test_a_cell_is_exactly_as_wide_as_it_should_be(text: str, width: int) -> None:
    cell = fitted(text, width)
    wide = sum(1 + (unicodedata.east_asian_width(c) in {"W", "F"}) for c in cell if not unicodedata.combining(c))
    assert wide == width
    assert "\n" not in cell
