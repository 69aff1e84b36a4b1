"""What was spent on models: told between processes as it happens, and read out of the record when one begins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import msgspec

from bus import subjects
from bus.connection import Connection, Message
from bus.errors import BusError
from bus.store import Store, StoredEvent, read_events
from schemas import codec
from schemas.errors import BadShape
from schemas.generation import run_of
from schemas.messages import Usage
from schemas.models import Spent

_PAGE = 1000


async def tell_spent(connection: Connection, spent: Spent) -> None:
    """Tell the other processes; one that does not hear it knows of it when it begins again."""
    try:
        await connection.publish(subjects.spent(spent.tenant), codec.encode(spent))
    except BusError:
        return


async def hear_spent(connection: Connection, learn: Callable[[Spent], None], own: str) -> None:
    """Hear what others spend, and leave out what comes from this process, which is called `own`.

    Raises:
        Unavailable: the connection is closed.
    """

    async def heed(message: Message) -> None:
        spent: Spent = codec.decode(message.data, Spent)
        if spent.process != own:
            learn(spent)

    await connection.subscribe(subjects.SPENT, heed)


class _Told(msgspec.Struct, frozen=True):
    """As much of what ended a model call as is counted; which model failed is not told."""

    effect: str = ""
    engine: str = ""
    usage: Usage = Usage()
    engines: dict[str, Usage] = {}
    """Of several calls, what each model took."""


async def recorded_spending(store: Store, since: int) -> AsyncIterator[list[Spent]]:
    """Read what was spent from a time on, some calls at a time and the same ones whenever it is asked for.

    Of answers that cannot be read nothing is told.

    Args:
        store: the record.
        since: microseconds since the Unix epoch.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    place = (0, 0, 0)
    while rows := await store.rows(_ANSWERS, since, *place, _PAGE):
        last = rows[-1]
        place = (last["incarnation"], last["seq"], last["idx"])
        told = zip(rows, await read_events(store, rows), strict=True)
        yield [spent for row, stored in told for spent in _spent(stored, row["root"], row["root_run"])]


def _spent(stored: StoredEvent, root: str | None, root_run: str | None) -> list[Spent]:
    fact = stored.fact
    if codec.is_erased(fact.payload):
        return []
    try:
        told: _Told = codec.decode(bytes(fact.payload), _Told)
    except BadShape:
        return []
    run = run_of(told.effect) if fact.kind == "thread" else fact.entity
    of = (root or fact.thread, (root_run if root else None) or run)
    took = told.engines or {told.engine: told.usage}
    return [Spent(stored.time, fact.tenant, *of, model, usage) for model, usage in took.items() if usage != Usage()]


_ANSWERS = """
SELECT event.*, made.root, made.root_run FROM event LEFT JOIN LATERAL (
    SELECT root, root_run FROM runs AS run
    WHERE run.tenant = event.tenant AND run.thread = event.thread AND root <> ''
    AND (run.run = event.entity OR event.type = 'condensing.ended') LIMIT 1
) AS made ON true
WHERE type IN ('model.returned', 'model.failed', 'condensing.ended', 'step.prepared', 'goal.judged')
AND time >= $1 AND (incarnation, seq, idx) > ($2, $3, $4)
ORDER BY incarnation, seq, idx LIMIT $5
"""
