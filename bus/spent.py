"""How a thread's runs ended, and what was said of its goals: with that what they took, as recorded."""

from __future__ import annotations

from bus.store import Store, read_events
from schemas import codec
from schemas.runs import RunFailed, RunFinished
from schemas.standing import GoalJudged

_ENDS = """
SELECT * FROM event WHERE tenant = $1 AND thread = $2
AND (kind = 'run' AND type IN ('run.finished', 'run.failed') OR type = 'goal.judged')
ORDER BY incarnation, seq, idx
"""


async def ends_of_runs(store: Store, tenant: str, thread: str) -> list[RunFinished | RunFailed | GoalJudged]:
    """List the last words of a thread's runs that are over, and of its goals' judges; what was erased is left out.

    Raises:
        Unavailable: the record, or its keys, cannot be read.
    """
    found = await read_events(store, await store.rows(_ENDS, tenant, thread))
    events = [codec.event_of(stored.fact) for stored in found if not codec.is_erased(stored.fact.payload)]
    return [event for event in events if isinstance(event, RunFinished | RunFailed | GoalJudged)]
