"""The agent loop: what follows from what, in scripted scenes and in whatever order chance finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.agent.conversation import (
    AmongEvent,
    Conversation,
    ModelEvent,
    RunEvent,
    StepEvent,
    ThreadEvent,
    ToolEvent,
    WaitEvent,
)
from actors.agent.effects import AwaitDeadline, CallModel, CallTool, EndChild, PrepareStep, RunTask, TellEnd
from actors.agent.loop import ConversationMachine
from actors.agent.retries import AwaitRetry
from actors.agent.run import Pending
from actors.agent.wishes import waiting
from actors.errors import Divergence
from actors.memory.state import MemoryEvent
from actors.runtime.machine import Asked, Decision, Effect, Emitted
from actors.runtime.replay import Recorded, verify
from schemas import codec
from schemas.batches import BatchEvent
from schemas.commands import AbortRun, Approve, CancelTask, Command, Deny, PostResult, Resume, RunAgent
from schemas.context import Context
from schemas.delegation import ChildEnded, RunJoined
from schemas.generation import Sampling
from schemas.hooks import HooksTold, Judgement, StepPrepared
from schemas.memory import CreateThread, DeleteThread, MemoryWrite
from schemas.messages import Message, ToolCall, ToolSpec, Usage, misplaced_in
from schemas.profiles import Profile, Retries, ToolBinding
from schemas.pushes import PushEvent
from schemas.runs import (
    CommandAccepted,
    CommandRefused,
    DeadlinePassed,
    Event,
    ModelCalled,
    ModelFailed,
    ModelReturned,
    Problem,
    RetryDue,
    RunFailed,
    RunFinished,
    ToolFailed,
    ToolIndeterminate,
    ToolReturned,
)
from schemas.schedules import ScheduleEvent
from schemas.standing import StandingCommand, StandingEvent
from schemas.tasks import TaskEnded, TaskEvent
from schemas.waits import ToolSuspended

MACHINE = ConversationMachine()
PROFILE = Profile(
    agent="demo",
    model="m",
    instructions="",
    tools=(
        ToolBinding("add", "pure", "d1"),
        ToolBinding("mail", "once", "d2"),
        ToolBinding("pay", "once", "d3", approval=True),
    ),
    sampling=Sampling(),
    max_steps=4,
)
BILLING = msgspec.structs.replace(PROFILE, agent="billing", instructions="Bill.", edition=1)
"""Who the thread is handed to."""
WHOLE = msgspec.structs.replace(
    PROFILE,
    tools=(
        *PROFILE.tools,
        ToolBinding("where", "once", "d4", place="client", spec=ToolSpec("where")),
        ToolBinding("worker", "idempotent", "d5", place="agent", spec=ToolSpec("worker"), service="worker"),
        ToolBinding("dig", "once", "d7", background=True),
        ToolBinding("bill", "pure", "d6", place="handoff", spec=ToolSpec("bill"), service="billing"),
    ),
    tool_concurrency=2,
    edition=1,
    stop_tools=("mail",),
    most_tokens=17,
    prepares=True,
    observed=True,
)
"""A profile with all that there is."""


PATIENT = msgspec.structs.replace(PROFILE, retries=Retries(most=2, first_ms=100, longest_ms=150))


Sent = Approve | Deny | AbortRun | Resume | PostResult | DeleteThread | CancelTask


class World:
    """A thread's log and state, moved on by hand."""

    def __init__(self, thread: str = "t1") -> None:
        self.thread = thread
        self.log: list[Recorded] = []
        self.state: Conversation = MACHINE.initial("acme", thread)
        self.open: dict[str, Effect] = {}
        self.begun: Counter[str] = Counter()
        self._versions: Counter[tuple[str, str]] = Counter()
        self._sequence = 0

    def ask(self, command: str, profile: Profile | None = PROFILE, **data: Any) -> list[Event]:
        asked = Command(
            id=command, tenant="acme", kind="agent", thread=self.thread, verb="run", data=RunAgent(agent="demo", **data)
        )
        if MACHINE.answered(self.state, command) is not None:
            return []
        missing = None if profile else Problem(kind="unknown_agent", message="no agent 'demo'", field="agent")
        events = self._take(MACHINE.ask(self.state, Asked(asked, profile, missing), self._context()), [], command)
        self._drop_what_is_over()
        return events

    def settle(
        self,
        name: str,
        data: Approve
        | Deny
        | AbortRun
        | Resume
        | PostResult
        | DeleteThread
        | CancelTask
        | CreateThread
        | StandingCommand,
        profile: Profile | None = None,
    ) -> list[Event]:
        """Send an answer about a tool call that waits for approval, or end a run, as a client would."""
        verb = str(data.__struct_config__.tag)
        command = Command(id=name, tenant="acme", kind="agent", thread=self.thread, verb=verb, data=data, source="cli")
        if MACHINE.answered(self.state, name) is not None:
            return []
        events = self._take(MACHINE.ask(self.state, Asked(command, profile), self._context()), [], name)
        self._drop_what_is_over()
        return events

    def result(self, event: Any) -> list[Event]:
        effect = self.open.pop(event.effect)
        emitted = Emitted(effect.kind, effect.entity, event)
        after = MACHINE.evolve(self.state, emitted)
        events = self._take(MACHINE.follow(after, emitted, self._context()), [emitted], effect.id)
        self._drop_what_is_over()
        return events

    def _drop_what_is_over(self) -> None:
        wanted = {effect.id for effect in MACHINE.open_effects(self.state)}
        self.open = {name: effect for name, effect in self.open.items() if name in wanted}

    def crash(self) -> None:
        """Forget everything but the log, and go on from it."""
        self.state = self.refolded()
        self.open = {effect.id: effect for effect in MACHINE.open_effects(self.state)}

    def refolded(self) -> Conversation:
        state = MACHINE.initial("acme", self.thread)
        for item in self.log:
            state = MACHINE.evolve(state, Emitted(item.kind, item.entity, item.event()))
        return state

    def verified(self) -> None:
        assert verify(MACHINE, "acme", self.thread, self.log).events == len(self.log)

    def events(self, *kinds: type[Any]) -> list[Any]:
        return [event for event in (item.event() for item in self.log) if isinstance(event, kinds)]

    def _context(self) -> Context:
        return Context(now=self._sequence, seed=1000 + self._sequence)

    def _take(self, decision: Decision, before: Sequence[Emitted], cause: str) -> list[Event]:
        self._sequence += 1
        for index, emitted in enumerate([*before, *decision.events]):
            key = (emitted.kind, emitted.entity)
            self._versions[key] += 1
            self.log.append(
                Recorded(
                    f"{self._sequence}/{index}",
                    0,
                    emitted.kind,
                    emitted.entity,
                    self._versions[key],
                    codec.tag(emitted.event),
                    bytes(codec.payload(emitted.event)),
                    cause,
                    self._sequence,
                )
            )
            self.state = MACHINE.evolve(self.state, emitted)
        for effect in decision.effects:
            assert effect.id not in self.begun, f"{effect.id} was begun twice"
            self.begun[effect.id] += 1
            self.open[effect.id] = effect
        return [emitted.event for emitted in decision.events]


