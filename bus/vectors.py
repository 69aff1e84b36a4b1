"""What was said, as vectors in Postgres: filled from the record, forgotten with its thread, searched for one tenant.

The search is exact: over the vectors of a thread, a resource or a tenant, by pgvector's operators where the server has
them and in plain SQL where it has not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from bus.columns import whole
from bus.projecting import At, place
from bus.store import Store, StoredEvent, read_events
from bus.streams import EV
from bus.threads import reading_as
from schemas import codec
from schemas.errors import SchemaError
from schemas.generation import BROKEN_OFF
from schemas.memory import ThreadCreated
from schemas.messages import Message
from schemas.runs import MessageAdded, ModelReturned

Scope = Literal["thread", "resource", "tenant"]
_PAGE = 256
_SPEECH = ("message.added", "model.returned")
_TOLD = (*_SPEECH, "thread.deleted")


class Spoken(NamedTuple):
    """Something that was said, and where in the log."""

    place: At
    tenant: str
    thread: str
    message: Message
    key: str | None = None
    """What seals it; nothing is kept of it once that is destroyed."""


class Page(NamedTuple):
    """A part of the record: what was said there, which threads ended there, and how far it goes."""

    spoken: Sequence[Spoken]
    deleted: Sequence[tuple[str, str]]
    before: At
    end: At


class NoVector(NamedTuple):
    """Says that no vector could be made of a text, and in how many seconds that is tried again."""

    reason: str
    again_s: float


class Hit(NamedTuple):
    """Something that was said and is near to what was asked."""

    spoken: Spoken
    score: float
    """Cosine: 1 is the same direction."""


def spoken_in(stored: StoredEvent) -> Message | None:
    """Give what an event says that a person said, or was told; None if nothing."""
    if stored.fact.type not in _SPEECH or stored.fact.kind not in {"thread", "run"}:
        return None
    try:
        event = codec.event_of(stored.fact)
    except SchemaError:
        return None
    match event:
        case MessageAdded(message=message) if message.role in {"user", "assistant"} and message.content.strip():
            return message
        case ModelReturned(text=text, tool_calls=(), finish_reason=reason) if text.strip() and reason not in BROKEN_OFF:
            return Message(role="assistant", content=text)
        case _:
            return None


async def next_page(store: Store, embedder: str) -> Page | None:
    """Read what is recorded and not embedded yet; None if that is nothing.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    name = _cursor(embedder)
    await store.claim(name, "")
    rows = await store.rows("SELECT name, incarnation, seq, idx FROM cursor WHERE name = ANY($1)", [name, EV])
    places = {row["name"]: place(row) for row in rows}
    before, end = places[name], places.get(EV, At(1, 0))
    if before >= end:
        return None
    rows = await store.rows(_EVENTS, *before, *end, list(_TOLD), _PAGE)
    if len(rows) == _PAGE:
        end = At(rows[-1]["incarnation"], rows[-1]["seq"], rows[-1]["idx"])
    events = await read_events(store, rows)
    gone = [(stored.fact.tenant, stored.fact.thread) for stored in events if stored.fact.type == "thread.deleted"]
    found = ((stored, spoken_in(stored)) for stored in events)
    spoken = [
        _placed(stored, message)
        for stored, message in found
        if message is not None and (stored.fact.tenant, stored.fact.thread) not in gone
    ]
    return Page(spoken, gone, before, end)


