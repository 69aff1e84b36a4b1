"""Verify: re-run the decisions behind a thread's events and compare them with the record. Pure.

Inputs (commands, results of models and tools) are taken from the log; everything the log says was decided is
decided again by today's code. Configuration is an input too: a run's profile is what its record says it was, so
that a later change of an agent's instructions is not a divergence, while a change of the loop is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, takewhile
from typing import Any, NamedTuple

from actors.errors import Divergence, Unreadable
from actors.runtime.machine import Asked, Emitted, Machine, is_result, is_resumption
from schemas import codec
from schemas.batches import BatchCancelling, BatchCreated, BatchFinalizing
from schemas.context import Context
from schemas.errors import SchemaError
from schemas.generation import Sampling
from schemas.memory import CondensingBegun
from schemas.profiles import Profile
from schemas.runs import (
    LOOKED_UP,
    CommandAccepted,
    CommandRefused,
    Event,
    ModelCalled,
    RetryScheduled,
    RunQueued,
    RunStarted,
)
from schemas.schedules import ScheduleFired, SchedulePlanned

_WITH_INPUTS = frozenset({
    "run.started", "run.queued", "model.called", "retry.scheduled", "schedule.planned", "schedule.fired",
    "batch.created", "batch.cancelling", "batch.finalizing", "condensing.begun",
})  # fmt: skip
_BEGINNINGS = {name: f'{{"type":"{name}"'.encode() for name in codec.EVENT_TYPES}
"""How an event's bytes begin: enough to trust its label without decoding it."""


class Recorded(NamedTuple):
    """One event of a thread, as the log holds it."""

    place: str
    """`<sequence>/<index>`."""
    time: int
    kind: str
    entity: str
    version: int
    type: str
    payload: bytes
    cause: str
    sequence: int
    """The envelope's: what one decision produced was committed together."""

    def event(self) -> Event:
        """Decode the payload.

        Raises:
            Unreadable: this code cannot read it.
            Divergence: the bytes are not an event of the recorded type.
        """
        if self.type not in codec.READABLE:
            raise Unreadable(self.place, self.type, "a known event type", f"the unknown type {self.type!r}")
        try:
            event = codec.decode_event(self.payload)
        except SchemaError as error:
            raise Unreadable(self.place, self.type, "a readable event", str(error)) from error
        if self.type in codec.EVENT_TYPES and codec.tag(event) != self.type:
            raise Divergence(self.place, self.type, self.type, f"a payload of type {codec.tag(event)!r}")
        return event


class Verdict(NamedTuple):
    """What a verification counted."""

    events: int
    decisions: int
    open: tuple[str, ...]
    """Effects without a result: under way, or the record does not go further."""


def verify(machine: Machine[Any], tenant: str, thread: str, log: Sequence[Recorded]) -> Verdict:
    """Decide again everything `log` (one thread's events of one family, in log order) says was decided.

    Raises:
        Divergence: the first difference, with the event's name and place, the code's version and the record's.
        Unreadable: before any difference comes an event that this code cannot read.
    """
    state = machine.initial(tenant, thread)
    versions: dict[tuple[str, str], int] = {}
    decisions = position = 0
    while position < len(log):
        first = log[position]
        expected = _decided(machine, state, log, position)
        for offset, emitted in enumerate(expected):
            if position + offset >= len(log):
                raise Divergence(first.place, codec.tag(emitted.event), _shown(emitted.event), "nothing more")
            recorded = log[position + offset]
            _compare(recorded, emitted, first)
            key = (recorded.kind, recorded.entity)
            versions[key] = versions.get(key, 0) + 1
            if recorded.version != versions[key]:
                raise Divergence(
                    recorded.place, recorded.type, f"version {versions[key]}", f"version {recorded.version}"
                )
            state = machine.evolve(state, emitted)
        position += len(expected)
        decisions += 1
    return Verdict(len(log), decisions, tuple(effect.id for effect in machine.open_effects(state)))


def _refused(machine: Machine[Any], state: Any, first: Recorded, event: CommandRefused) -> Sequence[Emitted]:
    """Refuse a command again. Where what it asks for did not fit its agent, only the record can say so."""
    found = event.problem.kind in LOOKED_UP
    decided = machine.ask(state, Asked(event.command, None, event.problem if found else None), _context(first, None))
    told = decided.events[0].event if decided.events else None
    nobody = isinstance(told, CommandRefused) and told.problem.kind == "unknown_agent"
    if found or not nobody or event.problem.kind != "invalid":
        return decided.events
    return machine.ask(state, Asked(event.command, None, event.problem), _context(first, None)).events


