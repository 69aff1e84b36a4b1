"""What schedules decide: a clock in the hand, no waiting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from actors.runtime.machine import Asked, Emitted
from actors.schedules.machine import AwaitDue, CloseSchedule, EraseSchedule, ScheduleMachine, ScheduleState, SendRun
from schemas.commands import Command
from schemas.context import Context
from schemas.runs import CommandAccepted, CommandRefused, Event, Problem
from schemas.schedules import (
    AddSchedule,
    FireSchedule,
    PauseSchedule,
    RemoveSchedule,
    Schedule,
    ScheduleClosed,
    ScheduleDue,
    ScheduleErased,
    ScheduleFired,
    ScheduleMissed,
    SchedulePaused,
    SchedulePlanned,
    ScheduleRemoved,
    ScheduleSent,
    UnpauseSchedule,
)

MINUTE = 60_000_000
NOON = 1_767_268_800_000_000
HOURLY = Schedule("0 * * * *", "digest", "What is new?")


@dataclass
class Desk:
    """One schedule, and whoever owns it."""

    now: int = NOON
    state: ScheduleState = field(default_factory=lambda: ScheduleState("acme", "hourly"))
    asked: int = 0
    log: list[Event] = field(default_factory=list)
    machine: ScheduleMachine = field(default_factory=ScheduleMachine)

    def ask(self, data: Any) -> list[Event]:
        self.asked += 1
        verb = str(data.__struct_config__.tag)
        command = Command(f"c{self.asked}", "acme", "schedule", "hourly", verb, data, source="cli")
        return self.fold(self.machine.ask(self.state, Asked(command), Context(self.now, 7)).events)

    def due(self) -> list[Event]:
        (waited,) = [effect for effect in self.effects() if isinstance(effect, AwaitDue)]
        return self.result(ScheduleDue(waited.id, max(self.now, waited.at)))

    def result(self, event: Event) -> list[Event]:
        result = Emitted("schedule", "hourly", event)
        self.fold([result])
        return self.fold(self.machine.follow(self.state, result, Context(self.now, 7)).events)

    def fold(self, events: Sequence[Emitted]) -> list[Event]:
        for emitted in events:
            self.state = self.machine.evolve(self.state, emitted)
            self.log.append(emitted.event)
        return [emitted.event for emitted in events]

    def effects(self) -> Sequence[Any]:
        return self.machine.open_effects(self.state)


def added(**about: Any) -> Desk:
    desk = Desk()
    desk.ask(AddSchedule(Schedule("0 * * * *", "digest", "What is new?", **about)))
    return desk


def fires(events: Sequence[Event]) -> list[str]:
    return [event.run for event in events if isinstance(event, ScheduleFired)]


def test_a_schedule_waits_until_it_is_due_then_asks_and_waits_again() -> None:
    desk = added()
    (waited,) = desk.effects()
    assert waited.at == NOON + 60 * MINUTE
    desk.now = waited.at
    assert desk.due() == [
        ScheduleFired("hourly-1767272400", "hourly-1767272400", waited.at),
        SchedulePlanned(waited.at, waited.at + 60 * MINUTE),
    ]
    sending, waiting = desk.effects()
    assert isinstance(sending, SendRun)
    assert sending.command.data.agent == "digest"
    assert sending.command.thread == sending.command.id == "hourly-1767272400"
    desk.result(ScheduleSent(sending.id))
    assert desk.effects() == [waiting]


def test_fires_of_a_fixed_thread_go_into_that() -> None:
    desk = added(thread="news")
    desk.now += 60 * MINUTE
    desk.due()
    assert desk.effects()[0].command.thread == "news"


@pytest.mark.parametrize(
    ("about", "hours", "made_up_for"),
    [
        ({"missed": "skip"}, 5.5, 0),
        ({"missed": "skip"}, 5, 1),
        ({"missed": "once"}, 5.5, 1),
        ({"missed": "all"}, 5.5, 5),
        ({"missed": "all", "most": 3}, 5.5, 3),
        ({"missed": "all", "most": 3}, 24 * 365, 3),
    ],
)
def test_what_was_missed_is_made_up_for_as_said(about: dict[str, Any], hours: float, made_up_for: int) -> None:
    desk = added(**about)
    desk.now += int(60 * hours) * MINUTE
    events = desk.due()
    last = NOON + int(hours) * 60 * MINUTE
    dues = [last - 60 * MINUTE * back for back in reversed(range(made_up_for))]
    assert fires(events) == [f"hourly-{due // 1_000_000}" for due in dues]
    missed = [event for event in events if isinstance(event, ScheduleMissed)]
    first = NOON + 60 * MINUTE
    before = dues[0] if dues else desk.now + 1
    assert missed == ([ScheduleMissed(first, before)] if first < before else [])
    assert events[-1] == SchedulePlanned(desk.now, last + 60 * MINUTE)


def test_a_fire_that_is_a_little_late_was_not_missed() -> None:
    desk = added(missed="skip")
    desk.now += 61 * MINUTE
    assert fires(desk.due()) == ["hourly-1767272400"]


def test_what_was_due_in_a_pause_is_not_missed() -> None:
    desk = added(missed="all")
    assert desk.ask(PauseSchedule())[1:] == [SchedulePaused("cli")]
    assert desk.ask(PauseSchedule())[1:] == []
    assert desk.effects() == []
    desk.now += 150 * MINUTE
    assert desk.ask(UnpauseSchedule())[1:] == [SchedulePlanned(desk.now, NOON + 180 * MINUTE)]
    assert desk.ask(UnpauseSchedule())[1:] == []


def test_it_fires_now_as_well_and_paused_too() -> None:
    desk = added()
    planned = desk.state.next
    desk.ask(PauseSchedule())
    desk.now += MINUTE
    assert desk.ask(FireSchedule())[1:] == [ScheduleFired("hourly-n1", "hourly-n1", desk.now, "cli")]
    assert desk.ask(FireSchedule())[1:] == [ScheduleFired("hourly-n2", "hourly-n2", desk.now, "cli")]
    assert [effect.id for effect in desk.effects()] == ["hourly-n1", "hourly-n2"]
    assert planned is not None


def test_what_was_fired_is_sent_though_it_was_removed() -> None:
    desk = added()
    desk.ask(FireSchedule())
    assert desk.ask(RemoveSchedule())[1:] == [ScheduleRemoved("cli")]
    assert [effect.id for effect in desk.effects()] == ["hourly-n1"]
    (refused,) = desk.ask(FireSchedule())
    assert isinstance(refused, CommandRefused)
    desk.ask(AddSchedule(HOURLY))
    assert fires(desk.ask(FireSchedule())) == ["hourly-n2"]  # another run than before


def removed() -> Desk:
    desk = added()
    desk.ask(FireSchedule())
    desk.ask(RemoveSchedule())
    return desk


def erased(desk: Desk) -> Desk:
    """Have done what is left to do of one that was removed."""
    (sending,) = desk.effects()
    desk.result(ScheduleSent(sending.id))
    (closing,) = desk.effects()
    desk.result(ScheduleClosed(closing.id, closing.commands, closing.by_hand))
    desk.result(ScheduleErased(desk.effects()[0].id))
    return desk


def test_what_was_removed_is_closed_and_erased_when_all_that_it_fired_is_sent() -> None:
    desk = removed()
    assert not any(isinstance(effect, CloseSchedule | EraseSchedule) for effect in desk.effects())
    desk.result(ScheduleSent("hourly-n1"))
    (closing,) = desk.effects()
    assert (closing.id, closing.commands, closing.by_hand) == ("hourly-c", ("c1", "c2", "c3"), 1)
    desk.result(ScheduleClosed(closing.id, closing.commands, closing.by_hand))
    assert desk.effects() == [EraseSchedule("hourly-e", "schedule", "hourly", "")]
    desk.result(ScheduleErased("hourly-e"))
    assert desk.effects() == []


def test_an_effect_that_follows_from_the_last_send_is_begun_with_it() -> None:
    desk = removed()
    sent = Emitted("schedule", "hourly", ScheduleSent("hourly-n1"))
    desk.fold([sent])
    decided = desk.machine.follow(desk.state, sent, Context(desk.now, 7))
    assert [effect.id for effect in decided.effects] == ["hourly-c"]


def test_what_is_folded_without_its_key_comes_to_what_was_folded_with_it() -> None:
    desk = erased(removed())
    legible = [event for event in desk.log if isinstance(event, ScheduleRemoved | ScheduleClosed | ScheduleErased)]
    blind = Desk()
    blind.fold([Emitted("schedule", "hourly", event) for event in legible])
    assert blind.state == desk.state
    assert "What is new?" not in repr(desk.state)
    assert desk.machine.answered(desk.state, "c2") == "accepted"
    desk.ask(AddSchedule(HOURLY))
    assert fires(desk.ask(FireSchedule())) == ["hourly-n2"]  # another run than before it was removed


def test_what_is_erased_is_not_there() -> None:
    desk = erased(removed())
    assert desk.effects() == []
    assert isinstance(desk.ask(FireSchedule())[0], CommandRefused)


def test_a_command_that_comes_again_is_known() -> None:
    desk = added()
    assert desk.machine.answered(desk.state, "c1") == "accepted"
    desk.ask(AddSchedule(Schedule("nonsense", "digest", "?")))
    assert isinstance(desk.machine.answered(desk.state, "c2"), Problem)
    assert desk.machine.answered(desk.state, "c3") is None


@pytest.mark.parametrize("data", [PauseSchedule(), UnpauseSchedule(), FireSchedule(), RemoveSchedule()])
def test_what_was_never_added_is_refused(data: Any) -> None:
    (refused,) = Desk().ask(data)
    assert isinstance(refused, CommandRefused)
    assert refused.problem.field == "schedule"


def test_an_id_that_leaves_no_room_for_those_of_runs_is_refused() -> None:
    desk = Desk(state=ScheduleState("acme", "x" * 41))
    (refused,) = desk.ask(AddSchedule(HOURLY))
    assert isinstance(refused, CommandRefused)


def test_adding_it_again_puts_another_in_its_place() -> None:
    desk = added()
    events = desk.ask(AddSchedule(Schedule("30 12 * * *", "digest", "?")))
    assert isinstance(events[0], CommandAccepted)
    (waited,) = desk.effects()
    assert waited.at == NOON + 30 * MINUTE