async def keep(store: Store, embedder: str, page: Page, vectors: Sequence[Sequence[float] | NoVector]) -> bool:
    """Write a page's vectors, and forget those of threads that ended; False if somebody else was faster.

    Args:
        store: the record.
        embedder: whose vectors.
        page: the part of the record.
        vectors: one of each text of the page, or why there is none.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    resources = await resources_of(store, page.spoken)
    async with store.transaction() as connection:
        sql = "SELECT name, incarnation, seq, idx FROM cursor WHERE name = $1 FOR UPDATE"
        row = await connection.fetchrow(sql, _cursor(embedder))
        if row is None or place(row) != page.before:
            return False
        # locked, so that a key is destroyed before this, and nothing is kept, or after it, and finds what was
        keys = [one.key for one in page.spoken if one.key is not None]
        there = {row["id"] for row in await connection.fetch(KEYS, keys)} | {None}
        rows, refused = list[tuple[Any, ...]](), list[tuple[Any, ...]]()
        for one, vector in zip(page.spoken, vectors, strict=True):
            if one.key not in there:
                continue
            where = (embedder, *one.place, one.tenant, one.thread)
            if isinstance(vector, NoVector):
                refused.append((*where, whole(vector.reason), vector.again_s))
            else:
                rows.append((*where, resources.get((one.tenant, one.thread), ""), list(vector)))
        await connection.executemany(KEEP, rows)
        await connection.executemany(_REFUSED, refused)
        for table in ("spoken_vector", "unindexed"):
            await connection.executemany(f"DELETE FROM {table} WHERE tenant = $1 AND thread = $2", page.deleted)
        sql = "UPDATE cursor SET incarnation = $2, seq = $3, idx = $4 WHERE name = $1"
        await connection.execute(sql, _cursor(embedder), *page.end)
    return True


async def start_again(store: Store, embedder: str) -> None:
    """Drop an embedder's vectors, to be made from the log's beginning.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    async with store.transaction() as connection:
        await connection.execute("DELETE FROM cursor WHERE name = $1", _cursor(embedder))
        for table in ("spoken_vector", "unindexed"):
            await connection.execute(f"DELETE FROM {table} WHERE embedder = $1", embedder)


async def start_all_again(store: Store) -> int:
    """Drop every embedder's vectors, to be made from the log's beginning; return how many there were.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    async with store.transaction() as connection:
        # the cursors first: whoever makes vectors finds them where it left them, or writes nothing
        await connection.execute("DELETE FROM cursor WHERE name LIKE 'vectors.%'")
        gone = await connection.fetch("DELETE FROM spoken_vector RETURNING 1")
        await connection.execute("DELETE FROM unindexed")
    return len(gone)


async def nearest(
    store: Store, embedder: str, where: tuple[str, str, str], scope: Scope, vector: Sequence[float], count: int
) -> list[Hit]:
    """Return what was said that is nearest to a vector, the nearest first.

    Args:
        store: the record.
        embedder: whose vectors.
        where: tenant, thread and resource of who asks; without a resource, that scope is the thread's.
        scope: how far to look.
        vector: of length one.
        count: how many at most.

    Raises:
        DatabaseUnusable: we may not read as the tenant.
        Unavailable: Postgres cannot be reached.
    """
    tenant, thread, resource = where
    narrow = "thread" if scope == "resource" and not resource else scope
    async with reading_as(store, tenant) as connection:
        fast = await connection.fetchval("SELECT to_regtype('vector') IS NOT NULL")
        sql = _NEAREST.format(score=_BY_PGVECTOR if fast else _BY_SQL)
        rows = await connection.fetch(sql, embedder, tenant, narrow, thread, resource, list(vector), count)
    found = {At(*row[:3]): row["score"] for row in rows}
    spoken = await spoken_at(store, tenant, list(found))
    hits = [Hit(one, found[one.place]) for one in spoken]
    return sorted(hits, key=lambda hit: (-hit.score, hit.spoken.place))


async def around(store: Store, embedder: str, spoken: Spoken, before: int, after: int) -> list[Spoken]:
    """Return what was said around something, in order, with itself.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    values = (embedder, spoken.tenant, spoken.thread, *spoken.place)
    earlier = await store.rows(_BEFORE, *values, before + 1)
    later = await store.rows(_AFTER, *values, after)
    return await spoken_at(store, spoken.tenant, [At(*row) for row in (*earlier, *later)])


