"""Threads that a real stack recorded, as spans."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus.store import StoredEvent
from infra.bundles import Bundle
from infra.spans.content import NoContent, Redacted
from infra.spans.engine import engine_span
from infra.spans.fold import ThreadSpans
from infra.spans.names import NAMES, Names
from infra.spans.span import Span
from schemas import codec
from schemas.messages import Message, ToolCall
from schemas.processing import Processed
from schemas.runs import MessageAdded, ModelCalled
from schemas.steps import Served
from schemas.tracing import beginning, request_span, span_id, within

GOLDEN = Path(__file__).parents[2] / "golden" / "threads"
BUNDLES = sorted(GOLDEN.glob("*.jsonl"))
THREADS = [
    pytest.param(events, id=f"{path.stem}:{events[0].fact.thread}")
    for path in BUNDLES
    for events in Bundle(path).threads()
]
NAMES_NOW = NAMES["1.41"]


def thread(identity: str) -> list[StoredEvent]:
    return next(events for events in Bundle(GOLDEN / "0.1.0.jsonl").threads() if events[0].fact.thread == identity)


def spans_of(events: list[StoredEvent], names: Names, content: NoContent) -> list[Span]:
    fold = ThreadSpans(events[0].fact.tenant, events[0].fact.thread, names, content)
    return [span for event in events for span in fold.take(event)]


def spans(events: list[StoredEvent], content: NoContent | None = None) -> list[Span]:
    return spans_of(events, NAMES_NOW, content or NoContent())


@pytest.mark.parametrize("events", THREADS)
def test_spans_have_ids_of_their_own_and_lie_within_their_parents(events: list[StoredEvent]) -> None:
    made = spans(events)
    assert len({span.span for span in made}) == len(made)
    by_id = {span.span: span for span in made}
    for span in made:
        assert span.start <= span.end
        parent = by_id.get(span.parent)
        if parent is not None:
            assert parent.trace == span.trace
            assert parent.start <= span.start, (parent.name, span.name)
            # a goal's runs go on when the request that set it is long answered
            assert span.end <= parent.end or span.attributes.get("ostinato.source") == "goal", (parent.name, span.name)
        assert span.attributes["session.id"]
        assert span.attributes["ostinato.tenant"] == events[0].fact.tenant


@pytest.mark.parametrize("events", THREADS)
def test_whoever_begins_to_follow_later_tells_the_same_of_what_ends_later(events: list[StoredEvent]) -> None:
    first = events[0].fact
    whole = [ThreadSpans(first.tenant, first.thread, NAMES_NOW).take(event) for event in events[:1]]
    fold = ThreadSpans(first.tenant, first.thread, NAMES_NOW)
    by_event = [fold.take(event) for event in events]
    assert by_event[:1] == whole
    assert [span for told in by_event for span in told] == spans(events)
    assert not fold.open


def test_a_run_is_a_tree_of_steps_model_calls_and_tools() -> None:
    made = spans(thread("approved"))
    names = {span.span: span.name for span in made}
    (run,) = [span for span in made if span.name.startswith("invoke_agent") and "run" in names[span.parent]][:1]
    assert run.name == "invoke_agent careful"
    steps = [span for span in made if span.parent == run.span]
    assert [span.name for span in steps][:2] == ["step 1", "step 2"]
    below = [span.name for span in made if span.parent == steps[0].span]
    assert below == ["chat ostinato-mini", "execute_tool calculator"]
    assert [one.name for one in run.moments] == ["approval.requested", "approval.given"]
    assert run.attributes["gen_ai.usage.output_tokens"] > 0
    assert {span.name for span in made} >= {"run careful", "approve agent"}


def test_nothing_that_was_said_is_told_unless_it_is_asked_for() -> None:
    events = thread("approved")
    assert "8 times 9" not in str(spans(events))
    told = {span.name: span for span in reversed(spans(events, Redacted()))}
    assert "8 times 9" in told["chat ostinato-mini"].attributes["gen_ai.input.messages"]
    assert "8 * 9" in told["execute_tool calculator"].attributes["gen_ai.tool.call.arguments"]
    assert "72" in told["execute_tool calculator"].attributes["gen_ai.tool.call.result"]


def test_secrets_are_not_told_with_what_was_said() -> None:
    secret = "write to ada@example.org with sk-proj-abcdefghijklmnopqrstuvwxyz123456"
    call = ToolCall("c1", "mail", f'{{"text": "{secret}"}}')
    messages = [Message("system", secret), Message("user", secret), Message("assistant", secret, (call,))]
    messages.append(Message("tool", secret, tool_call_id="c1"))
    told = {**Redacted().heard(NAMES_NOW, messages), **Redacted().said(NAMES_NOW, secret, [call])}
    assert str(told).count("write to") == 7
    assert "ada@example.org" not in str(told)
    assert "sk-proj-abcdefghij" not in str(told)


def input_of(span: Span) -> list[dict[str, Any]]:
    return list(msgspec.json.decode(span.attributes["gen_ai.input.messages"]))


def test_a_model_call_is_told_of_with_all_that_it_was_asked_with() -> None:
    calls = [span for span in spans(thread("approved"), Redacted()) if span.name.startswith("chat")][:2]
    first, second = [input_of(call) for call in calls]
    assert [one["role"] for one in first] == ["system", "user"]
    assert [one["role"] for one in second] == ["system", "user", "assistant", "tool"]
    (called,), (answered,) = second[2]["parts"], second[3]["parts"]
    assert (called["type"], called["name"], called["arguments"]) == (
        "tool_call",
        "calculator",
        '{"expression": "8 * 9"}',
    )
    assert answered == {"type": "tool_call_response", "id": called["id"], "response": "72"}
    assert second[:2] == first


def test_a_later_run_is_told_of_with_the_turns_before_it() -> None:
    events = thread("approved")
    runs = [span for span in spans(events, Redacted()) if span.name.startswith("chat")]
    last = input_of(runs[-1])
    added = [codec.event_of(one.fact) for one in events if one.fact.type == "message.added"]
    said = [one.message.content for one in added if isinstance(one, MessageAdded)]
    assert len(said) > 1
    assert [one["parts"][0]["content"] for one in last if one["role"] == "user"] == said


@pytest.mark.parametrize("events", THREADS)
def test_what_the_log_has_of_a_call_is_what_it_was_asked_with(events: list[StoredEvent]) -> None:
    called = [codec.event_of(one.fact) for one in events if one.fact.type == "model.called"]
    told = [span for span in spans(events, Redacted()) if span.name.startswith("chat")]
    wanted = {one.effect: one.seen - one.first for one in called if isinstance(one, ModelCalled)}
    for span in told:
        shown = [one for one in input_of(span) if one["role"] != "system"]
        assert len(shown) >= wanted[span.attributes["ostinato.effect"]], span.attributes["ostinato.effect"]


def test_of_an_input_that_is_too_much_instructions_and_the_latest_are_told() -> None:
    messages = [Message("system", "Be brief."), *(Message("user", f"{n} " + "x" * 20_000) for n in range(9))]
    told = Redacted().heard(NAMES_NOW, messages)
    shown = msgspec.json.decode(told["gen_ai.input.messages"])
    assert [one["parts"][0]["content"][:2] for one in shown] == ["Be", "6 ", "7 ", "8 "]
    assert told["ostinato.input.left_out"] == 6
    assert len(told["gen_ai.input.messages"]) < 66_000


def test_what_was_erased_is_told_with_nothing_that_stands_for_it() -> None:
    events = thread("approved")
    at = next(index for index, one in enumerate(events) if one.fact.type == "message.added")
    erased = msgspec.structs.replace(events[at].fact, payload=codec.ERASED)
    told = spans([*events[:at], events[at]._replace(fact=erased), *events[at + 1 :]], Redacted())
    assert all("8 times 9" not in str(span) for span in told)
    assert {span.span for span in told} == {span.span for span in spans(events)}


def test_a_search_of_memory_is_one_span_of_its_operation() -> None:
    events = thread("approved")
    at = next(index for index, one in enumerate(events) if one.fact.type == "model.returned")
    found = [Processed("semantic-recall", "prompt", "noticed", 1, place, memory=True) for place in ("t1 2/0", "t2 5/1")]
    processed = (msgspec.structs.replace(found[0], took_us=40), found[1], Processed("regex-filter", "stream", "passed"))
    returned = msgspec.structs.replace(codec.event_of(events[at].fact), processed=processed)
    fact = msgspec.structs.replace(events[at].fact, payload=msgspec.Raw(codec.payload(returned)))
    made = spans([*events[:at], events[at]._replace(fact=fact), *events[at + 1 :]])
    (search,) = [span for span in made if span.name == "search_memory semantic-recall"]
    assert search.end - search.start == 40
    assert search.attributes["gen_ai.operation.name"] == "search_memory"
    assert search.attributes["ostinato.memory.found"] == ["t1 2/0", "t2 5/1"]
    assert search.attributes["ostinato.found"] == 2
    assert [span.name for span in made if span.name.startswith("processor")] == ["processor regex-filter"]


def test_a_write_to_memory_is_a_span_of_its_operation_within_what_wrote() -> None:
    bundles = [events for path in BUNDLES for events in Bundle(path).threads()]
    written = [span for events in bundles for span in spans(events) if span.name.startswith("update_memory")]
    assert {span.attributes["gen_ai.operation.name"] for span in written} == {"update_memory"}
    assert {span.name for span in written} >= {"update_memory memory.written", "update_memory thread.created"}


MEMORY = {
    "create_memory", "create_memory_store", "delete_memory", "delete_memory_store", "search_memory", "update_memory",
    "upsert_memory",
}  # fmt: skip
"""The operations on memory that the conventions of 0.1 know."""


def test_operations_on_memory_are_those_that_a_version_knows() -> None:
    names = NAMES["0.1"]
    assert {*names.writes.values(), names.forget, names.recall} == MEMORY
    bundles = [events for path in BUNDLES for events in Bundle(path).threads()]
    made = [span for events in bundles for span in spans_of(events, names, NoContent())]
    told = {span.attributes["ostinato.memory"]: span for span in made if "ostinato.memory" in span.attributes}
    by_event = {kind: span.attributes["gen_ai.operation.name"] for kind, span in told.items()}
    assert (
        by_event.items()
        <= {
            "thread.created": "create_memory_store",
            "thread.deleted": "delete_memory_store",
            "thread.renamed": "update_memory",
            "memory.observed": "create_memory",
            "memory.written": "upsert_memory",
            "working.written": "update_memory",
        }.items()
    )
    assert by_event.keys() >= {"thread.created", "memory.written"}
    note = told["memory.written"].attributes
    assert note["gen_ai.memory.store.id"] == note["ostinato.thread"]
    assert note["gen_ai.memory.record.id"] == note["ostinato.memory.topic"]
    assert note["gen_ai.memory.record.count"] == 1
    # the versions before know none of these
    assert not any("gen_ai.memory" in name for events in bundles for span in spans(events) for name in span.attributes)


def test_a_note_that_is_emptied_is_deleted() -> None:
    events = next(
        events
        for path in BUNDLES
        for events in Bundle(path).threads()
        if any(one.fact.type == "memory.written" for one in events)
    )
    at = next(index for index, one in enumerate(events) if one.fact.type == "memory.written")
    emptied = msgspec.structs.replace(codec.event_of(events[at].fact), text="")
    fact = msgspec.structs.replace(events[at].fact, payload=msgspec.Raw(codec.payload(emptied)))
    changed = [*events[:at], events[at]._replace(fact=fact), *events[at + 1 :]]
    assert any(span.name == "delete_memory memory.written" for span in spans_of(changed, NAMES["0.1"], NoContent()))


def test_each_processor_that_looked_at_a_call_has_a_span_as_long_as_it_took() -> None:
    events = thread("approved")
    at = next(index for index, one in enumerate(events) if one.fact.type == "model.returned")
    begun = next(one.time for one in events if one.fact.type == "model.called")
    processed = (
        Processed("moderation", "input", "passed", took_us=40),
        Processed("regex-filter", "stream", "changed", 2, "EMAIL", took_us=10**12),
    )
    returned = msgspec.structs.replace(codec.event_of(events[at].fact), processed=processed)
    fact = msgspec.structs.replace(events[at].fact, payload=msgspec.Raw(codec.payload(returned)))
    made = spans([*events[:at], events[at]._replace(fact=fact), *events[at + 1 :]])
    call = next(span for span in made if span.name.startswith("chat"))
    first, second = [span for span in made if span.name.startswith("processor ")]
    assert (first.name, second.name) == ("processor moderation", "processor regex-filter")
    assert first.parent == second.parent == call.span
    assert (first.end - first.start, first.end, second.start) == (40, call.end, begun)
    told = {name: value for name, value in second.attributes.items() if name.startswith("ostinato.")}
    assert told.items() >= {
        "ostinato.hook": "stream", "ostinato.action": "changed", "ostinato.found": 2, "ostinato.reason": "EMAIL",
    }.items()  # fmt: skip


def test_names_of_the_conventions_are_spelled_in_one_table_alone() -> None:
    root = Path(__file__).parents[3]
    files = [
        file for folder in ("actors", "bus", "engine", "infra", "schemas") for file in root.glob(f"{folder}/**/*.py")
    ]
    spelled = [file.name for file in files if re.search(r"""["'](?:gen_ai|messaging)\.""", file.read_text("utf-8"))]
    assert spelled == ["names.py"]


