"""Streams for user interfaces as pure functions of a run's frames: what opens is closed, whatever was heard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from infra.bridge.agui.asking import answers as agui_answers
from infra.bridge.agui.asking import read_input
from infra.bridge.agui.asking import run_agent as agui_run
from infra.bridge.agui.events import AguiEncoder
from infra.bridge.agui.state import ThreadState
from infra.bridge.aisdk.asking import answers, read_chat, run_agent
from infra.bridge.aisdk.events import UiEncoder
from infra.bridge.aisdk.stored import GrowingMessage
from infra.bridge.openai import BadRequest
from infra.bridge.telling.encoder import PieceEncoder
from infra.bridge.telling.recorded import thread_of
from infra.running import Waiting
from schemas.agui import AguiInput
from schemas.answers import CallTold
from schemas.commands import AbortRun, Approve, Command, Deny, PostResult, Resume, RunAgent
from schemas.generation import Sampling
from schemas.hooks import Judgement
from schemas.live import Delta, Frame, Outcome
from schemas.memory import MemoryWrite
from schemas.messages import Message, ToolCall, Usage
from schemas.profiles import Profile
from schemas.runs import (
    ApprovalDenied,
    ApprovalGiven,
    ApprovalRequested,
    ModelCalled,
    ModelFailed,
    ModelReturned,
    Problem,
    RetryScheduled,
    RunFailed,
    RunFinished,
    RunStarted,
    ToolCalled,
    ToolFailed,
    ToolReturned,
)
from schemas.waits import ToolHandedOver
from tests.infra.bridge.documented import every_route
from tests.infra.bridge.doors import committed

COMMAND = Command("r1", "acme", "agent", "t1", "run", RunAgent("demo", "hi"))
ASKED = AguiInput("t1", "theirs", ())
CALLS = (ToolCall("c0", "look", '{"at": "👩\u200d🚀"}'), ToolCall("c1", "look", "{}"))
END = RunFinished("done", 2, Usage(3, 4))


class Story:
    """The frames of a run, as it goes on."""

    def __init__(self) -> None:
        self.frames: list[Frame] = [Outcome("r1", "accepted", "t1")]
        self._version = 0

    def then(self, *events: Any) -> Story:
        for event in events:
            self._version += 1
            self.frames.append(committed(COMMAND, self._version, event))
        return self

    def asks(self, step: int, attempt: str = "") -> Story:
        self._effect = f"r1-{step}-m{attempt}"
        return self.then(ModelCalled(self._effect, "m", step, 1, "", Sampling()))

    def hears(self, **piece: Any) -> Story:
        given: dict[str, Any] = {"offset": 0, "text": "", **piece}
        self.frames.append(Delta("r1", "t1", self._effect, self._version, **given))
        return self

    def returns(self, text: str = "", calls: Sequence[ToolCall] = (), reasoning: str = "") -> Story:
        reason: Any = "tool_calls" if calls else "stop"
        answer = ModelReturned(self._effect, text, reason, Usage(), tuple(calls), reasoning=reasoning)
        return self.then(answer)


def usual() -> Story:
    """Thinks, speaks, calls twice, is answered, and has a last word."""
    story = Story().asks(1).hears(reasoning="hm").hears(reasoning="m", reasoning_offset=2)
    story.hears(text="I l").hears(text="ook.", offset=3).hears(call=CallTold(0, "c0", "look"), arguments='{"at')
    story.returns("I look.", CALLS, "hmm")
    for at, call in enumerate(CALLS):
        story.then(ToolCalled(f"r1-1-t{at}", call, "pure"), ToolReturned(f"r1-1-t{at}", call.id, "sky", result=[at]))
    return story.asks(2).hears(text="do").returns("done").then(END)


def tried_again() -> Story:
    story = Story().asks(1).hears(text="Hal").hears(call=CallTold(0, "c0", "look"), arguments='{"at')
    problem = Problem("overloaded", "busy")
    story.then(ModelFailed("r1-1-m", problem), RetryScheduled("r1-1-r2", 2, 1, "overloaded", 1, 1))
    return story.asks(1, "2").returns("done").then(END)


def aborted() -> Story:
    return Story().asks(1).hears(reasoning="hm").then(RunFailed(Problem("aborted", "stopped"), 1))


def failed() -> Story:
    return Story().asks(1).hears(text="Hal").then(RunFailed(Problem("engine", "gone"), 1))


def waiting() -> Story:
    story = Story().asks(1).returns("", CALLS)
    return story.then(ApprovalRequested("r1-1-t0", CALLS[0]), ToolHandedOver("r1-1-t1", CALLS[1]))


def refused() -> Story:
    story = waiting().then(ApprovalDenied("r1-1-t0", "me", "no"), ToolFailed("r1-1-t0", "c0", "refused"))
    return story.then(ToolReturned("r1-1-t1", "c1", "sky")).asks(2).returns("done").then(END)


STORIES = [usual, tried_again, aborted, failed, waiting]


def ui() -> UiEncoder:
    return UiEncoder(COMMAND)


def agui(asked: AguiInput = ASKED) -> AguiEncoder:
    return AguiEncoder(COMMAND, asked, ThreadState())


def told(encoder: PieceEncoder, frames: Sequence[Frame]) -> list[dict[str, Any]]:
    chunks = [json.loads(json.dumps(chunk)) for frame in frames for chunk in encoder.feed(frame)]
    for chunk in chunks:
        every_route().hold_event("POST", "/api/chat" if isinstance(encoder, UiEncoder) else "/ag-ui/demo", chunk)
    return chunks


def check_ui(chunks: list[dict[str, Any]], calls: frozenset[str] = frozenset()) -> None:
    """See that a client of the AI SDK can follow: it gives up where something comes out of order."""
    opened, known, steps = set[str](), set(calls), 0
    for chunk in chunks:
        kind = chunk["type"]
        if kind in {"text-start", "reasoning-start"}:
            assert not opened
            opened.add(chunk["id"])
        elif kind in {"text-delta", "reasoning-delta"}:
            assert chunk["id"] in opened
        elif kind in {"text-end", "reasoning-end"}:
            opened.remove(chunk["id"])
        elif kind == "tool-input-start":
            known.add(chunk["toolCallId"])
        elif kind.startswith("tool-") and "toolCallId" in chunk:
            assert chunk["toolCallId"] in known
        steps += {"start-step": 1, "finish-step": -1}.get(kind, 0)
        assert steps in {0, 1}
    assert not opened
    assert chunks[-1]["type"] in {"finish", "abort", "error"}


def check_agui(events: list[dict[str, Any]]) -> None:
    """See that AG-UI's client can follow."""
    opened = list[tuple[str, str]]()
    starts = {"TEXT_MESSAGE_START", "REASONING_START", "REASONING_MESSAGE_START", "TOOL_CALL_START", "STEP_STARTED"}
    for event in events[1:-1]:
        kind = event["type"]
        name = kind.removesuffix("_START").removesuffix("_END").removesuffix("_STARTED").removesuffix("_FINISHED")
        key = (name, event.get("messageId") or event.get("toolCallId") or event.get("stepName", ""))
        if kind in starts:
            opened.append(key)
        elif kind.endswith(("_END", "_FINISHED")):
            opened.remove(key)
        elif kind.endswith(("_CONTENT", "_ARGS")):
            assert any(identity == key[1] for _, identity in opened)
    assert opened == []
    assert events[0]["type"] == "RUN_STARTED"
    assert events[-1]["type"] in {"RUN_FINISHED", "RUN_ERROR"}
    assert all(value is not None for event in events for value in event.values())


