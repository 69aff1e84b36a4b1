"""What is deleted of a thread, beside the log, when its key is destroyed: all that was made of its texts.

One transaction takes the keys, the vectors, the title and notes of projections, snapshots and imported copies. What the
trace kept goes after it, message by message: the pieces of the model's text, and the tokens in the scheduler steps that
computed it. What those steps say of others stays in Postgres.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from bus import subjects
from bus.connection import Connection
from bus.dead import drop, letters
from bus.errors import BadSubject, NoSuchLetter, Refused
from bus.projections import THREADS
from bus.scrubbing import Wanted, sampled_by, scrubbed_more, scrubbed_plan, scrubbed_result
from bus.store import Store
from bus.streams import NO_MESSAGE, TRACE
from schemas import codec
from schemas.errors import SchemaError
from schemas.generation import request_id
from schemas.live import Delta, Traced
from schemas.steps import StepPlan, StepResult, ToldMore

T = TypeVar("T")

_ALL = 1 << 30
_PAGE = 1000
_BEHIND = 8
"""Steps after the last one that served a request in which its tokens may still be told."""
_GONE = frozenset({NO_MESSAGE, 10043, 10057})
"""JetStream's codes for a message that is not there: another thread that shared a step was erased, or it expired."""


async def keys_of(store: Store, tenant: str, thread: str) -> set[str]:
    """Name the keys that seal what is recorded of a thread.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    rows = await store.rows(_KEYS, tenant, thread)
    return {row["key_id"] for row in rows}


async def runs_of_thread(store: Store, tenant: str, thread: str) -> list[str]:
    """Name the runs of a thread, as far as they are recorded.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    return [row["entity"] for row in await store.rows(_RUNS, tenant, thread)]


async def unsealed(store: Store, tenant: str, thread: str) -> int:
    """Count the recorded events of a thread that are in the log unsealed.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    (row,) = await store.rows(_UNSEALED, tenant, thread)
    found: int = row["count"]
    return found


async def is_recorded(store: Store, tenant: str, thread: str) -> bool:
    """Say whether the thread's end is recorded, and all before it.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    return bool(await store.rows(_ENDED, tenant, thread))


async def destroy_of_schedule(store: Store, key: str | None, tenant: str, schedule: str) -> int:
    """Destroy a schedule's key, and delete what was made of its texts; return how many events are unsealed.

    A thread of the same name stays as it is.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    async with store.transaction() as connection:
        await connection.execute("DELETE FROM sealing_key WHERE id = $1", key)
        for table, column in (("snapshot", "family"), ("bundle_event", "kind")):
            where = f"tenant = $1 AND thread = $2 AND {column} = 'schedule'"
            await connection.execute(f"DELETE FROM {table} WHERE {where}", tenant, schedule)
        found: int = await connection.fetchval(_UNSEALED_OF_SCHEDULE, tenant, schedule)
    return found


async def destroy(store: Store, keys: Collection[str], tenant: str, thread: str) -> None:
    """Destroy keys, and delete what was made of a thread's texts: all at once.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    async with store.transaction() as connection:
        await connection.execute("DELETE FROM sealing_key WHERE id = ANY($1)", list(keys))
        for table in ("spoken_vector", "unindexed", "snapshot", "projection_state", "bundle_event"):
            await connection.execute(f"DELETE FROM {table} WHERE tenant = $1 AND thread = $2", tenant, thread)
        # every build: also the one that is being made
        bare = "resource = '', title = '', metadata = ''"
        await connection.execute(f"UPDATE {THREADS.table} SET {bare} WHERE tenant = $1 AND thread = $2", tenant, thread)


async def traced_up_to(connection: Connection) -> int:
    """Say where the trace ends now.

    Raises:
        BusError: NATS does not say.
        TimeoutError: no answer.
    """
    return int((await connection.api(f"STREAM.INFO.{TRACE}"))["state"]["last_seq"])


async def scrub_traces(connection: Connection, store: Store, tenant: str, thread: str) -> int:
    """Take a thread out of what the trace kept, as far as it is recorded; return how many messages that were about.

    JetStream's copies are deleted; in Postgres zeros stand where the tokens were, and pieces of text are empty. Pieces
    that are sealed are left where they are.

    Raises:
        BusError: a server cannot be reached.
        TimeoutError: NATS does not answer.
    """
    begins, count = request_id(tenant, thread, ""), 0
    for row in await store.rows(_RANGES, begins):
        count += await _scrub_steps(connection, store, tuple(row.values()), begins)
    frames = [subjects.frames(tenant, "run", run) for run in await runs_of_thread(store, tenant, thread)]
    scrubbed = [(row, _wordless(bytes(row["payload"]))) for row in await store.rows(_FRAMES, frames)]
    return count + await _keep(connection, store, scrubbed)


