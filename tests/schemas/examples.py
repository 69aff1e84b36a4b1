"""One full example of every event: the source of the golden files."""

from __future__ import annotations

from collections import Counter

import msgspec
from msgspec.structs import replace

from schemas import codec
from schemas.answers import Alternative, Sampled, TokenTold
from schemas.batches import (
    Batch,
    BatchCancelling,
    BatchCreated,
    BatchExpired,
    BatchFinalizing,
    BatchLineEnded,
    BatchLinesBegun,
    BatchRead,
    BatchWritten,
    LineProblem,
)
from schemas.commands import Command, Generate, Parent, RunAgent
from schemas.delegation import ChildDisowned, ChildEnded, RunHandedOver, RunJoined
from schemas.envelope import FORMAT, GENESIS, Envelope, Fact
from schemas.forks import Change
from schemas.generation import Sampling
from schemas.hooks import HooksTold, Judgement, StepOpened, StepPrepared
from schemas.memory import (
    CondensingBegun,
    CondensingEnded,
    MemoryPlan,
    MemoryWrite,
    Observed,
    ThreadCreated,
    ThreadDeleted,
    ThreadErased,
    ThreadRenamed,
    Working,
    WorkingWritten,
)
from schemas.messages import Calling, Message, Thought, ToolCall, ToolSpec, Usage
from schemas.models import ModelChain, ModelEntry, PassedOver
from schemas.processing import Processed
from schemas.profiles import ModePlan, Profile, ToolBinding
from schemas.pushes import (
    ForgetPushes,
    PushForgotten,
    PushNoticed,
    PushTarget,
    PushTried,
    SubscribePush,
    UnsubscribePush,
)
from schemas.runs import (
    ApprovalDenied,
    ApprovalGiven,
    ApprovalRequested,
    CommandAccepted,
    CommandRefused,
    DeadlinePassed,
    Event,
    MemoryWritten,
    MessageAdded,
    ModelCalled,
    ModelFailed,
    ModelReturned,
    OwnershipTaken,
    Problem,
    RetryDue,
    RetryScheduled,
    RunFailed,
    RunFinished,
    RunQueued,
    RunStarted,
    ThreadForked,
    ToolCalled,
    ToolFailed,
    ToolIndeterminate,
    ToolResumed,
    ToolReturned,
)
from schemas.schedules import (
    Schedule,
    ScheduleAdded,
    ScheduleClosed,
    ScheduleDue,
    ScheduleErased,
    ScheduleFired,
    ScheduleMissed,
    SchedulePaused,
    SchedulePlanned,
    ScheduleRemoved,
    ScheduleSent,
)
from schemas.standing import (
    GoalCleared,
    GoalJudged,
    GoalJudging,
    GoalPaused,
    GoalResumed,
    GoalSet,
    GrantWithdrawn,
    ModeChanged,
    ToolGranted,
)
from schemas.structured import Structured
from schemas.tasks import TaskCancelled, TaskEnded, TaskStarted
from schemas.waits import ToolContinued, ToolHandedOver, ToolSuspended

_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_CALL = ToolCall(id="call_1", name="calculator", arguments='{"expression": "2+2"}')
_SAMPLING = Sampling(temperature=0.7, top_p=0.9, top_k=40, seed=123, max_tokens=64, stop_tokens=(2, 3))
_PROBLEM = Problem(kind="overloaded", message="too busy", field="model", retry_after_ms=500)
_PROFILE = Profile(
    agent="demo",
    model="Qwen/Qwen3-0.6B",
    instructions="Be kind. Ünïcödé ☂",
    tools=(ToolBinding(name="calculator", effect="pure", digest="00ff"),),
    sampling=_SAMPLING,
    max_steps=8,
)

_PROCESSED = (Processed(processor="regex-filter", hook="stream", action="changed", found=2, reason="EMAIL"),)
_REMEMBERING = Profile(
    agent="demo",
    model="m",
    instructions="",
    tools=(),
    sampling=Sampling(),
    max_steps=8,
    processors=("regex-filter",),
    memory=MemoryPlan(
        observe=9, titles=True, last=20, tokens=4000, working=Working(template="- name:", parameters={"type": "object"})
    ),
)

