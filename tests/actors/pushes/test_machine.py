"""What is said of a task: to each who wants to hear it, of each change, until it is told or given up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from actors.pushes.actor import _AT_ONCE, PushPerformer, Told
from actors.pushes.machine import MOST_TARGETS, PushMachine, PushState, TellOf, WatchTask
from actors.runtime.machine import Asked, Decision, Effect, Emitted
from actors.runtime.performer import Site
from actors.testing import FixedClock
from schemas.commands import Command, CommandData
from schemas.context import Context
from schemas.pushes import (
    ForgetPushes,
    PushForgotten,
    PushNoticed,
    PushTarget,
    PushTried,
    SubscribePush,
    UnsubscribePush,
    push_id,
)
from schemas.runs import LOOKED_UP, CommandRefused, Event

MACHINE = PushMachine()
PUSH = push_id("t1", "r1")
NOW = Context(1_000_000, 0)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Desk:
    """One task, and what was begun for it."""

    def __init__(self) -> None:
        self.state: PushState = MACHINE.initial("acme", PUSH)
        self.events: list[Event] = []
        self.begun: list[str] = []

    def ask(self, data: CommandData, verb: str = "subscribe") -> None:
        name = f"c{len(self.events)}"
        self._take(MACHINE.ask(self.state, Asked(Command(name, "acme", "push", PUSH, verb, data, "a2a")), NOW))

    def result(self, event: Event) -> None:
        emitted = Emitted("push", PUSH, event)
        self.events.append(event)
        self.state = MACHINE.evolve(self.state, emitted)
        self._take(MACHINE.follow(self.state, emitted, NOW))

    def _take(self, decision: Decision) -> None:
        for emitted in decision.events:
            self.events.append(emitted.event)
            self.state = MACHINE.evolve(self.state, emitted)
        self.begun = [effect.id for effect in decision.effects]

    @property
    def open(self) -> Sequence[Effect]:
        return MACHINE.open_effects(self.state)

    def ids(self) -> list[str]:
        return [effect.id for effect in self.open]


def target(name: str = "hook", **about: str) -> SubscribePush:
    return SubscribePush("t1", "r1", PushTarget(name, f"https://example.com/{name}", **about))


def ended(number: int = 1) -> PushNoticed:
    return PushNoticed(f"{PUSH}-w{number}", "ended")


def test_each_change_is_told_to_each_and_looked_for_until_the_end() -> None:
    desk = Desk()
    desk.ask(target("b"))
    assert desk.begun == [f"{PUSH}-w1"]
    desk.ask(target("a"))
    assert desk.begun == []
    desk.result(PushNoticed(f"{PUSH}-w1", "waiting", ("r1-1-t0",), "{}"))
    assert desk.begun == [f"{PUSH}-1-0-a1", f"{PUSH}-1-1-a1", f"{PUSH}-w2"]
    watch = desk.open[-1]
    assert isinstance(watch, WatchTask)
    assert (watch.thread, watch.run, watch.told) == ("t1", "r1", ("r1-1-t0",))
    desk.result(PushTried(f"{PUSH}-1-1-a1", 200))
    desk.result(ended(2))
    assert desk.ids() == [f"{PUSH}-1-0-a1", f"{PUSH}-2-0-a1", f"{PUSH}-2-1-a1"]
    assert [one.target.id for one in desk.open if isinstance(one, TellOf)] == ["a", "a", "b"]


def test_what_failed_is_tried_again_and_then_given_up() -> None:
    desk = Desk()
    desk.ask(target())
    desk.result(ended())
    desk.result(PushTried(f"{PUSH}-1-0-a1", 500, "answered 500", again=2_000_000))
    (effect,) = desk.open
    assert isinstance(effect, TellOf)
    assert (desk.begun, effect.due.at) == ([f"{PUSH}-1-0-a2"], 2_000_000)
    desk.result(PushTried(f"{PUSH}-1-0-a2", 0, "no answer"))
    assert desk.ids() == []


def test_who_comes_when_all_is_over_is_told_at_once_and_once() -> None:
    desk = Desk()
    desk.ask(target())
    desk.result(ended())
    desk.result(PushTried(f"{PUSH}-1-0-a1", 200))
    desk.ask(target("late"))
    (effect,) = desk.open
    assert isinstance(effect, TellOf)
    assert (desk.begun, effect.target.id) == ([effect.id], "late")
    desk.result(PushTried(effect.id, 503, "answered 503", again=5))
    assert desk.begun == [effect.id.removesuffix("1") + "2"]
    desk.result(PushTried(desk.begun[0], 200))
    desk.ask(target("late"))
    assert desk.ids() == []


def test_who_is_told_no_more_is_not_and_nothing_is_looked_for_when_nobody_is() -> None:
    desk = Desk()
    desk.ask(target("a"))
    desk.result(PushNoticed(f"{PUSH}-w1", "waiting", ("e",), "{}"))
    desk.ask(UnsubscribePush("a"), "unsubscribe")
    assert desk.ids() == []
    desk.ask(target("b"))
    assert desk.ids() == [f"{PUSH}-w2"]


def test_nothing_is_told_of_a_task_that_nobody_began() -> None:
    desk = Desk()
    desk.ask(target())
    desk.result(PushNoticed(f"{PUSH}-w1", "lost"))
    assert desk.ids() == []


@pytest.mark.parametrize("data", [UnsubscribePush("nobody"), *[target(str(MOST_TARGETS))]])
def test_what_cannot_be_is_refused(data: CommandData) -> None:
    desk = Desk()
    for number in range(MOST_TARGETS):
        desk.ask(target(str(number)))
    desk.ask(data)
    refused = desk.events[-1]
    assert isinstance(refused, CommandRefused)
    assert refused.problem.field == "target"


@pytest.mark.parametrize(("thread", "run"), [("t2", "r1"), ("t1", "r2")])
def test_nobody_is_told_of_a_task_by_the_name_of_another(thread: str, run: str) -> None:
    desk = Desk()
    desk.ask(replace(target(), thread=thread, run=run))
    refused = desk.events[-1]
    assert isinstance(refused, CommandRefused)
    assert (refused.problem.field, push_id(thread, run) in refused.problem.message) == ("thread", True)
    assert desk.ids() == []


def test_what_is_forgotten_is_the_same_to_whoever_cannot_read_what_was_before() -> None:
    desk = Desk()
    desk.ask(target(token="secret"))
    desk.result(ended())
    desk.ask(ForgetPushes(), "forget")
    assert desk.ids() == []
    blind = MACHINE.evolve(MACHINE.initial("acme", PUSH), Emitted("push", PUSH, PushForgotten()))
    assert blind == desk.state
    desk.ask(target(token="another"))
    refused = desk.events[-1]
    assert isinstance(refused, CommandRefused)
    assert refused.problem.kind == "unknown_thread"
    assert refused.command.data == ForgetPushes()


async def _never(tenant: str, effect: WatchTask) -> PushNoticed:
    raise AssertionError("nothing is watched here")


@pytest.mark.anyio
async def test_tries_are_twice_as_far_from_one_another_each_time_until_they_are_enough() -> None:
    clock, waited = FixedClock(), list[int]()

    async def tell(tenant: str, effect: TellOf) -> Told:
        return Told(500, "answered 500")

    async def until(at: int) -> None:
        waited.append(at)

    performer, desk = PushPerformer(_never, tell, clock, 4, until), Desk()
    desk.ask(target())
    desk.result(ended())
    while desk.open:
        result = await performer.perform(desk.open[0], Site("acme", PUSH, 1), again=False)
        assert isinstance(result, PushTried)
        desk.result(result)
    now = clock.now()
    assert waited == [0, now + 1_000_000, now + 2_000_000, now + 4_000_000]


@pytest.mark.anyio
async def test_who_says_that_it_is_gone_is_not_asked_again() -> None:
    async def tell(tenant: str, effect: TellOf) -> Told:
        return Told(410, "answered 410", final=True)

    performer, desk = PushPerformer(_never, tell, FixedClock(), 9), Desk()
    desk.ask(target())
    desk.result(ended())
    result = await performer.perform(desk.open[0], Site("acme", PUSH, 1), again=False)
    assert result == PushTried(f"{PUSH}-1-0-a1", 410, "answered 410")


@pytest.mark.anyio
async def test_who_does_not_answer_one_tenant_holds_up_nobody_elses_word() -> None:
    told, go = list[str](), asyncio.Event()

    async def tell(tenant: str, effect: TellOf) -> Told:
        told.append(tenant)
        if tenant == "slow":
            await go.wait()
        return Told(200)

    performer, desk = PushPerformer(_never, tell, FixedClock(), 9), Desk()
    desk.ask(target())
    desk.result(ended())
    (effect,) = desk.open
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2 * _AT_ONCE):
            tasks.create_task(performer.perform(effect, Site("slow", "p1", 1), again=False))
        other = tasks.create_task(performer.perform(effect, Site("acme", "p2", 1), again=False))  # begins after those
        await asyncio.wait_for(other, 5)
        assert told.count("slow") < _AT_ONCE
        go.set()
    assert told.count("slow") == 2 * _AT_ONCE


@pytest.mark.anyio
async def test_so_many_tasks_of_one_tenant_are_watched_and_no_more_are_taken_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actors.pushes.actor.MOST_WATCHED", 2)
    begun = asyncio.Semaphore(0)

    async def watch(tenant: str, effect: WatchTask) -> PushNoticed:
        begun.release()
        return await asyncio.Future()

    async def tell(tenant: str, effect: TellOf) -> Told:
        raise AssertionError("nobody is told here")

    performer, desk, fresh = PushPerformer(watch, tell, FixedClock(), 9), Desk(), Desk()
    desk.ask(target())
    (effect,) = desk.open
    watching = [asyncio.create_task(performer.perform(effect, Site("acme", "p1", 1), again=False)) for _ in range(2)]
    async with asyncio.timeout(5):
        await begun.acquire()
        await begun.acquire()
    wanted = Command("c1", "acme", "push", "p9", "subscribe", target(token="secret"), "a2a")
    asked = await performer.look_up(wanted, fresh.state)
    (emitted,) = MACHINE.ask(fresh.state, asked, NOW).events
    refused = emitted.event
    assert isinstance(refused, CommandRefused)
    assert (refused.problem.kind, refused.command.data) == ("overloaded", ForgetPushes())
    # a replay has what was found from the record
    assert refused.problem.kind in LOOKED_UP
    assert MACHINE.ask(fresh.state, Asked(refused.command, None, refused.problem), NOW).events == [emitted]
    for state, command in (
        (desk.state, wanted),
        (fresh.state, replace(wanted, tenant="other")),
        (fresh.state, replace(wanted, verb="forget", data=ForgetPushes())),
    ):
        assert (await performer.look_up(command, state)).missing is None
    watching[0].cancel()
    await asyncio.wait(watching[:1])
    assert (await performer.look_up(wanted, fresh.state)).missing is None
    watching[1].cancel()