def test_versions_of_the_conventions_name_things_otherwise() -> None:
    events = thread("approved")
    old = next(span for span in spans_of(events, NAMES["1.36"], NoContent()) if span.name.startswith("chat"))
    new = next(span for span in spans(events) if span.name.startswith("chat"))
    assert old.attributes["gen_ai.system"] == new.attributes["gen_ai.provider.name"] == "ostinato"
    assert (old.span, old.trace) == (new.span, new.trace)


def test_a_trace_that_begins_here_has_a_root_and_one_of_a_caller_has_its_span_above() -> None:
    events = thread("approved")
    command = events[0].fact.cause
    mine = beginning(7, "default", command)

    def root(traceparent: str) -> Span:
        first = events[0]
        fact = msgspec.structs.replace(
            first.fact,
            payload=msgspec.Raw(
                bytes(first.fact.payload).replace(events[0].fact.traceparent.encode(), traceparent.encode())
            ),
        )
        changed = [first._replace(fact=fact), *events[1:]]
        return next(span for span in spans(changed) if span.span == request_span("default", command))

    assert root(mine).parent == ""
    assert root(mine).trace == f"{7:032x}"
    theirs = root("00-" + "ab" * 16 + "-" + "cd" * 8 + "-00")
    assert (theirs.trace, theirs.parent, theirs.sampled) == ("ab" * 16, "cd" * 8, False)


