"""A fork put together from a thread as it was recorded: its history up to an event, and what is changed there. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from actors.agent.conversation import Conversation
from actors.agent.folding import Folding
from actors.agent.fork import Unfit, fold, going_on, past
from bus.store import StoredEvent
from infra.errors import ForkUnfit
from schemas import codec
from schemas.commands import RunAgent
from schemas.forks import Change, Fork, Past
from schemas.profiles import Profile
from schemas.runs import (
    CommandAccepted,
    Event,
    MessageAdded,
    RunQueued,
    RunStarted,
    ThreadForked,
    ToolFailed,
    ToolIndeterminate,
    ToolReturned,
)

OF_THE_RUN = ("model", "prompt", "seed")
"""Changes that hold from there on."""
OF_THE_EVENT = ("message", "tool_result")
"""Changes of the event that is forked at."""
_LARGEST_SEED = (1 << 63) - 1


class Plan(NamedTuple):
    """What to ask for, and what to expect."""

    fork: Fork
    version: int
    """How many events of the run that goes on are history."""
    state: Conversation
    """What the new thread begins with."""


def plan(identity: str, events: Sequence[StoredEvent], at: int, changes: Mapping[str, str]) -> Plan:
    """Put together a fork of thread `identity` after its event number `at`.

    Raises:
        ForkUnfit: with what does not fit, and the mend.
        SchemaError: an event cannot be read.
    """
    if events[0].fact.kind == "generation":
        raise ForkUnfit("ID", f"{identity!r} is a bare generation, which has no history: ask again")
    if any(event.fact.type == "thread.deleted" for event in events):
        raise ForkUnfit("ID", f"{identity!r} was deleted: what was said there is not gone on with")
    if at > len(events):
        raise ForkUnfit("--at", f"{at} is after the last event: {identity!r} has events 1 to {len(events)}")
    decoded = [codec.event_of(event.fact) for event in events]
    taken = [*decoded[: at - 1], _changed(decoded, at, changes)]
    history = tuple(
        Past("run" if stored.fact.kind == "run" else "thread", stored.fact.entity, _plain(event))
        for stored, event in zip(events, taken, strict=False)
        if not _of_a_fork(event)
    )
    if not history:
        raise ForkUnfit("--at", f"event {at} is before anything was said: take a later one")
    thread = events[0].fact.thread
    folding = Folding(Conversation(events[0].fact.tenant, thread))
    emitted = past(history, thread)
    try:
        fold(folding, emitted)
        run = going_on(folding.state, emitted)
    except Unfit as unfit:
        raise ForkUnfit("--at", str(unfit)) from unfit
    profile = _profile(events, decoded, at, run, changes)
    fork = Fork(
        origin=identity.rpartition(":")[2],
        at=at,
        history=history,
        run=run or "",
        profile=None if profile is None else _plain(profile),
        changes=tuple(Change(name, value) for name, value in changes.items()),  # type: ignore[arg-type]  # parsed,
    )
    return Plan(fork, sum((item.kind, item.entity) == ("run", run) for item in history), folding.state)


def _of_a_fork(event: Event) -> bool:
    """Say whether an event is about a fork that the origin itself was: not about the conversation."""
    return isinstance(event, ThreadForked) or (
        isinstance(event, CommandAccepted) and isinstance(event.command.data, Fork)
    )


def _plain(value: object) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(codec.encode(value))
    return fields


def _changed(events: Sequence[Event], at: int, changes: Mapping[str, str]) -> Event:
    """Give the event that is forked at, with what is changed in it."""
    event = events[at - 1]
    if "message" in changes:
        event = _another_message(events, at, changes["message"])
    if "tool_result" in changes:
        found = events[at - 1]
        if not isinstance(found, ToolReturned | ToolFailed | ToolIndeterminate):
            raise _misplaced("tool_result", "the result of a tool", events, at, _is_result)
        writes = found.writes if isinstance(found, ToolReturned) else ()
        event = ToolReturned(found.effect, found.call_id, changes["tool_result"], writes)
    return event


def _another_message(events: Sequence[Event], at: int, text: str) -> Event:
    match events[at - 1]:
        case MessageAdded(message=message) if message.role == "user":
            return MessageAdded(message=replace(message, content=text))
        case CommandAccepted(command=command) if isinstance(command.data, RunAgent) and command.data.text is not None:
            return CommandAccepted(command=replace(command, data=replace(command.data, text=text)))
        case _:
            raise _misplaced("message", "the user's message", events, at, _is_message)


def _is_result(event: Event) -> bool:
    return isinstance(event, ToolReturned | ToolFailed | ToolIndeterminate)


def _is_message(event: Event) -> bool:
    return isinstance(event, MessageAdded) and event.message.role == "user"


def _misplaced(name: str, what: str, events: Sequence[Event], at: int, fits: Any) -> ForkUnfit:
    there = ", ".join(str(number) for number, event in enumerate(events, start=1) if fits(event))
    mend = f"fork at {there}" if there else "this thread has none"
    return ForkUnfit(f"--set {name}", f"event {at} ({codec.tag(events[at - 1])}) is not {what}: {mend}")


def _profile(
    stored: Sequence[StoredEvent], events: Sequence[Event], at: int, run: str | None, changes: Mapping[str, str]
) -> Profile | None:
    """Give what the run is from there on: as it was, with what is changed."""
    wanted = [name for name in OF_THE_RUN if name in changes]
    if run is None:
        if wanted:
            message = f"no run goes on after event {at} ({codec.tag(events[at - 1])}): fork at an earlier one"
            raise ForkUnfit(f"--set {wanted[0]}", message)
        return None
    profile = _recorded_profile(stored, events, at, run)
    if profile is None:
        raise ForkUnfit("--at", f"run {run!r} never began: there is nothing to go on with")
    return replace(
        profile,
        model=changes.get("model", profile.model),
        modes=tuple(replace(mode, model="") for mode in profile.modes) if "model" in changes else profile.modes,
        instructions=changes.get("prompt", profile.instructions),
        sampling=replace(profile.sampling, seed=_seed(changes["seed"])) if "seed" in changes else profile.sampling,
    )


def _recorded_profile(stored: Sequence[StoredEvent], events: Sequence[Event], at: int, run: str) -> Profile | None:
    """Find what a run was at event `at`; where it had not begun there, what it then was."""
    profile: Profile | None = None
    for number, (item, event) in enumerate(zip(stored, events, strict=True), start=1):
        if number > at and profile is not None:
            break
        if isinstance(event, RunStarted | RunQueued) and item.fact.entity == run:
            profile = event.profile
        elif isinstance(event, ThreadForked) and event.run == run:
            profile = event.profile or profile
    return profile


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        seed = _LARGEST_SEED + 1
    if not -_LARGEST_SEED - 1 <= seed <= _LARGEST_SEED:
        raise ForkUnfit("--set seed", f"{text!r} is no whole number of 64 bits: give one such as 7")
    return seed


def parsed(pairs: Sequence[str]) -> dict[str, str]:
    """Read `NAME=VALUE` changes.

    Raises:
        ForkUnfit: one is not of that form, or not a name there is.
    """
    known = (*OF_THE_RUN, *OF_THE_EVENT)
    changes: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in known:
            raise ForkUnfit("--set", f"{pair!r}: write NAME=VALUE, where NAME is one of {', '.join(known)}")
        if name in changes:
            raise ForkUnfit(f"--set {name}", "it is given twice: choose one")
        changes[name] = value
    if {"message", "tool_result"} <= changes.keys():
        raise ForkUnfit("--set", "message and tool_result: one event cannot be both: choose one")
    return changes