_RUN = Command(
    id="run-1",
    tenant="acme",
    kind="agent",
    thread="thread-1",
    verb="run",
    data=RunAgent(
        agent="demo",
        text="What is 2+2?",
        messages=(
            Message(role="assistant", content="", tool_calls=(_CALL,)),
            Message(role="tool", content="4", tool_call_id="call_1"),
        ),
        thread="existing",
        temperature=0.5,
        seed=-7,
        max_tokens=100,
    ),
    source="http",
    time="2026-11-23T14:05:00.000000Z",
    traceparent=_TRACE,
)
_SPEC = ToolSpec(name="where", description="Tell where the user is.", parameters={"type": "object", "properties": {}})
_WHOLE = Profile(
    agent="demo",
    model="m",
    instructions="Be kind.",
    tools=(
        ToolBinding("where", "once", "00ff", approval=True, place="client", spec=_SPEC),
        ToolBinding("sky", "pure", "00ff", place="service", spec=_SPEC, service="weather", timeout_ms=500),
    ),
    sampling=_SAMPLING,
    max_steps=8,
    calling=Calling(choice="required", tool="sky", parallel=False),
    tool_concurrency=2,
    step_timeout_ms=30_000,
    stop_tools=("sky",),
    most_tokens=1000,
    prepares=True,
    observed=True,
)
_REQUEST = Command(
    id="run-2",
    tenant="acme",
    kind="agent",
    thread="thread-1",
    verb="run",
    data=RunAgent(
        agent="demo",
        text="What is 2+2?",
        context={"user": "ann", "limits": {"amount": 5}},
        instructions="Be brief.",
        model="m",
        max_steps=3,
        active_tools=("sky",),
        tool_choice="required",
        tool="sky",
        parallel_tool_calls=False,
        tool_concurrency=1,
        step_timeout_ms=1000,
        most_tokens=500,
        tools=(_SPEC,),
        structured=Structured(kind="json_object"),
        parent=Parent(thread="thread-0", run="run-0", effect="run-0-1-t0", depth=2),
        when_busy="replace",
    ),
)
_GENERATE = Command(
    id="gen-1",
    tenant="acme",
    kind="generation",
    thread="gen-1",
    verb="generate",
    data=Generate(
        model="m",
        messages=(Message(role="user", content="hi"),),
        tools=(ToolSpec(name="f", description="d", parameters={"type": "object", "properties": {}}),),
        temperature=0.0,
        top_p=1.0,
        seed=1,
        max_tokens=5,
        stop=("END",),
    ),
)

_TOLD = (TokenTold(5, b"le", -0.25, 1, top=((5, b"le", -0.25), (6, b"\xe2", -1.5))),)

_PASSED = (PassedOver("openai/gpt-x", "overloaded", "too busy"),)
_CHAIN = ModelChain(
    (
        ModelEntry(
            "openai/gpt-x", retries=1, first_s=2.5, total_s=60.0, temperature=0.5, max_tokens=9, options={"a": 1}
        ),
        ModelEntry("anthropic/claude-x"),
    )
)