def said(effect: str, text: str = "", calls: Sequence[ToolCall] = (), finish: Any = None) -> ModelReturned:
    reason = finish or ("tool_calls" if calls else "stop")
    return ModelReturned(effect, text, reason, Usage(3, 2, 1), tuple(calls))


def call(number: int, name: str = "add") -> ToolCall:
    return ToolCall(f"call-{number}", name, "{}")


def returned(world: World, effect: str, content: str = "ok") -> list[Event]:
    called = world.open[effect]
    assert isinstance(called, CallTool)
    return world.result(ToolReturned(effect, called.called.call.id, content))


def tags(events: Sequence[Event]) -> list[str]:
    return [codec.tag(event) for event in events]


def roles(world: World) -> list[str]:
    return [message.role for message in world.state.messages]


def test_each_event_is_folded_by_one_of_the_groups() -> None:
    unions = (TaskEvent, ThreadEvent, RunEvent, AmongEvent, ModelEvent, StepEvent, ToolEvent, WaitEvent, MemoryEvent)
    unions += (StandingEvent,)
    groups = [shape for union in unions for shape in get_args(union)]
    elsewhere = (*get_args(ScheduleEvent), *get_args(BatchEvent), *get_args(PushEvent))  # by other machines
    assert Counter([*groups, *elsewhere]) == Counter(codec.EVENT_TYPES.values())


