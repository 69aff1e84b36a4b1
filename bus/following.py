"""What a thread's events mean for the books that are kept of it: a fold, pure, one event at a time.

Of a thread only what is under way is kept between two events (`Place`), so that a thread at rest costs nothing. Each
event gives what changes in the rows of its thread, of its run and of the day's usage.

A fork begins with its origin's history. That is counted where it happened: until `thread.forked` only the thread's
events and messages are counted, which it does hold. A run that ended in the origin has no row here; one that goes on
has a row of its own, which counts what happens from there on.

An event that this code cannot read or follow stops its thread: the thread's row and those of its open runs say so,
and everything after it is counted as unread. One that was erased does not: nobody will ever read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from bus import batched, scheduled
from bus.columns import day, text, whole
from bus.places import AT_REST, Change, Delta, OpenRun, Place, UsageKey
from bus.store import StoredEvent
from schemas import codec
from schemas.commands import Generate, Parent, PostResult, RunAgent
from schemas.delegation import RunHandedOver
from schemas.errors import Erased, SchemaError
from schemas.forks import Fork
from schemas.generation import BROKEN_OFF, run_of
from schemas.hooks import StepPrepared
from schemas.memory import ThreadCreated, ThreadRenamed
from schemas.messages import Usage
from schemas.profiles import Profile
from schemas.runs import (
    CommandAccepted,
    ModelCalled,
    ModelFailed,
    ModelReturned,
    RunFailed,
    RunFinished,
    RunQueued,
    RunStarted,
    ThreadForked,
)
from schemas.standing import GoalJudged

_MOST = 1 << 40
"""Tokens that one call cannot have used."""

_NOTHING = Change({})
_ROOT = ("root", "root_run")


class _Lost(Exception):
    """An event that does not follow from those before it."""


_ALONE = {"generation", "key", "schedule", "batch", "push"}
"""Kinds of entities that have a thread to themselves, and say what such a thread is."""


def follow(place: Place, stored: StoredEvent) -> tuple[Place, Change]:
    """Follow a thread's next event; never fails."""
    if place.stopped:
        return place, _unread(stored)
    try:
        after, change = _read(place, stored)
    except Erased:
        # a schedule may have the name of a thread, and be added again
        after, change = place if stored.fact.kind == "schedule" else replace(place, erased=True), _NOTHING
    except (SchemaError, _Lost) as error:
        reason = f"event {stored.sequence}/{stored.idx} {stored.fact.type!r}: {error}"
        told = tuple((run, {"status": "stopped"}) for run in place.runs) if not place.forking else ()
        unread = _unread(stored)
        stopped = {**unread.thread, "status": "stopped", "stopped": text(reason)}
        return Place(stopped=text(reason)), Change(stopped, told, unread.usage)
    plain = {"events": 1, "first": stored.time, "last": stored.time, "kind": _family(stored)}
    if after is not place or stored.fact.kind == "push":  # nothing of which is ever under way
        plain["status"] = _status(after)
    if change is _NOTHING:
        return after, Change(plain)
    return after, change._replace(thread={**plain, **change.thread})


def _unread(stored: StoredEvent) -> Change:
    """Count an event that was not followed."""
    plain = {"events": 1, "unread": 1, "first": stored.time, "last": stored.time, "kind": _family(stored)}
    return Change(plain, usage=((UsageKey("", "", day(stored.time)), {"unread": 1}),))


def _family(stored: StoredEvent) -> str:
    return stored.fact.kind if stored.fact.kind in _ALONE else "agent"


def _read(place: Place, stored: StoredEvent) -> tuple[Place, Change]:
    type_ = stored.fact.type
    if type_ in _WITHOUT_EFFECT:
        return place, _NOTHING
    whole = _WHOLE.get(type_)
    if whole is not None:
        return whole(place, stored, codec.event_of(stored.fact))
    by_type = _BY_TYPE.get(type_)
    if by_type is None:
        raise _Lost("this code does not know it: written by newer code?")
    if place.erased and type_ != "thread.deleted" and stored.fact.kind != "schedule":
        return place, _NOTHING
    return by_type(place, stored)


def _scheduled(place: Place, stored: StoredEvent, event: Any = None) -> tuple[Place, Change]:
    return place, Change({"status": "idle"}, schedule=scheduled.delta(stored, event))


