"""Two threads compared, event by event: where they part first, and in what. Pure.

What necessarily differs between two threads that did the same is no difference: an id counts as "the third id that
this thread names", not by its letters; times, trace ids and hashes over them are left out. So is a seed at
temperature 0, which chooses nothing, and how many tokens the prefix cache happened to hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

import msgspec

from bus.store import StoredEvent

_LEFT_OUT = frozenset(
    {"time", "traceparent", "request_id", "prefix", "cached_tokens", "preemptions", "recomputed_tokens", "sampled"}
)
_OWN_THREAD = "command.thread"
"""A command names the thread it was sent to; those that a fork took over name its origin."""
_IDS = frozenset({"id", "thread", "effect", "behind", "call_id", "tool_call_id", "entity", "origin"})
_NO_IDS = frozenset({"any", "existing"})
"""What a command may say of its thread in place of an id."""


class Event(NamedTuple):
    """One event, as far as it can be compared."""

    number: int
    """Which of its thread, from 1."""
    type: str
    fields: Mapping[str, Any]
    """Path to value, with ids by the order in which they appear."""
    said: Mapping[str, Any]
    """Path to value, as recorded."""


class FieldDiffers(msgspec.Struct, frozen=True):
    """A field, and its value in each thread; None where it is not there."""

    field: str
    a: Any
    b: Any


class Row(NamedTuple):
    """Events that stand beside one another; one of them may be missing."""

    a: Event | None
    b: Event | None

    @property
    def same(self) -> bool:
        """Whether both are there and nothing differs."""
        return self.a is not None and self.b is not None and (self.a[1:3] == self.b[1:3])

    def fields(self) -> list[FieldDiffers]:
        """List the fields that differ, with what is recorded."""
        if self.a is None or self.b is None:
            return []
        names = [*self.a.fields, *(name for name in self.b.fields if name not in self.a.fields)]
        return [
            FieldDiffers(name, self.a.said.get(name), self.b.said.get(name))
            for name in names
            if self.a.fields.get(name) != self.b.fields.get(name)
        ]


def comparable(events: Sequence[StoredEvent]) -> list[Event]:
    """Prepare a thread's events for comparison."""
    ids = _Ids()
    return [
        Event(
            number,
            stored.fact.type,
            {
                "entity": f"{stored.fact.kind} {ids(stored.fact.entity)}",
                **dict(_flat("", msgspec.json.decode(stored.fact.payload), ids)),
            },
            {"entity": stored.fact.entity, **dict(_flat("", msgspec.json.decode(stored.fact.payload), str))},
        )
        for number, stored in _effective(events)
    ]


def _effective(events: Sequence[StoredEvent]) -> list[tuple[int, StoredEvent]]:
    """Number the events, without what only says that a thread is a fork; a call made anew stands where it first was."""
    found: list[tuple[int, StoredEvent]] = []
    calls: dict[str, int] = {}
    for number, stored in enumerate(events, start=1):
        fields = msgspec.json.decode(stored.fact.payload)
        if stored.fact.type == "thread.forked" or fields.get("command", {}).get("verb") == "fork":
            continue
        if stored.fact.type in {"model.called", "tool.called"}:
            if fields["effect"] in calls:
                found[calls[fields["effect"]]] = (number, stored)
                continue
            calls[fields["effect"]] = len(found)
        found.append((number, stored))
    return found


def beside(a: Sequence[Event], b: Sequence[Event]) -> list[Row]:
    """Lay two threads beside one another from the first difference on; nothing if there is none."""
    same = 0
    while same < min(len(a), len(b)) and Row(a[same], b[same]).same:
        same += 1
    return [*_aligned(a[same:], b[same:])]


def _aligned(a: Sequence[Event], b: Sequence[Event]) -> Iterator[Row]:
    """Pair events of one type that come in the same order, and what stands between them as it comes.

    The first of each are a pair whatever they are: there the threads part.
    """
    if not a or not b:
        yield from _pairs(a, b)
        return
    yield Row(a[0], b[0])
    matcher = SequenceMatcher(None, [event.type for event in a[1:]], [event.type for event in b[1:]], autojunk=False)
    for _, i, j, k, m in matcher.get_opcodes():
        yield from _pairs(a[1 + i : 1 + j], b[1 + k : 1 + m])


def _pairs(a: Sequence[Event], b: Sequence[Event]) -> Iterator[Row]:
    for index in range(max(len(a), len(b))):
        yield Row(a[index] if index < len(a) else None, b[index] if index < len(b) else None)


class _Ids:
    """Names ids by the order in which they are first named; an effect's is its run's and its place in it."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def __call__(self, value: str) -> str:
        if value in _NO_IDS:
            return value
        owner, step, part = [*value.rsplit("-", 2), "", ""][:3]
        if owner in self._names and step.isdecimal() and part[:1] in {"m", "t"}:
            return f"{self._names[owner]}-{step}-{part}"
        return self._names.setdefault(value, f"#{len(self._names) + 1}")


def _flat(path: str, value: Any, ids: Any) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a payload with their paths, without what is left out of comparisons."""
    match value:
        case dict():
            for key, below in value.items():
                at = f"{path}.{key}" if path else key
                chooses_nothing = key == "seed" and path.endswith("sampling") and not value.get("temperature")
                if key not in _LEFT_OUT and at != _OWN_THREAD and not chooses_nothing:
                    yield from _flat(at, below, ids)
        case list():
            for index, below in enumerate(value):
                yield from _flat(f"{path}[{index}]", below, ids)
        case str() if path.rpartition(".")[2] in _IDS:
            yield path, ids(value)
        case _:
            yield path, value