def test_a_question_is_logged_before_the_model_is_asked_and_its_answer_ends_the_run() -> None:
    world = World()
    assert tags(world.ask("c1", text="hi")) == ["command.accepted", "message.added", "run.started", "model.called"]
    (effect,) = world.open.values()
    assert isinstance(effect, CallModel)
    assert effect.messages == (Message(role="user", content="hi"),)
    (finished,) = world.result(said("c1-1-m", "hello"))
    assert finished == RunFinished(text="hello", steps=1, usage=Usage(3, 2, 1))
    assert roles(world) == ["user", "assistant"]
    world.verified()


def test_what_was_thought_stays_with_what_was_said_and_with_the_calls() -> None:
    world = World()
    world.ask("c1", text="hi")
    world.result(msgspec.structs.replace(said("c1-1-m", "", [call(1)]), reasoning="a tool may know"))
    returned(world, "c1-1-t0", "4")
    world.result(msgspec.structs.replace(said("c1-2-m", "four"), reasoning="it does"))
    thought = [message.reasoning for message in world.state.messages]
    assert thought == ["", "a tool may know", "", "it does"]
    world.verified()


def test_the_seed_is_drawn_when_it_is_not_given_and_recorded() -> None:
    world = World()
    world.ask("c1", text="hi")
    assert world.state.runs["c1"].profile.sampling.seed == 1000
    world.result(said("c1-1-m", "hello"))
    world.verified()


def test_results_enter_the_thread_in_the_order_of_the_calls_whatever_finished_first() -> None:
    world = World()
    world.ask("c1", text="hi")
    world.result(said("c1-1-m", "", [call(1), call(2, "mail"), call(3)]))
    assert list(world.open) == ["c1-1-t0", "c1-1-t1", "c1-1-t2"]
    assert returned(world, "c1-1-t2", "three") == []
    assert returned(world, "c1-1-t0", "one") == []
    assert tags(returned(world, "c1-1-t1", "two")) == ["model.called"]
    assert [m.content for m in world.state.messages if m.role == "tool"] == ["one", "two", "three"]
    assert list(world.open) == ["c1-2-m"]
    world.verified()


def test_a_tool_that_does_not_exist_is_told_to_the_model_and_never_called() -> None:
    world = World()
    world.ask("c1", text="hi")
    events = world.result(said("c1-1-m", "", [call(1, "nope")]))
    assert tags(events) == ["tool.failed", "model.called"]
    assert "add, mail" in world.state.messages[-1].content
    world.verified()


def test_calls_that_share_an_id_keep_their_places() -> None:
    world = World()
    world.ask("c1", text="hi")
    same = [ToolCall("x", "add", '{"a":1}'), ToolCall("x", "nope", "{}"), ToolCall("x", "add", '{"a":1}')]
    world.result(said("c1-1-m", "", same))
    returned(world, "c1-1-t2", "third")
    returned(world, "c1-1-t0", "first")
    contents = [message.content for message in world.state.messages if message.role == "tool"]
    assert contents[0] == "first"
    assert contents[1].startswith("error: no tool named 'nope'")
    assert contents[2] == "third"
    world.verified()


def test_a_run_that_will_not_stop_is_stopped_and_leaves_no_call_unanswered() -> None:
    world = World()
    world.ask("c1", text="hi")
    for step in range(1, 4):
        world.result(said(f"c1-{step}-m", "", [call(step)]))
        returned(world, f"c1-{step}-t0")
    (failed,) = world.result(said("c1-4-m", "", [call(4)]))
    assert isinstance(failed, RunFailed)
    assert failed.problem.kind == "max_steps"
    assert misplaced_in(world.state.messages) is None
    world.verified()