def _decided(machine: Machine[Any], state: Any, log: Sequence[Recorded], position: int) -> Sequence[Emitted]:
    """Give the events that today's code says belong at `position`: an input, then what follows from it."""
    first = log[position]
    event = first.event()
    if isinstance(event, CommandAccepted):
        profile, context = _inputs(log, position)
        return machine.ask(state, Asked(event.command, profile), context).events
    if isinstance(event, CommandRefused):
        return _refused(machine, state, first, event)
    if not is_result(event) and not is_resumption(event):
        raise Divergence(first.place, first.type, "a command or an effect's result", f"{_shown(event)} without a cause")
    result = Emitted(first.kind, first.entity, event)
    known = {effect.id for effect in machine.open_effects(state)}
    if event.effect not in known:
        raise Divergence(
            first.place,
            first.type,
            f"a result of {sorted(known)}",
            f"one of {event.effect!r}",
        )
    if is_resumption(event):
        return [result]
    _, context = _inputs(log, position)
    return [result, *machine.follow(machine.evolve(state, result), result, context).events]


def _context(first: Recorded, profile: Profile | None) -> Context:
    return Context(now=first.time, seed=Sampling().seed if profile is None else profile.sampling.seed)


def _inputs(log: Sequence[Recorded], position: int) -> tuple[Profile | None, Context]:
    """Find what was looked up for the input at `position`, and the time and chance that its decision knew, in what was
    committed together with it, for the same cause.

    Only the events that hold it are decoded: of a decision's events most are compared as bytes.
    """
    first = log[position]
    together = takewhile(
        lambda item: (item.sequence, item.cause) == (first.sequence, first.cause), islice(log, position, None)
    )
    for item in together:
        if item.type not in _WITH_INPUTS and item.payload.startswith(_BEGINNINGS.get(item.type, b"?")):
            continue
        match item.event():
            case RunStarted(profile=profile) | RunQueued(profile=profile):
                return profile, _context(first, profile)
            case ModelCalled(model=model, sampling=sampling):
                profile = Profile(agent="", model=model, instructions="", tools=(), sampling=sampling, max_steps=1)
                return profile, _context(first, profile)
            case RetryScheduled(decided=decided, chance=chance):
                return None, Context(now=decided, seed=chance)
            case BatchCreated(at=at) | BatchCancelling(at=at) | BatchFinalizing(at=at) | CondensingBegun(decided=at):
                return None, Context(now=at, seed=0)
            case SchedulePlanned(at=at) | ScheduleFired(due=at):
                return None, Context(now=at, seed=0)
            case _:
                pass
    return None, _context(first, None)


def _compare(recorded: Recorded, emitted: Emitted, first: Recorded) -> None:
    type_ = recorded.type if recorded.type in codec.EVENT_TYPES else codec.tag(recorded.event())
    if (recorded.kind, recorded.entity, type_) != (emitted.kind, emitted.entity, codec.tag(emitted.event)):
        expected = (
            f"{codec.tag(emitted.event)} of {emitted.kind} {emitted.entity!r} after {first.type} at {first.place}"
        )
        actual = f"{recorded.type} of {recorded.kind} {recorded.entity!r}"
        raise Divergence(recorded.place, recorded.type, expected, actual)
    if recorded.payload == codec.encode(emitted.event):
        return
    found = recorded.event()
    if found != emitted.event:  # an old record may have another shape, or spell out what is a default today
        expected, actual = _difference(emitted.event, found)
        raise Divergence(recorded.place, recorded.type, expected, actual)


def _difference(expected: Event, actual: Event) -> tuple[str, str]:
    """Name the first field that differs, with both values."""
    for name in expected.__struct_fields__:
        mine, theirs = getattr(expected, name), getattr(actual, name)
        if mine != theirs:
            return f"{name}={_shown(mine)}", f"{name}={_shown(theirs)}"
    return _shown(expected), _shown(actual)


def _shown(value: object) -> str:
    text = codec.encode(value).decode()
    return text if len(text) <= 300 else text[:300] + "…"
