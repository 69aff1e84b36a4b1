"""A batch, whatever ends first and whoever is told to stop it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.batches.lines import LineAnswer, Reading, answered, unanswered
from actors.batches.machine import AnswerLine, AwaitExpiry, BatchMachine, BatchState, CloseFiles, ReadFile
from actors.runtime.machine import Asked, Decision, Effect, Emitted
from schemas import codec
from schemas.batches import (
    Batch,
    BatchExpired,
    BatchLineEnded,
    BatchRead,
    BatchWritten,
    CancelBatch,
    CreateBatch,
    LineProblem,
)
from schemas.commands import Command, CommandData
from schemas.context import Context
from schemas.runs import CommandRefused, Event

MACHINE = BatchMachine()
BATCH = Batch("file-1", "/v1/completions", window_s=60)
NOW = 1_000_000


class World:
    """One batch, and what was begun for it."""

    def __init__(self) -> None:
        self.state: BatchState = MACHINE.initial("acme", "batch_1")
        self.begun: list[str] = []
        self.events: list[Event] = []

    def take(self, decision: Decision) -> None:
        for emitted in decision.events:
            self.state = MACHINE.evolve(self.state, emitted)
            self.events.append(emitted.event)
        self.begun += [effect.id for effect in decision.effects]

    def ask(self, data: CommandData, name: str = "c1", thread: str = "batch_1") -> None:
        command = Command(name, "acme", "batch", thread, "v", data, "test")
        self.take(MACHINE.ask(self.state, Asked(command), Context(NOW, 0)))

    def result(self, event: Any) -> None:
        emitted = Emitted("batch", "batch_1", event)
        self.events.append(event)
        self.state = MACHINE.evolve(self.state, emitted)
        self.take(MACHINE.follow(self.state, emitted, Context(NOW, 0)))

    @property
    def open(self) -> Sequence[Effect]:
        return MACHINE.open_effects(self.state)

    def lines(self) -> list[int]:
        return [effect.line for effect in self.open if isinstance(effect, AnswerLine)]

    @property
    def types(self) -> list[str]:
        return [codec.tag(event) for event in self.events]


def begun(total: int, width: int) -> World:
    world = World()
    world.ask(CreateBatch(BATCH))
    assert [type(effect) for effect in world.open] == [ReadFile, AwaitExpiry]
    world.result(BatchRead("batch_1-r", NOW, total, width))
    return world


@given(st.integers(1, 30), st.integers(1, 8), st.data())
def test_every_line_is_begun_once_and_only_so_many_at_a_time(total: int, width: int, data: st.DataObject) -> None:
    world = begun(total, width)
    ended = []
    while world.lines():
        assert len(world.lines()) == min(width, total - len(ended))
        line = data.draw(st.sampled_from(world.lines()))
        ended.append(line)
        world.result(BatchLineEnded(f"batch_1-{line}", line))
    assert sorted(ended) == list(range(total))
    (closing,) = world.open
    assert isinstance(closing, CloseFiles)
    assert (closing.total, closing.outcome) == (total, "completed")
    world.result(BatchWritten("batch_1-w", "completed", NOW))
    assert not world.open
    assert len(world.begun) == len({*world.begun}) == total + 3


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 12), st.booleans())
def test_nothing_is_begun_after_its_end(total: int, width: int, answered_first: int, cancelled: bool) -> None:
    world = begun(total, width)
    for line in range(min(answered_first, total - 1)):
        world.result(BatchLineEnded(f"batch_1-{line}", line))
    if cancelled:
        world.ask(CancelBatch(), "c2")
    else:
        world.result(BatchExpired("batch_1-x", NOW))
    (closing,) = world.open
    assert isinstance(closing, CloseFiles)
    assert closing.outcome == ("cancelled" if cancelled else "expired")
    world.ask(CancelBatch(), "c3")
    assert world.types.count("batch.finalizing") == 1
    world.result(BatchWritten("batch_1-w", closing.outcome, NOW))
    assert not world.open
    world.ask(CancelBatch(), "c4")
    assert not world.open
    assert world.types.count("batch.cancelling") == int(cancelled)


def test_a_file_that_is_no_batch_is_the_end() -> None:
    world = World()
    world.ask(CreateBatch(BATCH))
    world.result(BatchRead("batch_1-r", NOW, 3, 2, (LineProblem("invalid_method", "GET"),)))
    assert not world.open
    assert world.types[-1] == "batch.read"


def test_it_may_end_before_its_file_is_read() -> None:
    world = World()
    world.ask(CreateBatch(BATCH))
    world.ask(CancelBatch(), "c2")
    (closing,) = world.open
    assert isinstance(closing, CloseFiles)
    assert closing.total == 0


def test_what_is_no_batch_s_is_refused() -> None:
    world = World()
    world.ask(CancelBatch(), "c1")
    world.ask(CreateBatch(BATCH), "c2")
    world.ask(CreateBatch(BATCH), "c3")
    assert [isinstance(event, CommandRefused) for event in world.events] == [True, False, False, True]
    assert MACHINE.answered(world.state, "c2") == "accepted"
    for name in ("c1", "c3"):
        assert MACHINE.answered(world.state, name) not in {"accepted", None}
    long = MACHINE.initial("acme", "b" * 41)
    command = Command("c1", "acme", "batch", "b" * 41, "submit", CreateBatch(BATCH))
    decision = MACHINE.ask(long, Asked(command), Context(NOW, 0))
    assert isinstance(decision.events[0].event, CommandRefused)


def line(**changes: Any) -> bytes:
    return codec.encode({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {}, **changes})


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"nonsense", "invalid_json_line"),
        (b"\xff", "invalid_json_line"),
        (b"[" * 10_000, "invalid_json_line"),
        (line(custom_id=""), "invalid_json_line"),
        (line(custom_id=7), "invalid_json_line"),
        (line(body=[]), "invalid_json_line"),
        (line(method="GET"), "invalid_method"),
        (line(url="/v1/models"), "mismatched_endpoint"),
    ],
)
def test_a_line_that_is_no_request_says_why(data: bytes, code: str) -> None:
    reading = Reading("/v1/completions", 10)
    reading.take(line(custom_id="fine"))
    reading.take(data)
    (problem,) = reading.over()
    assert (problem.code, problem.line) == (code, 2)


def test_only_so_many_lines_and_problems_are_told_of() -> None:
    reading = Reading("/v1/completions", 3)
    for number in range(5):
        reading.take(line(custom_id=str(number)))
    assert [problem.code for problem in reading.over()] == ["too_many_requests"]
    assert reading.total == 5
    reading = Reading("/v1/completions", 1000)
    for _ in range(500):
        reading.take(b"x")
    assert len(reading.over()) == 50
    assert [problem.code for problem in Reading("/v1/completions", 9).over()] == ["empty_file"]


def test_lines_are_written_as_clients_read_them() -> None:
    told = codec.decode(answered("b-0", "a", LineAnswer(200, b'{"x":1}')), dict)
    assert told["response"] == {"status_code": 200, "request_id": "b-0", "body": {"x": 1}}
    assert (told["custom_id"], told["error"]) == ("a", None)
    for outcome, code in (("expired", "batch_expired"), ("cancelled", "batch_cancelled")):
        late = codec.decode(unanswered("b-0", "a", outcome), dict)  # type: ignore[arg-type]
        assert (late["response"], late["error"]["code"]) == (None, code)