def test_a_model_call_that_fails_fails_the_run_and_the_next_one_starts() -> None:
    world = World()
    world.ask("c1", text="one")
    assert tags(world.ask("c2", text="two")) == ["command.accepted", "run.queued"]
    problem = Problem(kind="engine", message="gone")
    assert tags(world.result(ModelFailed("c1-1-m", problem))) == [
        "run.failed",
        "message.added",
        "run.started",
        "model.called",
    ]
    assert list(world.open) == ["c2-1-m"]
    world.verified()


@pytest.mark.parametrize("reason", ["abort", "error", "timeout"])
def test_an_answer_that_was_broken_off_is_no_answer(reason: str) -> None:
    world = World()
    world.ask("c1", text="hi")
    (failed,) = world.result(said("c1-1-m", "half an ans", finish=reason))
    assert isinstance(failed, RunFailed)
    assert reason in failed.problem.message
    assert roles(world) == ["user"]
    world.verified()


def test_an_answer_cut_at_its_limit_says_so() -> None:
    world = World()
    world.ask("c1", text="hi")
    (finished,) = world.result(said("c1-1-m", "and then", finish="length"))
    assert isinstance(finished, RunFinished)
    assert finished.finish_reason == "length"


def test_queued_runs_take_their_turns_in_the_order_they_came() -> None:
    world = World()
    for number in range(1, 5):
        world.ask(f"c{number}", text=f"question {number}")
    for number in range(1, 5):
        assert list(world.open) == [f"c{number}-1-m"]
        assert [m.content for m in world.state.messages if m.role == "user"][-1] == f"question {number}"
        world.result(said(f"c{number}-1-m", f"answer {number}"))
    assert roles(world) == ["user", "assistant"] * 4
    assert not world.open
    world.verified()


def test_memory_is_written_in_the_same_commit_as_the_result() -> None:
    world = World()
    world.ask("c1", text="hi")
    world.result(said("c1-1-m", "", [call(1)]))
    events = world.result(ToolReturned("c1-1-t0", "call-1", "saved", (MemoryWrite("colour", "blue"),)))
    assert tags(events) == ["memory.written", "model.called"]
    assert world.state.notes == {"colour": "blue"}
    world.verified()


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({}, "messages"),
        ({"messages": (Message("user", "a"), Message("assistant", "b"))}, "messages"),
        ({"text": "hi", "thread": "existing"}, "thread"),
        ({"messages": (Message("tool", "4", (), "c9"),)}, "messages[0].tool_call_id"),
        ({"messages": (Message("assistant", "", (call(1),)), Message("user", "well?"))}, "messages[1].role"),
    ],
)
def test_what_does_not_fit_is_refused_and_names_the_field(data: dict[str, Any], field: str) -> None:
    world = World()
    (refused,) = world.ask("c1", **data)
    assert isinstance(refused, CommandRefused)
    assert refused.problem.field == field
    assert not world.open
    answer = MACHINE.answered(world.state, "c1")
    assert isinstance(answer, Problem)
    assert answer == refused.problem
    world.verified()


def test_an_agent_nobody_knows_is_refused() -> None:
    world = World()
    (refused,) = world.ask("c1", profile=None, text="hi")
    assert isinstance(refused, CommandRefused)
    world.verified()


def test_a_long_history_brought_along_verifies() -> None:
    world = World()
    history = tuple(Message(role="user" if n % 2 == 0 else "assistant", content=str(n)) for n in range(201))
    world.ask("c1", messages=history)
    world.result(said("c1-1-m", "hello"))
    world.verified()


