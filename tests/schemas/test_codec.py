"""Bytes to shapes and back."""

from __future__ import annotations

import contextlib
import functools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec
from schemas.answers import CallTold, TokenTold
from schemas.batches import Batch
from schemas.commands import Approve, Command, Generate, Parent, PostResult, Resume, RunAgent
from schemas.envelope import Envelope, Fact
from schemas.errors import BadShape
from schemas.generation import Output, Repetition, Sampling
from schemas.hooks import StepPrepared
from schemas.live import Committed, Delta, Frame, Outcome
from schemas.memory import MemoryPlan, ThreadCreated, ThreadRenamed, Working
from schemas.messages import Message, ToolCall, ToolSpec, Usage, misplaced_in
from schemas.models import ModelChain, ModelEntry
from schemas.profiles import Profile, Retries, ToolBinding
from schemas.runs import Event, Problem, ToolReturned
from schemas.schedules import Schedule
from schemas.steps import Applied, RequestEvent, StepPlan, StepResult
from schemas.structured import Structured
from schemas.times import rfc3339, utc
from schemas.waits import ToolContinued, ToolSuspended

texts = st.text(max_size=12)
small = st.integers(-(1 << 62), 1 << 62)


st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False, width=32))
st.register_type_strategy(int, small)


ids = st.integers(0, (1 << 31) - 1)
several = st.lists(ids, max_size=3).map(tuple)
candidates = several | st.lists(several, max_size=3).map(tuple)
shares = st.floats(0, 1, width=32)
extras = st.dictionaries(
    st.text(min_size=1, max_size=4), ids | st.text(max_size=4) | st.lists(ids, max_size=2), max_size=2
)
structures = st.builds(
    Structured,
    kind=st.sampled_from(["json_schema", "json_object", "regex", "choice", "grammar", "structural_tag"]),
    text=texts,
    choices=st.lists(texts, max_size=2).map(tuple),
    whitespace=st.none() | texts,
    any_whitespace=st.booleans(),
    additional_properties=st.booleans(),
    after=texts,
    field=texts,
)
samplings = st.builds(
    Sampling,
    temperature=shares,
    top_p=shares,
    top_k=ids,
    seed=small,
    max_tokens=ids,
    stop_tokens=st.lists(ids, max_size=3).map(tuple),
    min_p=shares,
    presence_penalty=shares,
    frequency_penalty=shares,
    repetition_penalty=shares,
    min_tokens=ids,
    logit_bias=st.dictionaries(ids, shares, max_size=3),
    allowed_token_ids=st.lists(ids, max_size=3).map(tuple),
    bad_words=st.lists(st.lists(ids, max_size=3).map(tuple), max_size=3).map(tuple),
    skip_special_tokens=st.booleans(),
    include_stop_str_in_output=st.booleans(),
    extra_args=extras,
    truncate_prompt_tokens=st.integers(-1, 9),
    truncation_side=st.sampled_from(["left", "right"]),
    ignore_eos=st.booleans(),
    logprobs=st.none() | ids,
    prompt_logprobs=st.none() | ids,
    logprob_token_ids=st.lists(ids, max_size=3).map(tuple),
    prompt_logprob_token_ids=candidates,
    prompt_logprob_start=ids,
    trace_decode_token_ids=st.lists(ids, max_size=3).map(tuple),
    spaces_between_special_tokens=st.booleans(),
    detokenize=st.booleans(),
    repetition=st.none() | st.builds(Repetition, ids, ids, ids),
    structured=st.none() | structures,
    structured_after=st.lists(ids, max_size=3).map(tuple),
    thinking_budget=st.none() | ids,
    thinking_opening=st.lists(ids, max_size=3).map(tuple),
    thinking_closing=st.lists(ids, max_size=3).map(tuple),
    searching=st.booleans(),
)
anything = st.none() | st.booleans() | texts | st.lists(ids, max_size=2) | st.dictionaries(texts, texts, max_size=1)
objects = st.dictionaries(texts, st.booleans() | texts | st.lists(ids, max_size=2), max_size=2)
specs = st.builds(ToolSpec, texts, texts, st.sampled_from([{}, {"type": "object", "properties": {"a": {}}}]))
bindings = st.builds(
    ToolBinding,
    texts,
    st.sampled_from(["pure", "idempotent", "checkable", "once"]),
    texts,
    st.booleans(),
    st.sampled_from(["here", "client", "service"]),
    st.none() | specs,
    texts,
    ids,
)
st.register_type_strategy(ToolSpec, specs)
st.register_type_strategy(ToolBinding, bindings)
st.register_type_strategy(ToolSuspended, st.builds(ToolSuspended, texts, texts, anything, objects, texts))
st.register_type_strategy(ToolContinued, st.builds(ToolContinued, texts, texts, anything))
st.register_type_strategy(ToolReturned, st.builds(ToolReturned, texts, texts, texts, result=anything))
entries = st.builds(
    ModelEntry,
    model=texts,
    retries=st.integers(0, 100),
    first_s=shares,
    total_s=shares,
    temperature=st.none() | shares,
    max_tokens=st.none() | ids,
    options=extras,
)
st.register_type_strategy(Structured, structures)
notes = st.dictionaries(texts, texts, max_size=2)
st.register_type_strategy(
    Schedule,
    st.builds(Schedule, texts, texts, st.text(min_size=1, max_size=9), texts, texts, context=objects, resource=texts),
)
names = st.text(min_size=1, max_size=9)
st.register_type_strategy(Batch, st.builds(Batch, names, metadata=st.dictionaries(names, texts, max_size=2)))
st.register_type_strategy(ThreadCreated, st.builds(ThreadCreated, texts, texts, notes))
st.register_type_strategy(ThreadRenamed, st.builds(ThreadRenamed, texts, notes, texts))
engines = st.dictionaries(names, st.builds(Usage, ids), max_size=2)
st.register_type_strategy(StepPrepared, st.builds(StepPrepared, texts, engines=engines))
workings = st.builds(Working, texts, st.none() | notes)
st.register_type_strategy(MemoryPlan, st.builds(MemoryPlan, ids, ids, st.none() | workings))
st.register_type_strategy(Sampling, samplings)
st.register_type_strategy(ModelChain, st.builds(ModelChain, st.lists(entries, min_size=1, max_size=3).map(tuple)))