def _batched(place: Place, stored: StoredEvent, event: Any) -> tuple[Place, Change]:
    return place, Change({"status": "idle"}, batch=batched.delta(stored, event))


def _accepted(place: Place, stored: StoredEvent, event: CommandAccepted) -> tuple[Place, Change]:
    match event.command.data:
        case Fork(origin=origin):
            return replace(place, forking=True), Change({"origin": text(origin)})
        case Generate(model=model):
            run = OpenRun("", text(model), stored.time, "running")
            return _began(place, stored, run, {"kind": "generation", "asked": stored.time})
        case RunAgent(parent=Parent() as parent):
            return replace(place, roots={**place.roots, event.command.id: parent.first}), _NOTHING
        case PostResult(effect=effect):
            return _result_came(place, effect.rsplit("-", 2)[0])
        case _:
            return place, _NOTHING


def _refused(place: Place, stored: StoredEvent) -> tuple[Place, Change]:
    return place, Change({"refused": 1})


def _said(place: Place, stored: StoredEvent) -> tuple[Place, Change]:
    return place, Change({"messages": 1})


def _queued(place: Place, stored: StoredEvent, event: RunQueued) -> tuple[Place, Change]:
    run = _run(event.profile, stored.time, "queued")
    place, root = _rooted(place, stored)
    told = {**_named(run), "kind": "agent", "status": "queued", "asked": stored.time, **root}
    return _with(place, stored, run), _told(place, stored, told)


def _started(place: Place, stored: StoredEvent, event: RunStarted) -> tuple[Place, Change]:
    queued = place.runs.get(stored.fact.entity)
    run = _run(event.profile, queued.asked if queued is not None else stored.time, "running")
    place, root = _rooted(place, stored)
    return _began(place, stored, run, {"kind": "agent", "asked": run.asked, **root})


def _rooted(place: Place, stored: StoredEvent) -> tuple[Place, Delta]:
    """Take out whom a run that begins is for, where it is another agent's."""
    roots = dict(place.roots)
    found = roots.pop(stored.fact.entity, None)
    return (
        (place, {}) if found is None else (replace(place, roots=roots), dict(zip(_ROOT, map(text, found), strict=True)))
    )


def _began(place: Place, stored: StoredEvent, run: OpenRun, more: Delta) -> tuple[Place, Change]:
    told = {**_named(run), "status": "running", "started": stored.time, **more}
    change = _told(place, stored, told, (_key(run, stored), {"runs": 1}))
    named = {"agent": run.agent} if run.agent else {}
    return _with(place, stored, run), change._replace(thread=named if place.forking else {**named, "runs": 1})


def _called_model(place: Place, stored: StoredEvent, event: ModelCalled) -> tuple[Place, Change]:
    run = replace(_open(place, stored), model=text(event.model), status="running", waits=0)
    told = {"model": run.model, "status": "running", "model_calls": 1}
    return _with(place, stored, run), _told(place, stored, told, (_key(run, stored), {"model_calls": 1}))


def _model_returned(place: Place, stored: StoredEvent, event: ModelReturned) -> tuple[Place, Change]:
    run = _open(place, stored)
    used = _used(event.usage)
    if stored.fact.kind != "generation":
        return place, _told(place, stored, used, (_key(run, stored), used))
    if event.finish_reason in BROKEN_OFF:
        return _ended(place, stored, "failed", event.finish_reason, used)
    return _ended(place, stored, "finished", event.finish_reason, used)


def _model_failed(place: Place, stored: StoredEvent, event: ModelFailed) -> tuple[Place, Change]:
    run, used = _open(place, stored), _used(event.usage)
    if stored.fact.kind != "generation":  # the run's own end follows
        return place, _told(place, stored, used, (_key(run, stored), used)) if any(used.values()) else _NOTHING
    return _ended(place, stored, "failed", event.problem.kind)


def _step_prepared(place: Place, stored: StoredEvent, event: StepPrepared) -> tuple[Place, Change]:
    run, used = _open(place, stored), _used(event.usage)
    took = event.engines or {run.model: event.usage}
    days = [(_key(replace(run, model=text(model)), stored), _used(usage)) for model, usage in took.items()]
    return place, _told(place, stored, used, *days) if any(used.values()) else _NOTHING


