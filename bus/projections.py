"""The projections: tables filled from the log, which can be made again from it at any time.

| projection | a row each | |
|---|---|---|
| `threads` | thread, or bare generation | how it stands, and what it holds |
| `runs` | run, or bare generation | how it stands or ended, and what it used |
| `usage` | agent, model and day | what was used |
| `schedules` | schedule | what it is, and when it fires next |
| `batches` | batch | what it is, and how far |

A row is merged from what events say of it (`bus.following`), column by column: counts are added, of other values the
first or the last one stays. Merging is associative, so it does not matter where a batch is cut, and Postgres merges
what is there with what comes by the same rules (`upsert`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from bus.following import FOLLOWED
from bus.places import Change, Delta, OpenRun, Place
from bus.store import StoredEvent
from schemas import codec

_MEANING = 3
"""Counts the meanings that these tables have had: raise it when a fold changes what it says."""

_MERGED = ("add", "first")
Rule = Literal["key", "add", "first", "last"]
Key = tuple[Any, ...]
Rows = Mapping[Key, Delta]
Collected = dict[Key, dict[str, Any]]


class Column(NamedTuple):
    """A column, and what becomes of two values of one row."""

    name: str
    type: str
    """As Postgres calls it."""
    rule: Rule


class Projection(NamedTuple):
    """A table, and what of a change goes into it."""

    name: str
    table: str
    columns: tuple[Column, ...]
    deltas: Callable[[StoredEvent, Change], Sequence[tuple[Key, Delta]]]

    @property
    def upsert(self) -> str:
        """SQL that merges rows into a build: its number, then one array per column."""
        names = [column.name for column in self.columns]
        arrays = ", ".join(f"${number}::{column.type}[]" for number, column in enumerate(self.columns, start=2))
        keys = ", ".join(column.name for column in self.columns if column.rule == "key")
        merged = ", ".join(_merged(self.table, column) for column in self.columns if column.rule != "key")
        return (
            f"INSERT INTO {self.table} (build, {', '.join(names)}) SELECT $1, made.* FROM unnest({arrays}) AS made "
            f"ON CONFLICT (build, {keys}) DO UPDATE SET {merged}"
        )

    def arrays(self, rows: Rows) -> list[list[Any]]:
        """Give the rows' columns, for `upsert`; a count that nothing was said of is 0."""
        keys = [column.name for column in self.columns if column.rule == "key"]
        found: list[list[Any]] = [[key[at] for key in rows] for at in range(len(keys))]
        for name, _, rule in self.columns[len(keys) :]:
            absent = 0 if rule == "add" else None
            found.append([row.get(name, absent) for row in rows.values()])
        return found


def merge(projection: Projection, rows: Collected, stored: StoredEvent, change: Change) -> None:
    """Merge what an event changes into rows that are being collected."""
    added, first = _RULES[projection.name]
    for key, delta in projection.deltas(stored, change):
        row = rows.get(key)
        if row is None:
            rows[key] = dict(delta)
            continue
        for name, value in delta.items():
            if name in added:
                row[name] = row.get(name, 0) + value
            elif name not in row or name not in first:
                row[name] = value


def _merged(table: str, column: Column) -> str:
    """Say in SQL what `merge` says in Python. A value of NULL is one that nothing was said of."""
    there, comes = f"{table}.{column.name}", f"excluded.{column.name}"
    if column.rule == "add":
        return f"{column.name} = {there} + {comes}"
    first, second = (there, comes) if column.rule == "first" else (comes, there)
    return f"{column.name} = coalesce({first}, {second})"


def _of_thread(stored: StoredEvent, change: Change) -> Sequence[tuple[Key, Delta]]:
    return (((stored.fact.tenant, stored.fact.thread), change.thread),)


def _of_runs(stored: StoredEvent, change: Change) -> Sequence[tuple[Key, Delta]]:
    return [((stored.fact.tenant, stored.fact.thread, run), delta) for run, delta in change.runs]