@pytest.mark.parametrize("kind", codec.EVENT_TYPES.values(), ids=codec.EVENT_TYPES.keys())
@settings(max_examples=30)
@given(data=st.data())
def test_every_event_survives_being_written_and_read(kind: type, data: st.DataObject) -> None:
    event = data.draw(events(kind))
    assert codec.decode(codec.encode(event), Event) == event


@functools.cache
def events(kind: type) -> st.SearchStrategy[object]:
    """Any value of an event class, whose commands carry data that fits."""
    calls = st.builds(ToolCall, texts, texts, texts)
    messages = st.builds(
        Message,
        role=st.sampled_from(["system", "user", "assistant", "tool"]),
        content=texts,
        tool_calls=st.lists(calls, max_size=2).map(tuple),
        tool_call_id=st.none() | texts,
        reasoning=texts,
    )
    temperature = st.none() | st.floats(0, 2)
    run = st.builds(
        RunAgent,
        agent=texts,
        text=st.none() | texts,
        messages=st.lists(messages, max_size=2).map(tuple),
        thread=st.sampled_from(["any", "existing"]),
        temperature=temperature,
        seed=st.none() | st.integers(-(1 << 63), (1 << 63) - 1),
        max_tokens=st.none() | st.integers(1, 1 << 31),
        context=objects,
        instructions=st.none() | texts,
        model=st.none() | texts,
        max_steps=st.none() | st.integers(1, 9),
        active_tools=st.none() | st.lists(texts, max_size=2).map(tuple),
        tool_choice=st.sampled_from([None, "auto", "none", "required"]),
        tool=texts,
        parallel_tool_calls=st.none() | st.booleans(),
        tool_concurrency=st.none() | st.integers(1, 9),
        step_timeout_ms=st.none() | ids,
        most_tokens=st.none() | ids,
        tools=st.lists(specs, max_size=1).map(tuple),
        structured=st.none() | structures,
        parent=st.none() | st.builds(Parent, texts, texts, texts, st.integers(1, 9)),
        when_busy=st.sampled_from(["queue", "replace"]),
        note=objects,
    )
    settling = st.builds(Approve, texts, st.none() | texts) | st.builds(Resume, texts, anything)
    settling |= st.builds(PostResult, texts, texts, texts)
    generate = st.builds(
        Generate,
        model=texts,
        messages=st.lists(messages, max_size=2).map(tuple),
        temperature=temperature,
        top_p=st.none() | st.floats(0, 1, exclude_min=True),
        stop=st.lists(st.text(min_size=1, max_size=4), max_size=2).map(tuple),
        logit_bias=st.dictionaries(ids, shares, max_size=2),
        tool_choice=st.sampled_from(["auto", "none", "required"]),
        tool=texts,
        parallel_tool_calls=st.booleans(),
        chat_template=texts,
        chat_template_kwargs=st.dictionaries(texts, texts | st.booleans(), max_size=2),
        documents=st.lists(st.dictionaries(texts, texts, max_size=2), max_size=2).map(tuple),
        add_generation_prompt=st.booleans(),
        continue_final_message=st.booleans(),
        extra_args=extras,
        prompt_logprob_token_ids=candidates,
        prompt_logprob_start=ids,
        trace_decode_token_ids=st.lists(ids, max_size=3).map(tuple),
        spaces_between_special_tokens=st.booleans(),
        detokenize=st.booleans(),
        truncate_prompt_tokens=st.none() | st.integers(-1, 9),
        truncation_side=st.sampled_from([None, "left", "right"]),
        prompt=st.none() | st.text(min_size=1, max_size=4) | st.lists(ids, min_size=1, max_size=3).map(tuple),
        structured=st.none() | structures,
        stream_interval=st.integers(1, 1 << 30),
        session_id=texts,
        note=objects,
    )
    command = st.builds(Command, texts, texts, texts, texts, texts, run | generate | settling, texts, texts, texts)
    retries = st.builds(Retries, st.integers(0, 100), st.integers(0, 86_400_000), st.integers(0, 86_400_000))
    profiles = st.builds(
        Profile,
        agent=texts,
        model=texts,
        instructions=texts,
        tools=st.lists(bindings, max_size=2).map(tuple),
        sampling=samplings,
        max_steps=ids,
        retries=retries,
        tool_concurrency=ids,
        step_timeout_ms=ids,
        stop_tools=st.lists(texts, max_size=2).map(tuple),
        most_tokens=ids,
        prepares=st.booleans(),
        guards_calls=st.booleans(),
        observed=st.booleans(),
    )
    with_types = {Command: command, Message: messages, ToolCall: calls, Retries: retries, Profile: profiles}
    for shape, strategy in with_types.items():
        st.register_type_strategy(shape, strategy)
    return st.from_type(kind)