EXAMPLES: tuple[Event, ...] = (
    # an event that was given more fields has an example more: what was recorded before is pinned as it was
    CommandAccepted(command=_RUN),
    CommandRefused(command=_GENERATE, problem=_PROBLEM),
    MessageAdded(message=Message(role="user", content="What is 2+2?")),
    RunQueued(behind="run-0", profile=_PROFILE),
    RunStarted(profile=_PROFILE),
    ModelCalled(effect="run-1-1-m", model="m", step=1, seen=3, prefix="abcd", sampling=_SAMPLING, traceparent=_TRACE),
    ModelCalled(
        effect="run-1-1-m",
        model="m",
        step=1,
        seen=3,
        prefix="abcd",
        sampling=Sampling(
            structured=Structured(
                kind="json_schema",
                text='{"type": "object", "properties": {"a": {"type": "string"}}}',
                choices=("yes",),
                whitespace=" ",
                any_whitespace=False,
                additional_properties=False,
                after="</think>",
                field="response_format",
            ),
            structured_after=(7,),
        ),
    ),
    ModelReturned(
        effect="run-1-1-m",
        text="let me see",
        finish_reason="tool_calls",
        usage=Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=8),
        tool_calls=(_CALL,),
        engine="ostinato-mini",
    ),
    ModelReturned(
        effect="run-1-1-m",
        text="let me see",
        finish_reason="stop",
        usage=Usage(prompt_tokens=10, completion_tokens=5),
        logprobs=_TOLD,
        prompt_logprobs=_TOLD,
        token_ids=(5, 2),
        prompt_token_ids=(7, 8),
        more=(Alternative("let us see", "stop", (_CALL,), _TOLD, (5, 2)),),
    ),
    ModelReturned(
        effect="run-1-1-m",
        text="let me see",
        finish_reason="stop",
        usage=Usage(prompt_tokens=10, completion_tokens=5, reasoning_tokens=3),
        reasoning="two and two",
        more=(Alternative("let us see", "stop", reasoning="two"),),
    ),
    ModelReturned(
        effect="run-1-1-m",
        text="let me see",
        finish_reason="stop",
        usage=Usage(prompt_tokens=10, completion_tokens=5),
        more=(Alternative("let us see", "stop", sampled=Sampled(4, "0f" * 16)),),
        sampled=Sampled(5, "f0" * 16),
    ),
    ModelReturned(
        effect="run-1-1-m",
        text="",
        finish_reason="tool_calls",
        usage=Usage(prompt_tokens=10),
        tool_calls=(_CALL,),
        judged=(Judgement(0, approval=True, problem="it does not fit"),),
    ),
    ModelReturned(
        effect="run-1-1-m",
        text="let me see",
        finish_reason="stop",
        usage=Usage(prompt_tokens=10, completion_tokens=5),
        engine="anthropic/claude-x",
        reasoning="two and two",
        thoughts=(
            Thought("anthropic", 11, "c2ln", after=3),
            Thought("anthropic", seal="YmxvYg==", kind="sealed", call_id="call_1"),
        ),
        passed_over=_PASSED,
    ),
    ModelFailed(effect="run-1-1-m", problem=_PROBLEM),
    ModelFailed(effect="run-1-1-m", problem=_PROBLEM, passed_over=_PASSED),
    ApprovalRequested(effect="run-1-1-t0", call=_CALL),
    ApprovalGiven(effect="run-1-1-t0", by="cli"),
    ApprovalDenied(effect="run-1-1-t0", by="cli", reason="too dear"),
    ToolCalled(effect="run-1-1-t0", call=_CALL, effect_class="once"),
    RetryScheduled(
        effect="run-1-1-r2",
        attempt=2,
        at=1_700_000_001_250_000,
        kind="overloaded",
        decided=1_700_000_000_000_000,
        chance=123_456_789,
    ),
    RetryDue(effect="run-1-1-r2"),
    ToolResumed(effect="run-1-1-t0", attempt=2),
    ToolReturned(effect="run-1-1-t0", call_id="call_1", content="4", writes=(MemoryWrite(topic="a", text="b"),)),
    ToolFailed(effect="run-1-1-t0", call_id="call_1", content="error: no"),
    ToolReturned(effect="run-1-1-t0", call_id="call_1", content="4", result={"value": 4}, usage=Usage(9, 3)),
    ToolSuspended(
        effect="run-1-1-t0",
        call_id="call_1",
        payload={"amount": 5},
        schema={"type": "object", "properties": {"pin": {"type": "string"}}},
        problem="Object missing required field `pin`",
    ),
    ToolContinued(effect="run-1-1-t0", by="cli", answer={"pin": "1234"}),
    ToolHandedOver(effect="run-1-1-t0", call=_CALL),
    StepOpened(effect="run-1-2-p", step=2),
    StepPrepared(
        effect="run-1-2-p",
        stop="enough",
        failure="it raised",
        model="m",
        instructions="Be brief.",
        active_tools=("calculator",),
        temperature=0.5,
        max_tokens=10,
        calling=Calling(choice="required", tool="calculator", parallel=False),
    ),
    HooksTold(effect="run-1-h"),
    DeadlinePassed(effect="run-1-d"),
    ToolIndeterminate(effect="run-1-1-t0", call_id="call_1", content="unknown"),
    MemoryWritten(topic="colour", text="blue"),
    RunFinished(text="4", steps=2, usage=Usage(prompt_tokens=20, completion_tokens=7), finish_reason="length"),
    RunFinished(text="4", steps=2, usage=Usage(prompt_tokens=20), stopped_by="tool calculator"),
    RunFailed(problem=_PROBLEM, steps=8),
    CommandAccepted(command=_REQUEST),
    RunStarted(profile=_WHOLE),
    RunStarted(profile=replace(_PROFILE, chain=_CHAIN)),
    ThreadForked(origin="thread-0", at=5, changes=(Change("model", "m"),), run="run-1", profile=_PROFILE),
    OwnershipTaken(owner="agents-0", process="p123"),
    ThreadCreated(resource="ann@example.org", title="Ünïcödé ☂", metadata={"team": "red"}),
    ThreadRenamed(title="Sums", metadata={"team": "blue"}, by="cli"),
    ThreadDeleted(reason="asked for"),
    WorkingWritten(content="- name: Ann", by="cli"),
    Observed(upto=12, text="- her cat is Mitzi", first=4, at="2026-11-26T14:00:00.000000Z", whole=True),
    ModelCalled(effect="run-1-2-m", model="m", step=2, seen=9, prefix="abcd", sampling=_SAMPLING, first=4),
    RunStarted(profile=_REMEMBERING),
    ToolReturned(
        effect="run-1-1-t0",
        call_id="call_1",
        content="ok",
        writes=(MemoryWrite(topic="", text="{}", scope="merge"),),
        processed=_PROCESSED,
    ),
    ModelReturned(effect="r-1-m", text="mail [EMAIL]", finish_reason="stop", usage=Usage(3, 4), processed=_PROCESSED),
    ModelFailed(effect="run-1-1-m", problem=_PROBLEM, processed=_PROCESSED),
    ModelReturned(
        effect="run-1-1-m",
        text="let me see",
        finish_reason="length",
        usage=Usage(prompt_tokens=10, completion_tokens=5),
        more=(Alternative("let us see", "length", cut_off=(_CALL,)),),
        cut_off=(_CALL,),
    ),
    RunQueued(behind="run-1", profile=_PROFILE, joins=True),
    RunJoined(into="run-1", step=2),
    RunHandedOver(effect="run-1-1-t0", agent="billing", by="front"),
    ChildDisowned(effect="run-1-1-t0x"),
    ChildEnded(effect="run-1-1-t0x"),
    RunStarted(profile=replace(_REMEMBERING, most_cost=0.5, edition=1)),
    ModelReturned(effect="run-1-1-m", text="so", finish_reason="stop", usage=Usage(3, 4), cost=0.25),
    ModelFailed(effect="run-1-1-m", problem=_PROBLEM, usage=Usage(3, 4), cost=0.25),
    ToolReturned(effect="run-1-1-t0", call_id="call_1", content="it is theirs", cost=0.5, handover=_PROFILE),
    ToolFailed(effect="run-1-1-t0", call_id="call_1", content="error: no", usage=Usage(3, 4), cost=0.5),
    RunFinished(text="so", steps=1, usage=Usage(3, 4), cost=0.25),
    RunFailed(problem=_PROBLEM, steps=1, usage=Usage(3, 4), cost=0.25),
    CommandAccepted(
        command=Command(
            id="run-9",
            tenant="acme",
            kind="agent",
            thread="thread-1",
            verb="run",
            data=RunAgent(
                agent="front",
                text="hurry",
                when_busy="steer",
                most_cost=0.5,
                notes={"colour": "blue"},
                working="- name: Ann",
                task="run-1-1-t0b",
            ),
        )
    ),
    TaskStarted(effect="run-1-1-t0b", call=_CALL),
    TaskEnded(
        effect="run-1-1-t0b",
        outcome="unknown",
        content="nobody knows",
        writes=(MemoryWrite(topic="colour", text="blue"),),
        usage=Usage(3, 4),
        cost=0.5,
    ),
    TaskCancelled(effect="run-1-1-t0b", by="cli", reason="no more need"),
    ThreadErased(effect="thread-1-e", unsealed=3),
    ScheduleAdded(
        schedule=Schedule(
            cron="0 8 * * MON-FRI",
            agent="digest",
            text="What is new?",
            timezone="Europe/Vienna",
            thread="daily",
            missed="all",
            most=3,
            context={"team": "blue"},
            resource="ann",
        )
    ),
    SchedulePlanned(at=1_767_225_600_000_000, next=1_767_340_800_000_000),
    SchedulePlanned(at=1_767_225_600_000_000),
    SchedulePaused(by="cli"),
    ScheduleDue(effect="daily-1767340800", at=1_767_340_800_000_100),
    ScheduleFired(run="daily-1767340800", thread="daily", due=1_767_340_800_000_000),
    ScheduleFired(run="daily-n1", thread="daily-n1", due=1_767_340_800_000_000, by="cli"),
    ScheduleMissed(first=1_767_340_800_000_000, before=1_767_427_200_000_000),
    ScheduleSent(effect="daily-1767340800"),
    ScheduleSent(effect="daily-n1", problem="too large"),
    ScheduleRemoved(by="cli"),
    BatchCreated(
        batch=Batch(
            input_file="file-1",
            endpoint="/v1/embeddings",
            window_s=7200,
            window="2h",
            metadata={"team": "blue"},
            output_expires_s=3600,
        ),
        at=1_767_225_600_000_000,
        expires=1_767_232_800_000_000,
    ),
    BatchRead(
        effect="batch_1-r",
        at=1_767_225_600_000_100,
        total=3,
        width=2,
        problems=(LineProblem(code="invalid_method", message="GET", line=2, param="method"),),
    ),
    BatchLinesBegun(until=2),
    BatchLineEnded(effect="batch_1-0", line=0, failed=True, usage=Usage(3, 4)),
    BatchCancelling(at=1_767_225_600_000_200, by="http"),
    BatchExpired(effect="batch_1-x", at=1_767_232_800_000_000),
    BatchFinalizing(outcome="cancelled", at=1_767_225_600_000_200),
    BatchWritten(
        effect="batch_1-w",
        outcome="completed",
        at=1_767_225_600_000_300,
        output_file="file-batch_1-out",
        error_file="file-batch_1-err",
        completed=2,
        failed=1,
    ),
    ScheduleClosed(effect="daily-c", commands=("c1", "c2"), by_hand=1),
    ScheduleErased(effect="daily-e", unsealed=3),
    CondensingBegun(
        effect="run-1-2-c",
        run="run-1",
        first=4,
        upto=12,
        at=1_767_225_720_000_000,
        decided=1_767_225_600_000_000,
        whole=True,
    ),
    CondensingEnded(
        effect="run-1-2-c",
        first=4,
        upto=12,
        text="- her cat is Mitzi",
        at="2026-11-26T14:00:00.000000Z",
        whole=True,
        usage=Usage(300, 20),
        cost=0.01,
        engine="m",
    ),
    CondensingEnded(effect="run-1-2-c", first=4, upto=12, kind="timeout", reason="it took longer than 120 s"),
    RunStarted(profile=replace(_PROFILE, memory=MemoryPlan(observe=1000, observe_timeout_ms=120_000))),
    ModelReturned(
        effect="run-1-1-m",
        text='{"n":1}',
        finish_reason="stop",
        usage=Usage(3, 4),
        worded="its provider answered 400: response_format: not supported",
    ),
    CommandAccepted(command=replace(_RUN, request_id="req-7")),
    ModelFailed(
        effect="run-1-1-m",
        problem=_PROBLEM,
        processed=(Processed("semantic-recall", "prompt", "noticed", 1, "t1 2/0", memory=True),),
    ),
    ModelReturned(
        effect="run-1-1-m",
        text="",
        finish_reason="tool_calls",
        usage=Usage(prompt_tokens=10),
        tool_calls=(_CALL, _CALL),
        judged=(
            Judgement(0, approval=True, arguments='{"a":1}'),
            Judgement(1, approval=False, answer="it is known already"),
        ),
    ),
    CommandAccepted(
        command=Command(
            "a1",
            "acme",
            "push",
            "p1",
            "subscribe",
            SubscribePush("t1", "r1", PushTarget("c1", "https://example.com/hook", "secret", "Bearer", "key")),
        )
    ),
    CommandAccepted(command=Command("a2", "acme", "push", "p1", "unsubscribe", UnsubscribePush("c1"))),
    CommandAccepted(command=Command("a3", "acme", "push", "p1", "forget", ForgetPushes())),
    PushNoticed(effect="p1-w1", outcome="waiting", waits=("r1-1-t0",), body='{"task":{}}'),
    PushTried(effect="p1-1-0-a1", code=503, problem="answered 503", again=1_767_225_601_000_000),
    PushForgotten(),
    ModeChanged(mode="build", by="cli"),
    ToolGranted(tool="write_*", by="cli"),
    GrantWithdrawn(tool="write_*", by="cli"),
    GoalSet(goal="g1", agent="shop", text="Empty the inbox.", budget=5, by="cli"),
    GoalJudging(effect="g1-g1-1-g", run="g1-g1"),
    GoalJudged(
        effect="g1-g1-1-g",
        verdict="go_on",
        reason="two letters are left",
        profile=_PROFILE,
        usage=Usage(300, 20),
        cost=0.01,
    ),
    GoalPaused(reason="its budget of 5 runs is used up", by="cli"),
    GoalResumed(budget=10, by="cli"),
    GoalCleared(by="cli"),
    RunStarted(
        profile=replace(
            _PROFILE,
            tools=(ToolBinding("write", "once", "d1", approval=True, grantable=True),),
            modes=(ModePlan("plan", "Plan only.", ("read",), "m2"), ModePlan("build")),
        )
    ),
    CommandAccepted(command=replace(_RUN, data=replace(_RUN.data, mode="plan", goal="g1"))),
    StepPrepared(effect="run-1-1-p", model="m2", why="m2 (0.93)", usage=Usage(40, 1), cost=0.001),
    RunQueued(
        behind="run-0",
        profile=replace(
            _PROFILE, chain=ModelChain((ModelEntry("openai/gpt-x", headers={"x-gateway": "${GATEWAY_TOKEN}"}),))
        ),
    ),
    StepPrepared(effect="run-1-1-p", usage=Usage(50, 3), engines={"m2": Usage(40, 1), "m3": Usage(10, 2)}),
    GoalJudged(effect="g1-g1-1-g", verdict="done", usage=Usage(300, 20), agent="shop", engine="m2"),
    ToolGranted(tool="write", by="cli", agent="editor", digest="d1"),
    ModeChanged(mode="build", agent="editor"),
    ModelReturned(
        effect="run-1-1-m",
        text="let me",
        finish_reason="stop",
        usage=Usage(prompt_tokens=10, completion_tokens=2),
        more=(Alternative("let us", "stop", stopped_at="see"),),
        stopped_at=" see",
    ),
)

ENVELOPE = Envelope(
    format=FORMAT,
    shard=3,
    term=2,
    writer="p123",
    commit="c1",
    code="0.1.0",
    time=1_767_225_600_000_000,
    previous=GENESIS,
    facts=(
        Fact(
            tenant="acme",
            thread="thread-1",
            kind="thread",
            entity="thread-1",
            version=1,
            type="memory.written",
            cause="run-1",
            payload=msgspec.Raw(b'{"type":"memory.written","topic":"colour","text":"blue"}'),
            traceparent=_TRACE,
            key=None,
        ),
        Fact("acme", "t2", "run", "r2", 4, "run.sealed", "r2", msgspec.Raw(b'"c2VhbGVk"'), "", "key-1"),
    ),
)


def named() -> dict[str, Event]:
    """Name each example by its type, from the second of a type on with its number."""
    names, seen = dict[str, Event](), Counter[str]()
    for event in EXAMPLES:
        tag = codec.tag(event)
        seen[tag] += 1
        names[tag if seen[tag] == 1 else f"{tag}-{seen[tag]}"] = event
    return names