@pytest.mark.parametrize("story", STORIES)
def test_what_opens_is_closed_in_both_protocols(story: Any) -> None:
    check_ui(told(ui(), story().frames))
    check_agui(told(agui(), story().frames))


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("made", [ui, agui])
def test_the_same_frames_give_the_same_bytes_and_nothing_follows_the_end(story: Any, made: Any) -> None:
    frames, first, second = story().frames, made(), made()
    chunks = told(first, frames)
    assert chunks == told(second, frames)
    assert first.over
    late = Story().asks(9).hears(text="more").returns("more").then(END).frames
    assert told(first, late) == []


@given(st.sets(st.integers(0, 30)))
def test_whatever_was_not_heard_the_words_are_the_same(missed: set[int]) -> None:
    frames = usual().frames
    # deltas of which one is missed are not passed on: nor are those after it, of the same kind
    some, gone = list[Frame](), set[tuple[str, str]]()
    for at, frame in enumerate(frames):
        if isinstance(frame, Delta):
            key = (frame.effect, "r" if frame.reasoning else "c" if frame.call else "t")
            if at in missed or key in gone:
                gone.add(key)
                continue
        some.append(frame)
    chunks = told(ui(), some)
    check_ui(chunks)
    said = "".join(chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta")
    thought = "".join(chunk["delta"] for chunk in chunks if chunk["type"] == "reasoning-delta")
    asked = {call.id: "".join(chunk["inputTextDelta"] for chunk in chunks if _of(chunk, call.id)) for call in CALLS}
    assert (said, thought) == ("I look.done", "hmm")
    assert asked == {call.id: call.arguments for call in CALLS}
    assert [chunk["input"] for chunk in chunks if chunk["type"] == "tool-input-available"] == [{"at": "👩\u200d🚀"}, {}]
    assert [chunk["output"] for chunk in chunks if chunk["type"] == "tool-output-available"] == [[0], [1]]


def _of(chunk: dict[str, Any], call: str) -> bool:
    return bool(chunk["type"] == "tool-input-delta" and chunk["toolCallId"] == call)


def test_a_step_that_is_tried_again_is_taken_back() -> None:
    chunks = told(ui(), tried_again().frames)
    at = [chunk["type"] for chunk in chunks].index("reset-step")
    assert [chunk["type"] for chunk in chunks[at:]] == [
        *("reset-step", "text-start", "text-delta", "text-end", "finish-step", "finish")
    ]
    events = told(agui(), tried_again().frames)
    assert [event["name"] for event in events if event["type"] == "CUSTOM"] == ["step_reset"]


def test_who_stops_it_is_told_so_and_who_does_not_why_it_failed() -> None:
    assert told(ui(), aborted().frames)[-1] == {"type": "abort", "reason": "stopped"}
    assert told(ui(), failed().frames)[-1] == {"type": "error", "errorText": "gone"}
    assert told(agui(), aborted().frames)[-1]["outcome"] == {"type": "cancelled"}
    assert told(agui(), failed().frames)[-1]["message"] == "gone"


def test_a_stream_pauses_when_all_that_is_left_waits_and_goes_on_where_it_was() -> None:
    before, whole = waiting().frames, refused().frames
    first = ui()
    paused = told(first, before)
    assert paused[-1] == {"type": "finish", "finishReason": "tool-calls"}
    assert [wait.kind for wait in first.reader.waits] == ["approval", "caller"]
    first.reader.expect(["r1-1-t0", "r1-1-t1"])
    going_on = UiEncoder(COMMAND, first.reader)
    rest = told(going_on, whole[len(before) :])
    check_ui(rest, frozenset({"c0", "c1"}))
    assert rest[0] == paused[0]
    assert [chunk["type"] for chunk in rest[1:4]] == [
        *("tool-approval-response", "tool-output-denied", "tool-output-available")
    ]
    # who comes back hears both as one
    assert UiEncoder(COMMAND).retold(whole) == [*paused[:-1], *rest[1:]]


def test_answers_that_are_on_their_way_are_not_waited_for_again() -> None:
    first = ui()
    told(first, waiting().frames)
    first.reader.expect(["r1-1-t0", "r1-1-t1"])
    given = Story().then(ApprovalDenied("r1-1-t0", "me", "no"), ToolFailed("r1-1-t0", "c0", "refused")).frames
    rest = told(UiEncoder(COMMAND, first.reader), given)
    assert rest[-1]["type"] == "tool-output-denied"


def test_one_answer_of_two_pauses_again() -> None:
    story = waiting()
    first = ui()
    told(first, story.frames)
    first.reader.expect(["r1-1-t0"])
    going_on = UiEncoder(COMMAND, first.reader)
    answered = Story().then(ApprovalGiven("r1-1-t0", "me"), ToolReturned("r1-1-t0", "c0", "sky")).frames
    assert told(going_on, answered)[-1] == {"type": "finish", "finishReason": "tool-calls"}
    assert [wait.call.id for wait in going_on.reader.waits] == ["c1"]


@pytest.mark.parametrize("made", [ui, agui])
def test_a_stream_that_cannot_go_on_closes_what_is_open(made: Any) -> None:
    encoder = made()
    chunks = told(encoder, Story().asks(1).hears(text="Hal").frames)
    chunks += encoder.broken(BadRequest(503, "no bus", None, "unavailable"))
    if made is agui:
        check_agui(chunks)
        assert chunks[-1] == {"type": "RUN_ERROR", "message": "no bus", "code": "unavailable"}
    else:
        assert chunks[-2:] == [{"type": "text-end", "id": "r1-1-m-p0"}, {"type": "error", "errorText": "no bus"}]


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("handed", [True, False])
def test_a_client_is_told_what_is_called_not_what_the_model_wrote(heard: bool, handed: bool) -> None:
    plain = Profile("demo", "m", "", (), Sampling(), 4)
    guarded = replace(plain, guards_calls=True)
    story = Story().then(RunStarted(plain if handed else guarded))
    if handed:
        story.asks(1).returns("", CALLS[1:])
        story.then(ToolCalled("r1-1-t0", CALLS[1], "pure"), ToolReturned("r1-1-t0", "c1", "", handover=guarded))
    story.asks(2)
    if heard:
        story.hears(call=CallTold(0, "c0", "pay"), arguments='{"sum":1}')
    calls = (ToolCall("c0", "pay", '{"sum":1}'), ToolCall("c2", "where", "{}"))
    said = (Judgement(0, approval=True, arguments='{"sum":1000}'), Judgement(1, approval=False))
    story.then(ModelReturned("r1-2-m", "", "tool_calls", Usage(), calls, judged=said))
    paid = replace(calls[0], arguments='{"sum":1000}')
    story.then(ApprovalRequested("r1-2-t0", paid), ToolHandedOver("r1-2-t1", calls[1]))
    chunks = told(UiEncoder(COMMAND), story.frames)
    asked = [chunk["input"] for chunk in chunks if chunk["type"] == "tool-input-available"]
    assert asked[-2:] == [{"sum": 1000}, {}]
    events = told(AguiEncoder(COMMAND, ASKED, ThreadState()), story.frames)
    grown = [event["delta"] for event in events if event["type"] == "TOOL_CALL_ARGS" and event["toolCallId"] == "c0"]
    assert "".join(grown) == '{"sum":1000}'
    deltas = [chunk["inputTextDelta"] for chunk in chunks if chunk["type"] == "tool-input-delta"]
    assert deltas[-2:] == ['{"sum":1000}', "{}"]
    # and so they are when they are read back
    recorded = [frame for frame in story.frames if not isinstance(frame, Delta)]
    message = GrowingMessage()
    for chunk in UiEncoder(COMMAND).retold(recorded):
        message.take(chunk)
    assert [part["input"] for part in message.parts if part.get("toolCallId") == "c0"] == [{"sum": 1000}]


def test_what_was_told_of_other_arguments_is_not_gone_on_with() -> None:
    # of a run that began before anybody noted that its calls may be changed
    story = Story().asks(1).hears(call=CallTold(0, "c0", "pay"), arguments='{"sum":1')
    said = (Judgement(0, approval=True, arguments='{"sum": 1000}'),)
    calls = (ToolCall("c0", "pay", '{"sum":1}'),)
    story.then(ModelReturned("r1-1-m", "", "tool_calls", Usage(), calls, judged=said))
    chunks = told(UiEncoder(COMMAND), story.frames)
    assert [chunk["input"] for chunk in chunks if chunk["type"] == "tool-input-available"] == [{"sum": 1000}]
    assert [chunk["inputTextDelta"] for chunk in chunks if chunk["type"] == "tool-input-delta"] == ['{"sum":1']


def test_arguments_that_are_no_json_are_an_error_of_the_call() -> None:
    story = Story().asks(1).returns("", (ToolCall("c0", "look", '{"at'),))
    chunks = told(ui(), story.then(ToolFailed("r1-1-t0", "c0", "they do not fit")).frames)
    assert [chunk["type"] for chunk in chunks[-2:]] == ["tool-input-error", "tool-output-error"]


def test_what_a_tool_keeps_in_mind_is_a_change_of_the_state() -> None:
    story, state = Story().asks(1).returns("", CALLS[:1]), ThreadState()
    writes = (MemoryWrite("a/b", "x"), MemoryWrite("", '{"n": 1}', "working"), MemoryWrite("", '{"m": 2}', "merge"))
    story.then(ToolReturned("r1-1-t0", "c0", "ok", writes))
    events = told(AguiEncoder(COMMAND, ASKED, state), story.frames)
    assert [event["delta"] for event in events if event["type"] == "STATE_DELTA"] == [
        [{"op": "add", "path": "/notes/a~1b", "value": "x"}],
        [{"op": "add", "path": "/workingMemory", "value": {"n": 1}}],
        [{"op": "add", "path": "/workingMemory", "value": {"n": 1, "m": 2}}],
    ]
    assert state.snapshot({"mine": 1}) == {"mine": 1, "workingMemory": {"n": 1, "m": 2}, "notes": {"a/b": "x"}}
    assert state.wanted({"workingMemory": {"n": 1, "m": 2}}) == ""
    assert state.wanted({"workingMemory": {"n": 3}}) == '{"n":3}'


def message(role: str, *parts: dict[str, Any], identity: str = "u1") -> dict[str, Any]:
    return {"id": identity, "role": role, "parts": list(parts)}


def say(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def chat(*messages: dict[str, Any], **more: Any) -> Any:
    return read_chat(json.dumps({"id": "c", "messages": messages, **more}).encode())


def test_only_what_is_new_of_a_conversation_is_asked() -> None:
    ours = message("assistant", say("hello"), identity="msg_r0")
    asked = run_agent(chat(message("user", say("a")), ours, message("user", say("b"), identity="u2")), "demo", ())
    assert asked.messages == (Message("user", "b"),)
    assert asked.note == {"ui": ["u2"]}
    theirs = message(
        "assistant",
        say("hello"),
        {"type": "tool-look", "toolCallId": "c", "state": "output-available", "input": {}, "output": "sky"},
        say("sky"),
        identity="x",
    )
    brought = run_agent(chat(message("user", say("a")), theirs, message("user", say("b"))), "demo", ())
    assert [one.role for one in brought.messages] == ["user", "assistant", "tool", "assistant", "user"]
    twice = chat(message("user", say("a")), message("user", say("b"), identity="u2"))
    assert run_agent(twice, "demo", {"u1"}).messages == (Message("user", "b"),)
    again = chat(message("user", say("a")), trigger="regenerate-message")
    assert run_agent(again, "demo", {"u1"}).messages == (Message("user", "a"),)
    open_call = {"type": "tool-look", "toolCallId": "c0", "state": "approval-requested", "approval": {"id": "e"}}
    instead = chat(message("assistant", open_call, identity="msg_r0"), message("user", say("never mind")))
    assert run_agent(instead, "demo", ()).when_busy == "replace"


def test_parts_answer_what_waits() -> None:
    waits = [Waiting("approval", "t1", "e0", CALLS[0]), Waiting("caller", "t1", "e1", CALLS[1])]
    waits.append(Waiting("data", "t1", "e2", ToolCall("c2", "x", "")))
    approval = {"type": "tool-look", "toolCallId": "c0", "state": "approval-responded"}
    yes = approval | {"approval": {"id": "e0", "approved": True}}
    done = {"type": "tool-look", "toolCallId": "c1", "state": "output-available", "output": {"a": 1}}
    data = {"type": "dynamic-tool", "toolName": "x", "toolCallId": "c2", "state": "output-available", "output": 7}
    (given,) = chat(message("assistant", yes, done, data)).messages
    assert answers(given, waits) == [
        Approve("e0", CALLS[0].arguments),
        PostResult("e1", '{"a":1}'),
        Resume("e2", 7),
    ]
    no = approval | {"approval": {"id": "e0", "approved": False, "reason": "no"}}
    broken = {"type": "tool-look", "toolCallId": "c1", "state": "output-error", "errorText": "lost"}
    (given,) = chat(message("assistant", no, broken)).messages
    assert answers(given, waits) == [Deny("e0", "no"), PostResult("e1", error="lost")]
    (given,) = chat(message("assistant", approval | {"approval": {"id": "other", "approved": True}})).messages
    with pytest.raises(BadRequest, match="waited for") as refusal:
        answers(given, waits)
    assert refusal.value.status == 409


def test_interrupts_and_results_answer_what_waits() -> None:
    waits = [
        Waiting("approval", "t1", "e0", CALLS[0]),
        Waiting("caller", "t1", "e1", CALLS[1]),
        Waiting("data", "t1", "e2", CALLS[0]),
    ]

    def asked(*resume: dict[str, Any], messages: Sequence[dict[str, Any]] = ()) -> AguiInput:
        body = {"threadId": "t", "runId": "r", "messages": messages, "resume": resume}
        return read_input(json.dumps(body).encode())

    yes = {"interruptId": "e0", "status": "resolved", "payload": {"approved": True}}
    data = {"interruptId": "e2", "status": "resolved", "payload": 7}
    result = {"id": "m", "role": "tool", "toolCallId": "c1", "content": "sky"}
    assert agui_answers(asked(yes, data, messages=[result]), "r1", waits) == [
        Approve("e0", CALLS[0].arguments),
        PostResult("e1", "sky"),
        Resume("e2", 7),
    ]
    for payload in ({"approved": False}, {"approved": "yes"}, None, "no"):
        assert isinstance(agui_answers(asked(yes | {"payload": payload}), "r1", waits)[0], Deny)
    (ended,) = agui_answers(asked(yes, {"interruptId": "e2", "status": "cancelled"}), "r1", waits)
    assert isinstance(ended, AbortRun)
    with pytest.raises(BadRequest, match="waited for"):
        agui_answers(asked({"interruptId": "e9", "status": "cancelled"}), "r1", waits)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"id": "c", "messages": []}',
        b'{"id": "c", "messages": [{"role": "user"}]}',
        b'{"id": 1, "messages": [{"role": "user", "parts": []}]}',
        b'{"id": "c", "messages": [{"role": "user", "parts": []}], "trigger": "resume"}',
        b'{"id": "c", "messages": [{"role": "user", "parts": [{"type": "file", "url": "x"}]}]}',
        b'{"id": "c", "messages": [{"role": "system", "parts": []}]}',
    ],
)
def test_what_no_chat_sends_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest) as refusal:
        run_agent(read_chat(body), "demo", ())
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    "messages",
    [
        [{"id": "a", "role": "assistant", "content": "hello"}],
        [{"id": "a", "role": "system", "content": "be kind"}],
        [{"id": "a", "role": "user", "content": [{"type": "image", "source": {}}]}],
        [{"id": "a", "role": "user", "content": 7}],
    ],
)
def test_what_no_model_here_reads_is_refused(messages: Any) -> None:
    asked = read_input(json.dumps({"threadId": "t", "runId": "r", "messages": messages}).encode())
    with pytest.raises(BadRequest) as refusal:
        agui_run(asked, "demo", (), "")
    assert refusal.value.status == 400


def test_a_conversation_of_any_name_has_a_thread_of_its_own() -> None:
    assert thread_of("chat-1", "id") == "chat-1"
    named = {thread_of(name, "id") for name in ("AbC", "abC", "a.b", "ä", "\ud800", "a" * 200)}
    assert len(named) == 6
    for name in ("", "a" * 201):
        with pytest.raises(BadRequest):
            thread_of(name, "id")