@given(st.lists(st.tuples(texts, texts, st.integers(1, 1 << 40), texts | st.none()), max_size=5), small)
def test_an_envelope_survives_being_written_and_read(rows: list[tuple[str, str, int, str | None]], time: int) -> None:
    facts = tuple(
        Fact(tenant, "t", "run", entity, version, "x", "", msgspec.Raw(b'{"a":1}'), "", key)
        for tenant, entity, version, key in rows
    )
    envelope = Envelope(1, 0, 1, "p", "c", "v", time, "", facts)
    assert codec.decode_envelope(codec.encode(envelope)) == envelope


@given(texts, texts, st.integers(0, 1 << 40), texts)
def test_frames_are_told_apart_by_their_kind(subject: str, effect: str, number: int, text: str) -> None:
    problem = Problem(kind="invalid", message=text)
    for frame in (
        Delta(subject, "t1", effect, number, number, text),
        Delta(
            subject,
            "t1",
            effect,
            number,
            number,
            text,
            logprobs=(TokenTold(3, text.encode(), -0.5, 1),),
            token_ids=(3,),
        ),
        Delta(subject, "t1", effect, number, 0, "", call=CallTold(number, effect, text), arguments=text),
        Outcome(effect, "refused", subject, problem),
        Committed("1-0", "x", subject, "t1", "", "acme", "", number, msgspec.Raw(b"{}")),
    ):
        assert codec.decode(codec.encode(frame), Frame) == frame


@given(st.data())
def test_steps_survive_being_written_and_read(data: st.DataObject) -> None:
    for shape in (StepPlan, StepResult):
        value = data.draw(st.from_type(shape))
        assert codec.decode(codec.encode(value), shape) == value


@given(st.data())
def test_what_was_recorded_before_steps_told_of_closed_documents_is_read_as_it_was(data: st.DataObject) -> None:
    for shape, default in {StepResult: (), Applied: (), Output: None, RequestEvent: None}.items():
        value = msgspec.structs.replace(data.draw(st.from_type(shape)), closed=default)
        assert shape.__struct_fields__[-1] == "closed"
        recorded = msgspec.json.decode(codec.encode(value))[:-1]
        assert codec.decode(msgspec.json.encode(recorded), shape) == value


@given(st.binary(max_size=40))
def test_any_bytes_are_a_shape_or_a_clear_error(data: bytes) -> None:
    for shape in (Event, Frame, Command):
        with contextlib.suppress(BadShape):
            codec.decode(data, shape)


