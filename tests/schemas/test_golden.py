"""What was ever written must be readable for ever, and mean the same.

Golden files are written once, by hand of whoever adds an event (`python -m tests.schemas.golden`), and never changed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest

from schemas import codec
from schemas.envelope import Fact
from schemas.errors import BadShape, UnknownEvent, UnknownFormat
from schemas.json_schema import event_schema
from schemas.messages import Message
from schemas.runs import Event
from tests.schemas.examples import ENVELOPE, EXAMPLES, named

GOLDEN = Path(__file__).parents[1] / "golden"
EVENTS = GOLDEN / "events"
FILES = sorted(EVENTS.glob("*.json"))


def test_every_event_type_has_a_golden_file_and_every_file_an_event() -> None:
    assert {path.stem for path in FILES} == set(named())


def test_the_examples_show_every_event_type_with_no_field_left_at_its_default() -> None:
    written = defaultdict[str, set[str]](set)
    for event in EXAMPLES:
        written[codec.tag(event)] |= set(msgspec.json.decode(codec.encode(event)))
    assert set(written) == set(codec.EVENT_TYPES)
    for event in EXAMPLES:
        left = set(event.__struct_encode_fields__) - written[codec.tag(event)]
        assert not left, f"{codec.tag(event)} leaves out {left}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_event_is_read_and_written_as_the_same_bytes(path: Path) -> None:
    data = path.read_bytes()
    event = codec.decode(data, Event)
    assert codec.tag(event) == path.stem.partition("-")[0]
    assert codec.encode(event) == data


@pytest.mark.parametrize("name", named())
def test_a_golden_event_still_means_what_it_meant(name: str) -> None:
    assert codec.decode((EVENTS / f"{name}.json").read_bytes(), Event) == named()[name]


def test_the_golden_envelope_is_read_and_written_as_the_same_bytes() -> None:
    data = (GOLDEN / "envelope-1.json").read_bytes()
    envelope = codec.decode_envelope(data)
    assert envelope == ENVELOPE
    assert codec.encode(envelope) == data


def test_the_hashes_of_the_chain_and_of_a_conversation_never_change() -> None:
    assert codec.digest((GOLDEN / "envelope-1.json").read_bytes()) == (GOLDEN / "envelope-1.hash").read_text()
    message = codec.decode(b'{"role":"user","content":"hi"}', Message)
    assert codec.chained("", message) == "911b1f9c94c5f3e4cdf2a556dd8f3737"


def test_the_committed_json_schema_of_all_events_is_the_codes() -> None:
    committed = json.loads((GOLDEN / "events.schema.json").read_text(encoding="utf-8"))
    assert event_schema() == committed, "an event's shape changed: give it a new class and tag, or add a default"


def fact(type_: str, payload: bytes) -> Fact:
    return Fact("acme", "t", "run", "r1", 3, type_, "", msgspec.Raw(payload))


def test_an_event_of_newer_code_is_named() -> None:
    with pytest.raises(UnknownEvent, match=r"run\.ascended") as unknown:
        codec.event_of(fact("run.ascended", b"{}"))
    assert unknown.value.type == "run.ascended"


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b'{"type":"memory.written","topic":1,"text":""}',
        b'{"type":"memory.written","topic":"\xff","text":""}',
        b'{"type":"tool.failed","effect":"e","call_id":"c","content":"x"}',
        b"nope",
    ],
)
def test_a_payload_that_does_not_fit_its_type_says_where_it_is(payload: bytes) -> None:
    with pytest.raises(BadShape, match=r"'memory\.written' of run 'r1' version 3"):
        codec.event_of(fact("memory.written", payload))


def test_a_field_that_newer_code_added_is_passed_over() -> None:
    data = b'{"type":"memory.written","topic":"a","text":"b","colour":"blue"}'
    event = codec.event_of(fact("memory.written", data))
    assert codec.encode(event) == b'{"type":"memory.written","topic":"a","text":"b"}'


@pytest.mark.parametrize(
    "data", [b"[2]", b'[2,{"another":"shape"}]', codec.encode(ENVELOPE).replace(b"[1,", b"[2,", 1)]
)
def test_an_envelope_of_newer_code_is_named_whatever_its_shape(data: bytes) -> None:
    with pytest.raises(UnknownFormat) as unknown:
        codec.decode_envelope(data)
    assert unknown.value.found == 2


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"[1]", b'["x"]', b"\xff", b"[" * 5000])
def test_what_is_no_envelope_is_no_envelope(data: bytes) -> None:
    with pytest.raises(BadShape, match="commit envelope"):
        codec.decode_envelope(data)