def test_after_a_crash_only_what_has_no_result_is_open() -> None:
    world = World()
    world.ask("c1", text="hi")
    world.result(said("c1-1-m", "", [call(1), call(2), call(3, "nope")]))
    returned(world, "c1-1-t0")
    world.crash()
    assert list(world.open) == ["c1-1-t1"]
    assert tags(returned(world, "c1-1-t1")) == ["model.called"]
    world.crash()
    assert list(world.open) == ["c1-2-m"]
    world.result(said("c1-2-m", "done"))
    world.crash()
    assert not world.open
    world.verified()


def scene() -> World:
    """A history with every kind of event that a decision makes."""
    world = World()
    world.ask("c1", text="one")
    world.ask("c2", text="two", seed=5)
    world.ask("c3")
    world.result(said("c1-1-m", "let me see", [call(1), call(2, "mail"), call(3, "nope")]))
    world.result(ToolReturned("c1-1-t0", "call-1", "4", (MemoryWrite("a", "b"),)))
    world.result(ToolIndeterminate("c1-1-t1", "call-2", "unknown"))
    world.result(said("c1-2-m", "four"))
    world.result(ModelFailed("c2-1-m", Problem(kind="engine", message="gone")))
    world.settle("a2", Approve("c4-1-t0"))
    world.ask("c4", text="pay both")
    world.result(said("c4-1-m", "", [call(4, "pay"), call(5, "pay")]))
    world.settle("a1", Approve("c4-1-t0"))
    world.result(ToolReturned("c4-1-t0", "call-4", "paid"))
    world.settle("a3", Deny("c4-1-t1", "too dear"))
    world.result(said("c4-2-m", "paid one"))
    world.ask("c5", PATIENT, text="are you there?")
    world.result(ModelFailed("c5-1-m", Problem(kind="overloaded", message="busy", retry_after_ms=3)))
    world.result(RetryDue("c5-1-r2"))
    world.result(said("c5-1-m2", "now I am"))
    world.ask("c6", WHOLE, text="where am I?")
    world.result(StepPrepared("c6-1-p", instructions="Look."))
    world.result(said("c6-1-m", "", [call(6, "where"), call(7)]))
    world.settle("a4", PostResult("c6-1-t0", "at home"))
    world.result(ToolSuspended("c6-1-t1", "call-7", "which?"))
    world.settle("a5", Resume("c6-1-t1", "this"))
    world.result(ToolReturned("c6-1-t1s1", "call-7", "8"))
    world.result(StepPrepared("c6-2-p", stop="enough"))
    world.result(HooksTold("c6-h"))
    among_others(world)
    return world


def among_others(world: World) -> None:
    """Go on with what happens among runs and agents."""
    world.ask("c7", WHOLE, text="bill me")
    world.result(StepPrepared("c7-1-p"))
    world.result(said("c7-1-m", "", [call(8, "bill"), call(9, "bill")]))
    world.ask("c8", text="and add the tip", when_busy="steer")
    world.result(ToolReturned("c7-1-t0", "call-8", "it is billing's", handover=BILLING))
    world.result(said("c7-2-m", "billed"))
    world.ask("c9", WHOLE, text="work")
    world.result(StepPrepared("c9-1-p"))
    world.result(said("c9-1-m", "", [call(10, "worker")]))
    world.settle("a6", AbortRun())
    world.result(ChildEnded("c9-1-t0x"))
    world.ask("d0", WHOLE, text="dig")
    world.result(StepPrepared("d0-1-p"))
    world.result(said("d0-1-m", "", [call(11, "dig"), call(12, "dig")]))
    world.settle("a7", CancelTask("d0-1-t1b"))
    world.result(TaskEnded("d0-1-t0b", "returned", "gold", (MemoryWrite("a", "c"),), Usage(1, 1), 0.5))
    world.result(StepPrepared("d0-2-p"))
    world.result(said("d0-2-m", "I dig"))
    world.result(said("d0-1-t0b-1-m", "gold it is"))


def mutated(item: Recorded, change: Callable[[dict[str, Any]], None]) -> Recorded:
    fields = msgspec.json.decode(item.payload)
    change(fields)
    return item._replace(payload=msgspec.json.encode(fields))