def _of_usage(stored: StoredEvent, change: Change) -> Sequence[tuple[Key, Delta]]:
    return [((stored.fact.tenant, *key), delta) for key, delta in change.usage]


def _of_schedules(stored: StoredEvent, change: Change) -> Sequence[tuple[Key, Delta]]:
    return [((stored.fact.tenant, stored.fact.thread), change.schedule)] if change.schedule else []


def _of_batches(stored: StoredEvent, change: Change) -> Sequence[tuple[Key, Delta]]:
    return [((stored.fact.tenant, stored.fact.thread), change.batch)] if change.batch else []


def _columns(spec: str) -> tuple[Column, ...]:
    """Read columns, one a line: name, type, rule."""
    return tuple(Column(*line.split()) for line in spec.strip().splitlines())  # type: ignore[arg-type]


THREADS = Projection(
    "threads",
    "projected_thread",
    _columns("""
        tenant    text    key
        thread    text    key
        kind      text    first
        agent     text    last
        status    text    last
        runs      bigint  add
        refused   bigint  add
        messages  bigint  add
        events    bigint  add
        unread    bigint  add
        first     bigint  first
        last      bigint  last
        origin    text    last
        stopped   text    last
        resource  text    last
        title     text    last
        metadata  text    last
    """),
    _of_thread,
)
RUNS = Projection(
    "runs",
    "projected_run",
    _columns("""
        tenant             text     key
        thread             text     key
        run                text     key
        kind               text     first
        agent              text     last
        model              text     last
        status             text     last
        reason             text     last
        forked             boolean  last
        asked              bigint   first
        started            bigint   first
        finished           bigint   last
        model_calls        bigint   add
        tool_calls         bigint   add
        prompt_tokens      bigint   add
        completion_tokens  bigint   add
        cached_tokens      bigint   add
        root               text     first
        root_run           text     first
    """),
    _of_runs,
)
USAGE = Projection(
    "usage",
    "projected_usage",
    _columns("""
        tenant             text    key
        agent              text    key
        model              text    key
        day                date    key
        runs               bigint  add
        failed             bigint  add
        model_calls        bigint  add
        tool_calls         bigint  add
        prompt_tokens      bigint  add
        completion_tokens  bigint  add
        cached_tokens      bigint  add
        unread             bigint  add
    """),
    _of_usage,
)
SCHEDULES = Projection(
    "schedules",
    "projected_schedule",
    _columns("""
        tenant    text    key
        thread    text    key
        schedule  text    last
        status    text    last
        next      bigint  last
        fired     bigint  add
        last      bigint  last
    """),
    _of_schedules,
)
BATCHES = Projection(
    "batches",
    "projected_batch",
    _columns("""
        tenant             text    key
        thread             text    key
        batch              text    first
        status             text    last
        created            bigint  first
        expires            bigint  first
        started            bigint  first
        finalizing         bigint  first
        cancelling         bigint  first
        ended              bigint  first
        total              bigint  first
        completed          bigint  add
        failed             bigint  add
        prompt_tokens      bigint  add
        completion_tokens  bigint  add
        cached_tokens      bigint  add
        reasoning_tokens   bigint  add
        written            text    first
        problems           text    first
    """),
    _of_batches,
)
_ALL = (THREADS, RUNS, USAGE, SCHEDULES, BATCHES)
PROJECTIONS: Mapping[str, Projection] = {projection.name: projection for projection in _ALL}

CODE = codec.digest(
    repr((_MEANING, sorted(FOLLOWED), Place.__struct_fields__, OpenRun.__struct_fields__)).encode()
    + repr([projection.columns for projection in PROJECTIONS.values()]).encode()
)
"""What a projection was made by. One that other code made is made again."""

_RULES = {
    name: tuple(frozenset(column.name for column in projection.columns if column.rule == rule) for rule in _MERGED)
    for name, projection in PROJECTIONS.items()
}
