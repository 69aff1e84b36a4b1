"""What is deleted of a thread, beside the log, when its key is destroyed: all that was made of its texts.

One transaction takes the keys, the vectors, the title and notes of projections, snapshots and imported copies. What the
trace kept goes after it, message by message, in JetStream and in Postgres: the model's text piece by piece, and the
scheduler steps that computed it, which hold its tokens. Those steps may have served others too; they are gone for both.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from bus import subjects
from bus.connection import Connection
from bus.dead import drop, letters
from bus.errors import BadSubject, NoSuchLetter, Refused
from bus.projections import THREADS
from bus.store import Store
from bus.streams import NO_MESSAGE, TRACE
from schemas.generation import request_id

_ALL = 1 << 30
_PAGE = 1000
_GONE = frozenset({NO_MESSAGE, 10057})
"""JetStream's codes for a message that is not there, and for one that cannot be deleted, as it is not."""


async def keys_of(store: Store, tenant: str, thread: str) -> set[str]:
    """Name the keys that seal what is recorded of a thread.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    rows = await store.rows(_KEYS, tenant, thread)
    return {row["key_id"] for row in rows}


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


async def destroy(store: Store, keys: Collection[str], tenant: str, thread: str) -> None:
    """Destroy keys, and delete what was made of a thread's texts: all at once.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    async with store.transaction() as connection:
        await connection.execute("DELETE FROM sealing_key WHERE id = ANY($1)", list(keys))
        for table in ("spoken_vector", "snapshot", "projection_state", "bundle_event"):
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


async def delete_traces(connection: Connection, store: Store, tenant: str, thread: str) -> int:
    """Delete what the trace kept of a thread, as far as it is recorded; return how many messages that were.

    Raises:
        BusError: a server cannot be reached.
        TimeoutError: NATS does not answer.
    """
    begins = request_id(tenant, thread, "")
    runs = await store.rows(_RUNS, tenant, thread)
    frames = [subjects.frames(tenant, "run", row["entity"]) for row in runs]
    count = 0
    for sql, values in ((_STEPS, (begins,)), (_FRAMES, (frames,))):
        while rows := await store.rows(sql, *values, _PAGE):
            for row in rows:
                if row["current"]:
                    await _delete(connection, row["seq"])
            await _forget(store, rows)
            count += len(rows)
    await store.rows("DELETE FROM step_request WHERE starts_with(request, $1)", begins)
    return count


async def delete_letters(connection: Connection, tenant: str, thread: str) -> None:
    """Delete the dead letters of a thread.

    Raises:
        BusError: NATS cannot be reached.
        TimeoutError: no answer.
    """
    for letter in await letters(connection, _ALL):
        try:
            where = subjects.parse_command(letter.dead.subject)
            if (where.tenant, where.thread) == (tenant, thread):
                await drop(connection, letter.number)
        except (BadSubject, NoSuchLetter):
            continue


async def _delete(connection: Connection, sequence: int) -> None:
    try:
        # the server writes over it on the disk
        await connection.api(f"STREAM.MSG.DELETE.{TRACE}", {"seq": sequence})
    except Refused as refusal:
        if refusal.code not in _GONE:
            raise


async def _forget(store: Store, rows: Collection[Any]) -> None:
    named = [[row[name] for row in rows] for name in ("incarnation", "seq")]
    await store.rows(_FORGET, *named)


_KEYS = "SELECT DISTINCT key_id FROM event WHERE tenant = $1 AND thread = $2 AND key_id IS NOT NULL"

_UNSEALED = """
SELECT count(*) FROM event WHERE tenant = $1 AND thread = $2 AND key_id IS NULL
AND type NOT IN ('thread.deleted', 'thread.erased')
"""

_ENDED = "SELECT 1 FROM event WHERE tenant = $1 AND thread = $2 AND type = 'thread.deleted' LIMIT 1"

_RUNS = "SELECT DISTINCT entity FROM event WHERE tenant = $1 AND thread = $2 AND kind = 'run'"

_CURRENT = "record.incarnation = (SELECT incarnation FROM cursor WHERE name = 'TRACE') AS current"

_STEPS = f"""
SELECT DISTINCT record.incarnation, record.seq, {_CURRENT} FROM step_request
JOIN record ON record.producer = step_request.epoch AND record.n BETWEEN step_request.first AND step_request.last
AND record.subject = ANY(ARRAY[
    'step.' || engine || '.plan', 'step.' || engine || '.result', 'step.' || engine || '.told'
])
WHERE starts_with(request, $1) LIMIT $2
"""

_FRAMES = f"SELECT incarnation, seq, {_CURRENT} FROM record WHERE subject = ANY($1) LIMIT $2"

_FORGET = """
DELETE FROM record USING unnest($1::integer[], $2::bigint[]) AS gone (incarnation, seq)
WHERE record.incarnation = gone.incarnation AND record.seq = gone.seq
"""