def _goal_judged(place: Place, stored: StoredEvent, event: GoalJudged) -> tuple[Place, Change]:
    used, key = _used(event.usage), UsageKey(text(event.agent), text(event.engine), day(stored.time))
    if place.forking or not any(used.values()):
        return place, _NOTHING
    return place, Change({}, ((run_of(event.effect), used),), ((key, used),))


def _run_ended(place: Place, stored: StoredEvent, event: RunFinished | RunFailed) -> tuple[Place, Change]:
    if isinstance(event, RunFinished):
        return _ended(place, stored, "finished", event.finish_reason)
    return _ended(place, stored, "failed", event.problem.kind)


def _joined(place: Place, stored: StoredEvent) -> tuple[Place, Change]:
    return _ended(place, stored, "finished", "joined")


def _handed_over(place: Place, stored: StoredEvent, event: RunHandedOver) -> tuple[Place, Change]:
    run = replace(_open(place, stored), agent=text(event.agent))
    return _with(place, stored, run), _told(place, stored, {"agent": run.agent})


def _ended(
    place: Place, stored: StoredEvent, status: str, reason: str, used: Mapping[str, int] | None = None
) -> tuple[Place, Change]:
    run = _open(place, stored)
    after = replace(place, runs={name: other for name, other in place.runs.items() if name != stored.fact.entity})
    told = {"status": status, "reason": text(reason), "finished": stored.time, **(used or {})}
    counted = {**(used or {}), **({"failed": 1} if status == "failed" else {})}
    return after, _told(place, stored, told, (_key(run, stored), counted))


def _called_tool(place: Place, stored: StoredEvent) -> tuple[Place, Change]:
    run = _open(place, stored)
    return place, _told(place, stored, {"tool_calls": 1}, (_key(run, stored), {"tool_calls": 1}))


def _waits_for_somebody(place: Place, stored: StoredEvent) -> tuple[Place, Change]:
    return _waiting(place, stored, 1)


def _settled(place: Place, stored: StoredEvent) -> tuple[Place, Change]:
    return _waiting(place, stored, -1)


def _result_came(place: Place, name: str) -> tuple[Place, Change]:
    """Settle a call that the caller ran: what it came to is told as any tool's result is."""
    run = place.runs.get(name)
    if run is None:
        return place, _NOTHING
    run = _waits(run, -1)
    change = _NOTHING if place.forking else Change({}, ((name, {"status": run.status}),))
    return replace(place, runs={**place.runs, name: run}), change


def _waiting(place: Place, stored: StoredEvent, more: int) -> tuple[Place, Change]:
    run = _waits(_open(place, stored), more)
    return _with(place, stored, run), _told(place, stored, {"status": run.status})


def _waits(run: OpenRun, more: int) -> OpenRun:
    waits = max(0, run.waits + more)
    return replace(run, waits=waits, status="waiting" if waits else "running")


def _forked(place: Place, stored: StoredEvent, event: ThreadForked) -> tuple[Place, Change]:
    """Leave the origin: the runs that are open there go on here, each with a row of its own."""
    runs = dict(place.runs)
    if event.profile is not None and event.run in runs:
        runs[event.run] = replace(runs[event.run], agent=text(event.profile.agent), model=text(event.profile.model))
    told, counted = [], []
    for name, run in runs.items():
        runs[name] = replace(run, asked=stored.time)
        row = {**_named(run), "kind": "agent", "status": run.status, "asked": stored.time, "forked": True}
        if run.status != "queued":
            row["started"] = stored.time
            counted.append((_key(run, stored), {"runs": 1}))
        told.append((name, row))
    after = Place(runs=runs)
    return after, Change({"runs": len(counted), "origin": text(event.origin)}, tuple(told), tuple(counted))


def _created(place: Place, stored: StoredEvent, event: ThreadCreated) -> tuple[Place, Change]:
    return place, Change({"resource": text(event.resource), **_titled(event)})


def _renamed(place: Place, stored: StoredEvent, event: ThreadRenamed) -> tuple[Place, Change]:
    return place, Change(_titled(event))


def _titled(event: ThreadCreated | ThreadRenamed) -> dict[str, Any]:
    metadata = {whole(name): whole(value) for name, value in event.metadata.items()}
    return {"title": text(event.title), "metadata": codec.encode(metadata).decode() if metadata else ""}