def altered_strings(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every string and number in a JSON value, but the type tags."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [path] if isinstance(value, str | int) and not isinstance(value, bool) else []
    return found + [deep for key, inner in items if key != "type" for deep in altered_strings(inner, (*path, key))]


DECIDED = {"message.added", "model.called", "tool.called", "memory.written", "run.finished", "run.failed"}
DECIDED |= {"approval.requested", "approval.given", "approval.denied", "retry.scheduled"}
DECIDED |= {"step.opened", "tool.handed_over", "tool.continued"}
DECIDED |= {"run.joined", "run.handed_over", "child.disowned"}
DECIDED |= {"task.started", "task.cancelled"}
CHOICES = {"role", "effect_class", "kind", "finish_reason"}


def decided_places() -> list[tuple[int, tuple[Any, ...]]]:
    log = scene().log
    places = []
    for at, item in enumerate(log):
        fields = msgspec.json.decode(item.payload)
        if item.type in DECIDED or (item.type == "tool.failed" and "nope" in item.payload.decode()):
            places += [(at, path) for path in altered_strings(fields) if path[-1] not in CHOICES]
    return places


def test_the_scene_that_is_mutated_verifies_as_it_is() -> None:
    world = scene()
    world.verified()
    assert {item.type for item in world.log} >= DECIDED | {"run.queued", "run.started", "command.refused"}


@pytest.mark.parametrize(("at", "path"), decided_places(), ids=lambda value: str(value).replace(" ", ""))
def test_one_changed_value_in_a_decided_event_is_found_and_named(at: int, path: tuple[Any, ...]) -> None:
    log = scene().log

    def change(fields: dict[str, Any]) -> None:
        inside: Any = fields
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = inside[path[-1]] + (1 if isinstance(inside[path[-1]], int) else "x")

    log[at] = mutated(log[at], change)
    with pytest.raises(Divergence) as divergence:
        verify(MACHINE, "acme", "t1", log)
    assert divergence.value.place == log[at].place
    assert log[at].type in str(divergence.value)


@pytest.mark.parametrize("at", range(len(scene().log) - 1))
def test_one_event_that_vanished_is_found(at: int) -> None:
    log = scene().log
    gone = log.pop(at)
    if gone.type in {"hooks.told", "child.ended"}:  # nothing follows from them: they are still awaited
        assert gone.event().effect in verify(MACHINE, "acme", "t1", log).open  # type: ignore[union-attr]
        return
    with pytest.raises(Divergence):
        verify(MACHINE, "acme", "t1", log)


def test_a_log_may_end_where_a_decision_ends_and_nowhere_else() -> None:
    log = scene().log
    for end in range(1, len(log)):
        if log[end].sequence != log[end - 1].sequence:
            assert verify(MACHINE, "acme", "t1", log[:end]).events == end
        else:
            with pytest.raises(Divergence):
                verify(MACHINE, "acme", "t1", log[:end])


@pytest.mark.parametrize("at", range(len(scene().log) - 1))
def test_two_events_that_changed_places_are_found(at: int) -> None:
    log = scene().log
    log[at], log[at + 1] = log[at + 1], log[at]
    with pytest.raises(Divergence):
        verify(MACHINE, "acme", "t1", log)


@pytest.mark.parametrize("at", range(len(scene().log)))
def test_an_event_written_twice_is_found(at: int) -> None:
    log = scene().log
    log.insert(at, log[at])
    with pytest.raises(Divergence):
        verify(MACHINE, "acme", "t1", log)


@pytest.mark.parametrize("at", range(len(scene().log)))
def test_an_event_of_another_type_than_its_label_is_found(at: int) -> None:
    log = scene().log
    log[at] = log[at]._replace(type="run.exploded")
    with pytest.raises(Divergence, match=r"run\.exploded"):
        verify(MACHINE, "acme", "t1", log)


texts = st.text(max_size=8)
names = st.sampled_from(["add", "mail", "pay", "nope", "where", "worker", "bill", "dig"])


def settlements(item: Pending) -> list[Any]:
    """What may be answered to a call that waits."""
    if item.waits == "data":
        return [Resume(item.under_way, {"pin": 1})]
    if item.waits == "caller":
        return [PostResult(item.effect, "here"), PostResult(item.effect, error="nowhere")]
    return [Approve(item.effect), Deny(item.effect)]


class Threads(RuleBasedStateMachine):
    """Commands, answers, results and crashes in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.asked = 0
        self.answers = 0
        self.results: Counter[str] = Counter()

    @precondition(lambda self: self.asked < 6)
    @rule(
        text=texts,
        seed=st.none() | st.integers(0, 9),
        known=st.sampled_from([True, True, True, False]),
        deadline=st.sampled_from([0, 0, 5, 10_000_000]),
        profile=st.sampled_from([PROFILE, PATIENT, WHOLE, WHOLE]),
        when_busy=st.sampled_from(["queue", "queue", "replace", "steer"]),
    )
    def command(
        self, text: str, seed: int | None, known: bool, deadline: int, profile: Profile, when_busy: str
    ) -> None:
        self.asked += 1
        about = {"text": text, "seed": seed, "deadline": deadline, "when_busy": when_busy}
        self.world.ask(f"c{self.asked}", profile if known else None, **about)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def command_again(self, data: st.DataObject) -> None:
        before = len(self.world.log)
        self.world.ask(f"c{data.draw(st.integers(1, self.asked))}", text="again")
        assert len(self.world.log) == before

    @rule()
    def crash(self) -> None:
        before = set(self.world.open)
        self.world.crash()
        assert set(self.world.open) == before

    @precondition(lambda self: waiting(self.world.state))
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(waiting(self.world.state)))
        self.answers += 1
        self.world.settle(f"a{self.answers}", data.draw(st.sampled_from(settlements(item))))
        left = waiting(self.world.state)
        assert (item.effect, item.waits) not in {(other.effect, other.waits) for other in left}

    @precondition(lambda self: self.world.state.active)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        state = self.world.state
        name = data.draw(st.sampled_from(["", state.active or "", *state.queue]))
        self.answers += 1
        self.world.settle(f"a{self.answers}", AbortRun(run=name))
        assert self.world.state.runs[name or state.active or ""].over

    @precondition(lambda self: self.world.open)
    @rule(data=st.data())
    def outcome(self, data: st.DataObject) -> None:
        effect = self.world.open[data.draw(st.sampled_from(sorted(self.world.open)))]
        self.results[effect.id] += 1
        if isinstance(effect, AwaitDeadline):
            self.world.result(DeadlinePassed(effect.id))
            assert self.world.state.runs[effect.entity].over
        elif isinstance(effect, RunTask):
            self.world.result(TaskEnded(effect.id, data.draw(st.sampled_from(["returned", "failed"])), "dug"))
        elif isinstance(effect, EndChild):
            assert self.world.result(ChildEnded(effect.id)) == []
        elif isinstance(effect, AwaitRetry):
            assert tags(self.world.result(RetryDue(effect.id))) == ["model.called"]
        elif isinstance(effect, TellEnd):
            assert self.world.result(HooksTold(effect.id)) == []
        elif isinstance(effect, PrepareStep):
            stop, active = data.draw(st.sampled_from([("", None), ("", ("add", "where")), ("enough", None)]))
            self.world.result(StepPrepared(effect.id, stop=stop, active_tools=active))
        elif isinstance(effect, CallTool):
            wanted = effect.called.call.id
            kind = data.draw(st.sampled_from([ToolReturned, ToolFailed, ToolIndeterminate, ToolSuspended]))
            if effect.called.call.name == "bill":
                self.world.result(ToolReturned(effect.id, wanted, data.draw(texts), handover=BILLING))
                return
            self.world.result(kind(effect.id, wanted, data.draw(texts)))
        elif data.draw(st.integers(0, 4)) == 0:
            after = data.draw(st.sampled_from([0, 0, 1, 200]))
            kind = data.draw(st.sampled_from(["engine", "overloaded", "too_long"]))
            self.world.result(ModelFailed(effect.id, Problem(kind=kind, message="gone", retry_after_ms=after)))
        else:
            ids = st.sampled_from(["x", "y", "z"])
            calls = data.draw(st.lists(st.builds(ToolCall, ids, names, st.just("{}")), max_size=4))
            told: list[dict[str, Any]] = [{}, {"arguments": '{"a":1}'}, {"answer": "known"}, {"problem": "no"}]
            judged = tuple(
                Judgement(index, data.draw(st.booleans()), **data.draw(st.sampled_from(told)))
                for index in range(len(calls))
                if data.draw(st.integers(0, 2)) == 0
            )
            self.world.result(msgspec.structs.replace(said(effect.id, data.draw(texts), calls), judged=judged))

    @invariant()
    def no_effect_has_two_results(self) -> None:
        assert all(count == 1 for count in self.results.values())

    @invariant()
    def the_conversation_is_well_formed(self) -> None:
        assert misplaced_in(self.world.state.messages) is None
        messages = self.world.state.messages
        for at, message in enumerate(messages):
            results = messages[at + 1 : at + 1 + len(message.tool_calls)]
            assert [m.tool_call_id for m in results] == [c.id for c in message.tool_calls]

    @invariant()
    def a_fold_from_nothing_gives_the_same_state(self) -> None:
        assert self.world.refolded() == self.world.state

    @invariant()
    def an_accepted_run_is_over_or_under_way_or_queued(self) -> None:
        state = self.world.state
        over = {run.id for run in state.runs.values() if run.over}
        commands = [event.command for event in self.world.events(CommandAccepted)]
        accepted = {command.id for command in commands if command.verb == "run"}
        assert accepted == over | set(state.queue) | ({state.active} if state.active else set())
        assert len(self.world.events(RunFinished, RunFailed, RunJoined)) == len(over)
        going_on = {
            name for name, effect in self.world.open.items() if not isinstance(effect, TellEnd | EndChild | RunTask)
        }
        assert bool(going_on or waiting(state)) == (state.active is not None)
        if state.queue:
            assert state.active is not None

    @invariant()
    def no_step_is_tried_more_often_than_its_run_allows_nor_any_time_twice(self) -> None:
        told = [(item.entity, item.event()) for item in self.world.log]
        calls = [(run, event) for run, event in told if isinstance(event, ModelCalled)]
        assert len({called.effect for _, called in calls}) == len(calls)
        for run in self.world.state.runs.values():
            # not by the effect's name: a run that a task's end begins is named after the call of another run
            steps = Counter(called.step for name, called in calls if name == run.id)
            assert all(times <= 1 + run.profile.retries.most for times in steps.values())
            assert not (run.over and run.retry)

    @invariant()
    def the_record_verifies(self) -> None:
        self.world.verified()

    def teardown(self) -> None:
        """Whatever happened, answering every open call ends every run."""
        for number in range(100):
            if held := waiting(self.world.state):
                self.world.settle(f"end{number}", settlements(held[0])[0])
                continue  # others may wait beside it
            if all(isinstance(effect, AwaitDeadline) for effect in self.world.open.values()):
                break
            effect = next(effect for effect in self.world.open.values() if not isinstance(effect, AwaitDeadline))
            if isinstance(effect, TellEnd):
                self.world.result(HooksTold(effect.id))
            elif isinstance(effect, EndChild):
                self.world.result(ChildEnded(effect.id))
            elif isinstance(effect, RunTask):
                self.world.result(TaskEnded(effect.id, "returned", "dug"))
            elif isinstance(effect, PrepareStep):
                self.world.result(StepPrepared(effect.id))
            elif isinstance(effect, CallTool):
                self.world.result(ToolReturned(effect.id, effect.called.call.id, ""))
            elif isinstance(effect, AwaitRetry):
                self.world.result(RetryDue(effect.id))
            else:
                self.world.result(said(effect.id, "end"))
        assert all(run.over and run.ended is None for run in self.world.state.runs.values())
        assert not self.world.state.untold
        self.the_record_verifies()


TestThreads = Threads.TestCase
TestThreads.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