async def spoken_at(store: Store, tenant: str, places: Sequence[At]) -> list[Spoken]:
    """Return what was said at places in the log, in order; what is erased is left out.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    columns = [list(column) for column in zip(*places, strict=True)] or [[], [], []]
    events = await read_events(store, await store.rows(_TEXTS, tenant, *columns))
    found = ((stored, spoken_in(stored)) for stored in events)
    return [_placed(stored, message) for stored, message in found if message is not None]


def _placed(stored: StoredEvent, message: Message) -> Spoken:
    place, fact = At(stored.incarnation, stored.sequence, stored.idx), stored.fact
    return Spoken(place, fact.tenant, fact.thread, message, fact.key)


async def resources_of(store: Store, spoken: Sequence[Spoken]) -> Mapping[tuple[str, str], str]:
    """Say whose each thread is.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    threads = {(one.tenant, one.thread) for one in spoken}
    names: list[list[Any]] = [list(column) for column in zip(*threads, strict=True)] or [[], []]
    found: dict[tuple[str, str], str] = {}
    for stored in await read_events(store, await store.rows(_CREATED, *names)):
        event = None if codec.is_erased(stored.fact.payload) else codec.event_of(stored.fact)
        if isinstance(event, ThreadCreated):
            found[stored.fact.tenant, stored.fact.thread] = event.resource.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return found


def _cursor(embedder: str) -> str:
    return f"vectors.{embedder}"


_EVENTS = """
SELECT * FROM event WHERE (incarnation, seq, idx) > ($1, $2, $3) AND (incarnation, seq, idx) <= ($4, $5, $6)
AND type = ANY($7) ORDER BY incarnation, seq, idx LIMIT $8
"""

KEYS = "SELECT id FROM sealing_key WHERE id = ANY($1) FOR SHARE"

_CREATED = """
SELECT event.* FROM event JOIN unnest($1::text[], $2::text[]) AS wanted (tenant, thread) USING (tenant, thread)
WHERE type = 'thread.created' ORDER BY incarnation, seq, idx
"""

KEEP = """
INSERT INTO spoken_vector (embedder, incarnation, seq, idx, tenant, thread, resource, embedding)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING
"""

_REFUSED = """
INSERT INTO unindexed (embedder, incarnation, seq, idx, tenant, thread, reason, tries, due)
VALUES ($1, $2, $3, $4, $5, $6, $7, 1, now() + make_interval(secs => $8::float8)) ON CONFLICT DO NOTHING
"""

_BY_PGVECTOR = "1 - (embedding::vector <=> $6::real[]::vector)"
_BY_SQL = "(SELECT sum(a * b) FROM unnest(embedding, $6::real[]) AS both_of (a, b))"

_NEAREST = """
SELECT incarnation, seq, idx, ({score})::float8 AS score FROM spoken_vector
WHERE embedder = $1 AND tenant = $2 AND ($3 <> 'thread' OR thread = $4) AND ($3 <> 'resource' OR resource = $5)
AND cardinality(embedding) = cardinality($6::real[])
ORDER BY score DESC, incarnation, seq, idx LIMIT $7
"""

_TEXTS = """
SELECT event.* FROM event
JOIN unnest($2::integer[], $3::bigint[], $4::integer[]) AS wanted (incarnation, seq, idx) USING (incarnation, seq, idx)
WHERE tenant = $1 ORDER BY incarnation, seq, idx
"""

_BEFORE = """
SELECT incarnation, seq, idx FROM spoken_vector WHERE embedder = $1 AND tenant = $2 AND thread = $3
AND (incarnation, seq, idx) <= ($4, $5, $6) ORDER BY incarnation DESC, seq DESC, idx DESC LIMIT $7
"""

_AFTER = """
SELECT incarnation, seq, idx FROM spoken_vector WHERE embedder = $1 AND tenant = $2 AND thread = $3
AND (incarnation, seq, idx) > ($4, $5, $6) ORDER BY incarnation, seq, idx LIMIT $7
"""