def test_what_is_handed_on_names_the_span_it_comes_from() -> None:
    assert within("00-" + "ab" * 16 + "-" + "cd" * 8 + "-01", "12" * 8) == "00-" + "ab" * 16 + "-" + "12" * 8 + "-01"
    assert within("nonsense", "12" * 8) == ""


def test_an_engine_request_says_how_long_it_waited_and_names_its_steps() -> None:
    served = Served(
        *("p1", 12, "acme/t1/r1-1-m", 1_000_000, 1_500_000, 1_750_000, 2_750_000, "stop", 20, 9, 16),
        steps=((3, 4), (7, 12)),
        traceparent="00-" + "ab" * 16 + "-" + "cd" * 8 + "-01",
    )
    span = engine_span("tiny", served, NAMES_NOW, {"session.id": "s1", "user.id": "ada"})
    assert span.trace == "ab" * 16
    assert span.parent == span_id("acme", "t1", "r1-1-m")
    assert span.attributes["gen_ai.latency.time_in_queue"] == 0.5
    assert span.attributes["gen_ai.latency.time_in_model_prefill"] == 0.25
    assert span.attributes["gen_ai.latency.time_in_model_decode"] == 1.0
    assert span.attributes["gen_ai.latency.time_to_first_token"] == 0.75
    assert [link.attributes["ostinato.step"] for link in span.links] == [3, 4, 7, 8, 9, 10, 11, 12]
    assert [one.name for one in span.moments] == ["scheduled", "first token"]