async def _scrub_steps(connection: Connection, store: Store, place: tuple[Any, ...], begins: str) -> int:
    """Scrub the steps of one scheduler's run that may have served a thread."""
    engine, epoch, first, last = place

    def wanted(request: str) -> bool:
        return request.startswith(begins)

    sampled: dict[int, tuple[str, ...]] = {}
    count, names = 0, [f"step.{engine}.{kind}" for kind in ("plan", "told", "result")]
    for start in range(first, last + _BEHIND, _PAGE):
        end = min(start + _PAGE, last + _BEHIND)
        rows = await store.rows(_STEPS, names, epoch, start, end)
        scrubbed = [(row, _scrubbed(row, wanted, sampled)) for row in rows]
        count += await _keep(connection, store, scrubbed)
    return count


async def _keep(connection: Connection, store: Store, scrubbed: Collection[tuple[Any, bytes]]) -> int:
    """Keep what is left where something was taken out; return how often that was."""
    touched = [(row, data) for row, data in scrubbed if data != row["payload"]]
    await _delete(connection, [row for row, _ in touched])
    await store.rows(_KEEP, *_places([row for row, _ in touched]), [data for _, data in touched])
    return len(touched)


def _wordless(payload: bytes) -> bytes:
    """Take the words out of a piece of text; what is sealed has none that can be read."""
    try:
        frame: Traced = codec.decode(payload, Traced)
    except SchemaError:
        return payload
    if not isinstance(frame, Delta) or frame.key:
        return payload
    return codec.encode(Delta(frame.subject, frame.thread, frame.effect, frame.version, frame.offset, ""))


def _scrubbed(row: Any, wanted: Wanted, sampled: dict[int, tuple[str, ...]]) -> bytes:
    kind, payload = row["subject"].rpartition(".")[2], bytes(row["payload"])
    try:
        if kind == "result":
            return _encoded(payload, codec.decode(payload, StepResult), lambda one: scrubbed_result(one, wanted))
        if kind == "told":
            return _encoded(payload, codec.decode(payload, ToldMore), lambda one: scrubbed_more(one, wanted, sampled))
        plan: StepPlan = codec.decode(payload, StepPlan)
    except SchemaError:
        return payload
    sampled[plan.n] = sampled_by(plan)
    return _encoded(payload, plan, lambda one: scrubbed_plan(one, wanted, sampled))


def _encoded(payload: bytes, before: T, scrub: Callable[[T], T]) -> bytes:
    """Encode what is left; the same bytes where nothing was to be taken out."""
    after = scrub(before)
    return payload if after == before else codec.encode(after)


async def delete_letters(connection: Connection, tenant: str, thread: str, kind: str = "agent") -> None:
    """Delete the dead letters of a thread, or of what else has its commands.

    Raises:
        BusError: NATS cannot be reached.
        TimeoutError: no answer.
    """
    for letter in await letters(connection, _ALL):
        try:
            where = subjects.parse_command(letter.dead.subject)
            if (where.tenant, where.kind, where.thread) == (tenant, kind, thread):
                await drop(connection, letter.number)
        except (BadSubject, NoSuchLetter):
            continue


async def _delete(connection: Connection, rows: Collection[Any]) -> None:
    for row in rows:
        if not row["current"]:
            continue
        try:
            # the server writes over it on the disk
            await connection.api(f"STREAM.MSG.DELETE.{TRACE}", {"seq": row["seq"]})
        except Refused as refusal:
            if refusal.code not in _GONE:
                raise


def _places(rows: Collection[Any]) -> list[list[int]]:
    return [[row[name] for row in rows] for name in ("incarnation", "seq")]


_KEYS = """
SELECT DISTINCT key_id FROM event WHERE tenant = $1 AND thread = $2 AND kind <> 'schedule' AND key_id IS NOT NULL
"""

_UNSEALED = """
SELECT count(*) FROM event WHERE tenant = $1 AND thread = $2 AND kind <> 'schedule' AND key_id IS NULL
AND type NOT IN ('thread.deleted', 'thread.erased')
"""

_UNSEALED_OF_SCHEDULE = """
SELECT count(*) FROM event WHERE tenant = $1 AND kind = 'schedule' AND entity = $2 AND key_id IS NULL
AND type NOT IN ('schedule.removed', 'schedule.closed', 'schedule.erased')
"""

_ENDED = "SELECT 1 FROM event WHERE tenant = $1 AND thread = $2 AND type = 'thread.deleted' LIMIT 1"

_RUNS = "SELECT DISTINCT entity FROM event WHERE tenant = $1 AND thread = $2 AND kind = 'run'"

_CURRENT = "record.incarnation = (SELECT incarnation FROM cursor WHERE name = 'TRACE') AS current"

_RANGES = """
SELECT engine, epoch, min(first), max(last) FROM step_request WHERE starts_with(request, $1) GROUP BY engine, epoch
"""

# plans before results: what these sampled is told by those
_STEPS = f"""
SELECT incarnation, seq, subject, payload, {_CURRENT} FROM record
WHERE subject = ANY($1) AND producer = $2 AND n >= $3 AND n < $4 ORDER BY n, seq
"""

_FRAMES = f"SELECT incarnation, seq, payload, {_CURRENT} FROM record WHERE subject = ANY($1)"

_KEEP = """
UPDATE record SET payload = kept.payload
FROM unnest($1::integer[], $2::bigint[], $3::bytea[]) AS kept (incarnation, seq, payload)
WHERE record.incarnation = kept.incarnation AND record.seq = kept.seq
"""
