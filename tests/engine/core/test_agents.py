"""The policy that knows programs, in scenes: who begins, who is paused, whose context is kept."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.config import SchedulerConfig
from engine.core.agents import Agents
from engine.core.retrace import Retrace
from engine.core.scheduler import Scheduler
from schemas.generation import Accepted, Sampling, Submit
from schemas.programs import PERSON, Decision, ProgramEnded, ToolBegan, ToolEnded
from schemas.steps import StepPlan
from tests.engine.core.test_scheduler import answered

S = 1_000_000


class Scene:
    """A scheduler with a clock, and all that came of it."""

    def __init__(self, **limits: Any) -> None:
        given = {"blocks": 16, "block_size": 16, "context_length": 1000, "watermark": 0.0, "max_in_flight": 1, **limits}
        self.scheduler = Scheduler(SchedulerConfig(policy="agents", **given), "epoch")
        self.now = 0
        self.plans: list[StepPlan] = []
        self.cached: dict[str, int] = {}
        self.over: set[str] = set()

    @property
    def rules(self) -> Agents:
        assert isinstance(self.scheduler.rules, Agents)
        return self.scheduler.rules

    def ask(self, name: str, prompt: list[int], program: str = "", tokens: int = 8, **more: Any) -> None:
        submit = Submit(name, tuple(prompt), Sampling(max_tokens=tokens), "front", "acme", program=program, **more)
        assert isinstance(self.scheduler.submit(submit, self.now), Accepted)

    def step(self) -> StepPlan | None:
        plan = self.scheduler.plan(self.now)
        if plan is None:
            return None
        self.plans.append(plan)
        self.now += S // 10
        for event in self.scheduler.apply(answered(plan)):
            self.cached[event.request] = event.cached
            if event.finish is not None:
                self.over.add(event.request)
        self.scheduler.check()
        return plan

    def run(self) -> None:
        while self.step() is not None:
            pass

    def note(self, note: Any) -> None:
        self.scheduler.note(note, self.now)
        self.scheduler.check()

    @property
    def decisions(self) -> list[tuple[str, str]]:
        return [(one.what, one.program) for plan in self.plans for one in plan.decisions]


def text(first: int, count: int) -> list[int]:
    return list(range(first, first + count))


def turn(scene: Scene, program: str, history: list[int], number: int, tool: str = "search") -> list[int]:
    """One turn that ends in a tool call; return the history with its answer."""
    scene.ask(f"{program}-{number}", history, program)
    scene.run()
    scene.note(ToolBegan(program, f"{number}", tool))
    return [*history, *([7] * 8)]


def test_a_newcomer_waits_for_room_and_does_not_take_the_context_of_one_whose_tool_is_quick() -> None:
    scene = Scene()
    history = turn(scene, "a", text(0, 100), 1)
    scene.ask("busy-1", text(500, 60), "busy", tokens=20)
    scene.step()
    scene.ask("new-1", text(1000, 60), "new")
    scene.step()
    assert scene.decisions == [("admitted", "a"), ("admitted", "busy")]
    scene.note(ToolEnded("a", "1"))
    scene.ask("a-2", [*history, 1, 2, 3], "a")
    scene.run()
    assert scene.cached["a-2"] == 107, "all of it but what was never computed: the last token"
    assert ("admitted", "new") in scene.decisions
    assert scene.over == {"a-1", "a-2", "busy-1", "new-1"}


def test_the_one_whose_tool_takes_long_is_paused_as_a_whole() -> None:
    scene = Scene()
    turn(scene, "quick", text(0, 60), 1)
    for _ in range(4):
        scene.note(ToolEnded("quick", "1"))
        scene.note(ToolBegan("quick", "1", "build"))
        scene.now += 60 * S
    scene.note(ToolEnded("quick", "1"))
    turn(scene, "slow", text(200, 60), 1, tool="build")
    quick = turn(scene, "quick", text(0, 60), 2)
    scene.ask("big-1", text(500, 120), "big", tokens=40)
    scene.run()
    assert ("paused", "slow") in scene.decisions
    assert ("paused", "quick") not in scene.decisions
    scene.ask("quick-3", [*quick, 1], "quick")
    scene.run()
    assert scene.cached["quick-3"] == 67


def test_what_a_tool_has_returned_to_is_kept_until_its_turn_comes() -> None:
    scene = Scene(blocks=18)
    for name, first in (("a", 0), ("b", 200)):
        turn(scene, name, text(first, 72), 1)
    scene.ask("c-1", text(500, 100), "c", tokens=30)
    while len(scene.plans) < 42:
        scene.step()
    scene.note(ToolEnded("a", "1"))
    scene.run()
    scene.ask("a-2", [*text(0, 72), *([7] * 8), 1], "a")
    scene.run()
    assert scene.cached["a-2"] == 79
    assert ("paused", "b") in scene.decisions


def test_a_program_that_is_over_gives_its_own_up_and_not_what_others_begin_with() -> None:
    scene = Scene()
    common = text(0, 64)
    for name, first in (("a", 100), ("b", 200)):
        turn(scene, name, [*common, *text(first, 16)], 1)
    scene.note(ProgramEnded("a"))
    scene.note(ProgramEnded("b"))
    assert len(scene.rules.programs) == 0
    scene.ask("c-1", text(500, 120), "c", tokens=40)
    scene.run()
    scene.ask("d-1", [*common, *text(300, 16)], "d")
    scene.run()
    assert scene.cached["d-1"] == 64


def test_without_a_word_the_next_turn_is_the_one_that_goes_on_from_the_last() -> None:
    scene = Scene(blocks=64)
    scene.ask("first", text(0, 40))
    scene.run()
    history = [*text(0, 40), *([7] * 8)]
    scene.ask("second", [*history, *text(100, 10)])
    scene.ask("other", [*history[:30], *text(200, 30)])
    assert scene.rules._of["second"].name == "first"
    assert scene.rules._of["other"].name == "other"
    scene.run()
    scene.ask("third", [*history, *text(100, 10), *([7] * 8), 5])
    assert scene.rules._of["third"].name == "first"
    assert scene.rules._of["third"].turns == 2
    scene.run()


def test_nobody_goes_on_from_another_tenants_turn() -> None:
    scene = Scene(blocks=64)
    scene.ask("first", text(0, 40))
    scene.run()
    scene.ask("second", [*text(0, 40), *([7] * 8), 5], cache_salt="other")
    assert scene.rules._of["second"].name == "second"


def test_programs_that_never_come_back_hold_nobody_up() -> None:
    scene = Scene(blocks=32, max_running=8)
    for number in range(60):
        scene.ask(f"r{number}", text(100 * number, 40))
        scene.run()
    for number in range(8):
        scene.ask(f"s{number}", text(10_000 + 100 * number, 40))
    plan = scene.step()
    assert plan is not None
    assert len(plan.slices) >= 7, "the memory has room for so many, and those before them are not expected back"
    scene.run()


def test_one_that_waits_for_very_long_is_admitted_whatever_the_others_hold() -> None:
    scene = Scene(blocks=22)
    scene.ask("old-1", text(0, 250), "old", tokens=100)
    scene.step()
    scene.ask("new-1", text(1000, 60), "new")
    scene.step()
    assert scene.scheduler.waits().reasons == (("new-1", "room for its program new: 1 are admitted"),)
    assert ("admitted", "new") not in scene.decisions, "contexts of which nothing is known may grow by a fifth"
    scene.now += 200 * S
    scene.step()
    (why,) = [one.why for plan in scene.plans for one in plan.decisions if one.program == "new"]
    assert why == "it waited for 200 s"
    scene.run()
    assert scene.over == {"old-1", "new-1"}


def test_a_person_may_take_any_time_and_holds_no_memory_for_it() -> None:
    scene = Scene()
    for number in range(12):
        scene.ask(f"a{number}-1", text(100 * number, 60), f"a{number}")
        scene.run()
        scene.note(ToolBegan(f"a{number}", "1", PERSON))
        scene.now += 30 * S
    assert len(scene.over) == 12
    assert len(scene.rules._admitted) < 12


def test_decisions_are_in_the_plans_and_come_out_again() -> None:
    scene = Scene()
    histories = {name: turn(scene, name, text(200 * at, 60), 1) for at, name in enumerate("abcd")}
    for number in (2, 3, 4):
        for name, history in histories.items():
            scene.note(ToolEnded(name, f"{number - 1}"))
            histories[name] = turn(scene, name, [*history, number], number)
    assert {what for what, _ in scene.decisions} == {"admitted", "paused"}
    retrace = Retrace()
    for plan in scene.plans:
        recorded = msgspec.json.decode(msgspec.json.encode(plan), type=StepPlan)
        assert retrace.follow(recorded) is None
    retrace = Retrace()
    changed = msgspec.structs.replace(scene.plans[0], decisions=(Decision("a", "paused", "nobody knows"),))
    found = retrace.follow(changed)
    assert found is not None
    assert found.field == "decisions"


def test_other_policies_hear_nothing_of_it_and_record_nothing() -> None:
    scheduler = Scheduler(SchedulerConfig(blocks=16, context_length=1000), "epoch")
    scheduler.submit(Submit("a", (1, 2, 3), Sampling(max_tokens=2), "front", "acme", program="p"), 5 * S)
    scheduler.note(ToolBegan("p", "1", "search"), 6 * S)
    plan = scheduler.plan(7 * S)
    assert plan is not None
    assert [type(told).__name__ for told in plan.told] == ["Began", "Submitted"]
    assert plan.told[1].time == 0  # type: ignore[union-attr]
    assert plan.decisions == ()


def test_a_history_that_was_made_shorter_needs_less_room() -> None:
    scene = Scene(blocks=64)
    turn(scene, "a", text(0, 400), 1)
    scene.ask("a-2", text(1000, 50), "a")
    assert scene.rules._of["a-2"].length == 50
    scene.run()


def test_programs_that_are_too_many_are_forgotten() -> None:
    scene = Scene(blocks=64)
    for number in range(4200):
        scene.rules.programs.came(f"p{number}", "", 0, inferred=False)
    for number in range(200):
        scene.ask(f"r{number}", [1, 2, 3, number], f"q{number}", tokens=1)
        scene.run()
    assert len(scene.rules.programs) <= 4096 + 8


def test_a_client_that_names_calls_without_end_is_heeded_to_a_number() -> None:
    scene = Scene()
    scene.ask("a", list(range(20)), program="p")
    scene.run()
    for call in range(1000):
        scene.note(ToolBegan("p", f"c{call}", "look"))
    program = scene.rules.programs.find("p")
    assert program is not None
    assert len(program.calls) == 256
    assert program.is_awaited
    scene.note(ToolEnded("p", "c999"))
    assert not program.returned
    scene.ask("b", list(range(20)), program="p")
    assert not program.calls