def _deleted(place: Place, stored: StoredEvent) -> tuple[Place, Change]:
    # where the ends of its runs were erased before they were read, they ended here all the same
    ended = {"status": "failed", "reason": "aborted", "finished": stored.time}
    runs = () if place.forking else tuple((name, ended) for name in place.runs)
    return AT_REST, Change({"status": "deleted", "resource": "", "title": "", "metadata": ""}, runs)


def _open(place: Place, stored: StoredEvent) -> OpenRun:
    run = place.runs.get(stored.fact.entity)
    if run is None:
        raise _Lost(f"{stored.fact.kind} {stored.fact.entity!r} is not under way")
    return run


def _with(place: Place, stored: StoredEvent, run: OpenRun) -> Place:
    return replace(place, runs={**place.runs, stored.fact.entity: run})


def _told(place: Place, stored: StoredEvent, run: Delta, *usage: tuple[UsageKey, Delta]) -> Change:
    """Change the event's own run, unless it happened elsewhere."""
    if place.forking:
        return _NOTHING
    return Change({}, ((stored.fact.entity, run),), usage)


def _run(profile: Profile, asked: int, status: str) -> OpenRun:
    return OpenRun(text(profile.agent), text(profile.model), asked, status)


def _named(run: OpenRun) -> dict[str, Any]:
    return {"agent": run.agent, "model": run.model}


def _key(run: OpenRun, stored: StoredEvent) -> UsageKey:
    return UsageKey(run.agent, run.model, day(stored.time))


def _used(usage: Usage) -> dict[str, int]:
    used = {name: getattr(usage, name) for name in ("prompt_tokens", "completion_tokens", "cached_tokens")}
    if not all(0 <= count < _MOST for count in used.values()):
        raise _Lost(f"no call uses {used}")
    return used


def _status(place: Place) -> str:
    if not place.runs:
        return "idle"
    found = {run.status for run in place.runs.values()}
    return next(status for status in ("waiting", "running", "queued") if status in found)


_Whole = Callable[[Place, StoredEvent, Any], tuple[Place, Change]]

_WHOLE: Mapping[str, _Whole] = {
    "command.accepted": _accepted,
    "run.queued": _queued,
    "run.started": _started,
    "model.called": _called_model,
    "model.returned": _model_returned,
    "model.failed": _model_failed,
    "step.prepared": _step_prepared,
    "goal.judged": _goal_judged,
    "run.finished": _run_ended,
    "run.failed": _run_ended,
    "run.handed_over": _handed_over,
    "thread.forked": _forked,
    "thread.created": _created,
    "thread.renamed": _renamed,
    **dict.fromkeys(scheduled.WHOLE, _scheduled),
    **dict.fromkeys(batched.WHOLE, _batched),
}
"""Events that are read whole."""

_BY_TYPE: Mapping[str, Callable[[Place, StoredEvent], tuple[Place, Change]]] = {
    "command.refused": _refused,
    "message.added": _said,
    "approval.requested": _waits_for_somebody,
    "tool.suspended": _waits_for_somebody,
    "tool.handed_over": _waits_for_somebody,
    "tool.continued": _settled,
    "approval.given": _settled,
    "approval.denied": _settled,
    "tool.called": _called_tool,
    "thread.deleted": _deleted,
    "run.joined": _joined,
    **dict.fromkeys(scheduled.BY_TYPE, _scheduled),
}
"""Events of which the type says enough."""

_WITHOUT_EFFECT = frozenset({
    "batch.expired", "batch.lines_begun",
    "child.disowned", "child.ended", "condensing.begun", "condensing.ended", "deadline.passed", "goal.cleared",
    "goal.judging", "goal.paused", "goal.resumed", "goal.set", "grant.withdrawn", "hooks.told", "memory.observed",
    "memory.written", "mode.changed", "push.forgotten", "push.noticed", "push.tried", "ownership.taken", "retry.due",
    "retry.scheduled", "schedule.closed", "schedule.due", "schedule.erased", "schedule.missed", "schedule.sent",
    "step.opened", "task.cancelled", "task.ended", "task.started", "thread.erased", "tool.failed", "tool.granted",
    "tool.indeterminate", "tool.resumed", "tool.returned", "working.written",
})  # fmt: skip
"""Events that change no row but their thread's count and time."""

FOLLOWED = frozenset({*_WHOLE, *_BY_TYPE, *_WITHOUT_EFFECT})
"""Every type that is known here; a test sees that it is every type there is."""
WHOLE = tuple(sorted(_WHOLE))
"""The types whose payload is needed."""