COMMANDS = {
    "the id": (b'{"data":{"agent":"a"}}', "`id`"),
    "the data": (b'{"id":"c1"}', "`data`"),
    "a field of the data": (b'{"id":"c1","data":{"agent":5}}', "$.agent"),
    "a missing field": (b'{"id":"c1","data":{}}', "`agent`"),
    "an inner field": (b'{"id":"c1","data":{"agent":"a","messages":[{"role":"king"}]}}', "$.messages[0].role"),
    "the limits": (b'{"id":"c1","data":{"agent":"a","max_tokens":-3}}', "$.max_tokens"),
    "a choice": (b'{"id":"c1","data":{"agent":"a","thread":"new"}}', "$.thread"),
    "the encoding": (b'{"id":"c1","data":{"agent":"\xff"}}', "utf-8"),
    "the nesting": (b'{"id":"c1","data":{"agent":' + b"[" * 9999 + b"]" * 9999 + b"}}", "recursion"),
}


@pytest.mark.parametrize(("body", "names"), COMMANDS.values(), ids=COMMANDS.keys())
def test_a_command_that_does_not_fit_names(body: bytes, names: str) -> None:
    with pytest.raises(BadShape) as error:
        codec.decode_command("acme", "agent", "t1", "run", body)
    assert names in str(error.value)


def test_an_unknown_verb_says_which_there_are() -> None:
    with pytest.raises(BadShape, match="agent/run, batch/submit, batch/withdraw, generation/abort"):
        codec.decode_command("acme", "agent", "t1", "fly", b"{}")


def test_a_command_is_what_its_subject_and_its_body_say() -> None:
    body = (
        b'{"specversion":"1.0","id":"c1","source":"s","type":"whatever","time":"now","extra":1,'
        b'"data":{"agent":"a","text":"hi","type":"generate"}}'
    )
    assert codec.decode_command("acme", "agent", "t1", "run", body) == Command(
        id="c1",
        tenant="acme",
        kind="agent",
        thread="t1",
        verb="run",
        data=RunAgent(agent="a", text="hi"),
        source="s",
        time="now",
    )


@given(st.integers(0, 4_000_000_000_000_000))
def test_a_time_as_text_is_the_same_time(microseconds: int) -> None:
    text = rfc3339(microseconds)
    assert len(text) == 27
    assert text.endswith("Z")
    moment = utc(microseconds)
    assert (moment - utc(0)).total_seconds() == pytest.approx(microseconds / 1e6)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99)), max_size=5))
def test_usages_add_up(counts: list[tuple[int, int, int]]) -> None:
    total = sum((Usage(*count) for count in counts), Usage())
    assert (total.prompt_tokens, total.completion_tokens, total.cached_tokens) == tuple(
        sum(count[at] for count in counts) for at in range(3)
    )


@pytest.mark.parametrize(
    ("roles", "misplaced"),
    [
        ("uaua", None),
        ("", None),
        ("uAt", None),
        ("uAtAtu", None),
        ("uAu", "messages[2].role"),
        ("uA", "messages"),
        ("ut", "messages[1].tool_call_id"),
        ("uAtt", "messages[3].tool_call_id"),
    ],
)
def test_a_conversation_in_which_calls_are_not_answered_is_named_at_the_place(
    roles: str, misplaced: str | None
) -> None:
    shapes = {
        "u": Message(role="user"),
        "a": Message(role="assistant"),
        "A": Message(role="assistant", tool_calls=(ToolCall("c1", "f", "{}"),)),
        "t": Message(role="tool", tool_call_id="c1"),
    }
    assert misplaced_in([shapes[role] for role in roles]) == misplaced


def test_commands_that_logs_may_hold_are_read_whatever_their_size() -> None:
    """Bounds that came later are for fields that came with them."""
    generate = {"type": "generate", "model": "m", "messages": [], "stop": ["x" * 5000] * 500}
    assert len(codec.decode(msgspec.json.encode(generate), Generate).stop) == 500
    run = b'{"type": "run", "agent": "a", "deadline": 1%s}' % (b"0" * 320)
    assert codec.decode(run, RunAgent).deadline == 10**320


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("deadline", 10**320),
        ("logit_bias", {str(token): 1.0 for token in range(1025)}),
        ("allowed_token_ids", list(range(1025))),
        ("stop_token_ids", list(range(1025))),
        ("bad_words", ["no"] * 257),
    ],
)
def test_what_would_make_a_plan_too_large_is_refused_by_its_field(field: str, value: object) -> None:
    with pytest.raises(BadShape, match=field):
        codec.decode(msgspec.json.encode({"type": "generate", "model": "m", "messages": [], field: value}), Generate)


def test_a_bias_in_a_command_is_by_token() -> None:
    data = b'{"id": "c1", "data": {"model": "m", "messages": [], "logit_bias": {"7": -1.5}}}'
    command = codec.decode_command("acme", "generation", "g1", "generate", data)
    assert isinstance(command.data, Generate)
    assert command.data.logit_bias == {7: -1.5}
