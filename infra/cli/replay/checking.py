"""One thread checked: its decisions made again and compared, and the outcome as data. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from actors.errors import Divergence, Unreadable
from actors.machines import MACHINES
from actors.runtime.cells import FAMILY
from actors.runtime.replay import Recorded, verify
from bus.errors import LogDamaged
from bus.snapshots import check_version
from bus.store import StoredEvent
from schemas import codec


class Checked(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of checking a thread."""

    thread: str
    ok: bool
    state: Literal["same", "differs", "unreadable", "redacted", "erased"]
    tenant: str
    events: int
    decisions: int = 0
    open: tuple[str, ...] = ()
    """Effects without a result."""
    place: str = ""
    """Of the first event that differs or cannot be read, `<sequence>/<index>`."""
    event: str = ""
    expected: str = ""
    actual: str = ""


def check(events: Sequence[StoredEvent]) -> Checked:
    """Decide again what a thread's events say was decided; whatever is wrong with them is the outcome."""
    first = events[0].fact
    if any(codec.is_erased(event.fact.payload) for event in events):
        return erased(events)
    machine = MACHINES[FAMILY[first.kind]]
    try:
        verdict = verify(machine, first.tenant, first.thread, [_recorded(event) for event in events])
    except Divergence as found:
        return Checked(
            thread=first.thread,
            ok=False,
            state="unreadable" if isinstance(found, Unreadable) else "differs",
            tenant=first.tenant,
            events=len(events),
            place=found.place,
            event=found.event,
            expected=found.expected,
            actual=found.actual,
        )
    except Exception as error:  # noqa: BLE001  events that nobody ever decided may break the fold: that thread alone
        return Checked(
            thread=first.thread,
            ok=False,
            state="unreadable",
            tenant=first.tenant,
            events=len(events),
            place=f"{events[0].sequence}/{events[0].idx}",
            event=first.type,
            expected="events that follow from one another",
            actual=f"some that break the fold: {error!r}",
        )
    return Checked(first.thread, True, "same", first.tenant, len(events), verdict.decisions, verdict.open)


def erased(events: Sequence[StoredEvent]) -> Checked:
    """Check of a thread whose texts were erased what is left: that each event follows on the one before it."""
    first, versions = events[0].fact, dict[tuple[str, str], int]()
    for event in events:
        fact = event.fact
        try:
            check_version(versions, event.sequence, fact)
        except LogDamaged as damage:
            return Checked(
                thread=first.thread,
                ok=False,
                state="differs",
                tenant=first.tenant,
                events=len(events),
                place=f"{event.sequence}/{event.idx}",
                event=fact.type,
                expected="the next version",
                actual=str(damage),
            )
        versions[fact.kind, fact.entity] = fact.version
    return Checked(first.thread, True, "erased", first.tenant, len(events))


def unchecked(events: Sequence[StoredEvent]) -> Checked:
    """Say that a thread's texts were redacted: what was decided depends on them, so nothing can be decided again."""
    first = events[0].fact
    return Checked(first.thread, False, "redacted", first.tenant, len(events))


def _recorded(event: StoredEvent) -> Recorded:
    fact = event.fact
    return Recorded(
        f"{event.sequence}/{event.idx}",
        event.time,
        fact.kind,
        fact.entity,
        fact.version,
        fact.type,
        bytes(fact.payload),
        fact.cause,
        event.sequence,
    )
