"""Following a run: every event once and in order, whatever was lost, repeated or late on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.connection import Connection
from bus.errors import Refused
from bus.live import QUEUE
from bus.streams import CMD, ensure_streams
from infra.follow import _Order, follow, follow_together
from schemas import codec
from schemas.answers import CallTold, TokenTold
from schemas.commands import Command, RunAgent
from schemas.live import Committed, Delta, Frame, Outcome
from schemas.runs import CommandRefused, Problem

COMMAND = Command(id="r1", tenant="acme", kind="agent", thread="t1", verb="run", data=RunAgent(agent="demo", text="hi"))


def event(version: int, type_: str = "x") -> Committed:
    return Committed(
        id=f"{version}-0",
        type=type_,
        subject="r1",
        thread="t1",
        time="",
        tenant="acme",
        cause="",
        version=version,
        data=msgspec.Raw(b"{}"),
    )


HISTORY = [event(1, "run.started"), event(2, "model.called"), event(3, "model.returned"), event(4, "run.finished")]
ACCEPTED = Outcome(command="r1", result="accepted", thread="t1")


async def recorded(tenant: str, thread: str, kind: str, entity: str, after: int) -> list[Committed]:
    assert (tenant, thread, kind, entity) == ("acme", "t1", "run", "r1")
    return HISTORY[after:]


async def nothing(tenant: str, thread: str, kind: str, entity: str, after: int) -> list[Committed]:
    return []


def passed(frames: Sequence[Frame]) -> list[Frame]:
    order = _Order("run", "t1")
    return [out for frame in frames for out in order.take(frame)]


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 6)), max_size=20))
def test_text_is_passed_once_and_in_order_however_its_pieces_overlap(cuts: list[tuple[int, int]]) -> None:
    text = "abcdefghijklmn"
    frames = [Delta("r1", "t1", "e", 2, at, text[at : at + length]) for at, length in cuts]
    out = [frame for frame in passed(frames) if isinstance(frame, Delta)]
    joined = "".join(frame.text for frame in out)
    assert text.startswith(joined)
    assert [frame.offset for frame in out] == [sum(len(f.text) for f in out[:at]) for at in range(len(out))]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1), st.integers(0, 8), st.integers(1, 6)), max_size=30))
def test_text_and_reasoning_of_each_answer_are_cut_by_themselves(cuts: list[tuple[bool, int, int, int]]) -> None:
    text = "abcdefghijklmn"
    frames = [
        Delta("r1", "t1", "e", 2, 0, "", choice, reasoning=text[at : at + length], reasoning_offset=at)
        if thinks
        else Delta("r1", "t1", "e", 2, at, text[at : at + length], choice)
        for thinks, choice, at, length in cuts
    ]
    out = [frame for frame in passed(frames) if isinstance(frame, Delta)]
    for choice in (0, 1):
        said = "".join(frame.text for frame in out if frame.choice == choice)
        thought = "".join(frame.reasoning for frame in out if frame.choice == choice)
        assert text.startswith(said)
        assert text.startswith(thought)
    assert all(bool(frame.text) != bool(frame.reasoning) for frame in out)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 6), st.integers(0, 1)), max_size=30))
def test_tokens_are_passed_once_and_in_order_however_pieces_overlap(cuts: list[tuple[int, int, int]]) -> None:
    """One character is a token here: text and tokens are cut at the same places."""
    text = "abcdefghijklmn"
    told = tuple(TokenTold(number, letter.encode(), -float(number), 1) for number, letter in enumerate(text))
    frames = [
        Delta(
            "r1",
            "t1",
            "e",
            2,
            at,
            text[at : at + length],
            choice,
            "",
            0,
            at,
            told[at : at + length],
            (*range(at, at + length),),
        )
        for at, length, choice in cuts
        for cut in (slice(at, at + length),)
    ]
    out = [frame for frame in passed(frames) if isinstance(frame, Delta)]
    for choice in (0, 1):
        mine = [frame for frame in out if frame.choice == choice]
        heard = [one for frame in mine for one in frame.logprobs]
        assert heard == list(told[: len(heard)])
        assert [token for frame in mine for token in frame.token_ids] == list(range(len(heard)))
        assert "".join(frame.text for frame in mine) == text[: len(heard)]
        assert all(frame.token_offset == frame.offset for frame in mine)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 6), st.integers(0, 1)), max_size=30))
def test_arguments_of_each_tool_call_are_passed_once_and_in_order(cuts: list[tuple[int, int, int]]) -> None:
    text = "abcdefghijklmn"
    calls = [CallTold(index, f"c{index}", "look") for index in (0, 1)]
    frames = [
        Delta("r1", "t1", "e", 2, 0, "", call=calls[index], arguments=text[at : at + length], arguments_offset=at)
        for at, length, index in cuts
    ]
    out = [frame for frame in passed(frames) if isinstance(frame, Delta)]
    for call in calls:
        mine = [frame for frame in out if frame.call == call]
        assert text.startswith("".join(frame.arguments for frame in mine))
        assert all(frame.arguments for frame in mine)
        assert [frame.arguments_offset for frame in mine] == [
            sum(len(f.arguments) for f in mine[:at]) for at in range(len(mine))
        ]


def test_tokens_that_come_without_text_are_passed() -> None:
    told = TokenTold(7, b"x", -1.0, 1)
    frames = [Delta("r1", "t1", "e", 2, 0, "", token_offset=at, logprobs=(told,)) for at in (0, 1, 1)]
    assert passed(frames) == frames[:2]


def test_text_of_a_call_whose_result_is_in_is_not_passed() -> None:
    late = Delta("r1", "t1", "r1-1-m", 2, 0, "from an owner that was overtaken")
    assert passed([*HISTORY[:3], late]) == HISTORY[:3]


def test_an_event_that_comes_again_is_passed_once() -> None:
    assert passed([*HISTORY, *HISTORY]) == HISTORY


pytestmark = pytest.mark.servers


async def owner(connection: Connection, frames: Sequence[Frame]) -> None:
    """Stand in for the command's owner: say `frames` once the command is there."""
    while not (await connection.api(f"STREAM.INFO.{CMD}"))["state"]["messages"]:
        pass
    for frame in frames:
        subject = "live.acme.command.r1" if isinstance(frame, Outcome) else "live.acme.run.r1"
        await connection.publish(subject, codec.encode(frame))


async def followed(connection: Connection, read_back: object, *frames: Frame) -> list[Frame]:
    """Follow the command while a stand-in for its owner says `frames` once the command is there."""

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(owner(connection, frames))
        return [frame async for frame in follow(connection, read_back, COMMAND, 4)]  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_a_run_is_followed_to_its_end(connection: Connection) -> None:
    await ensure_streams(connection, 1)
    delta = Delta("r1", "t1", "r1-1-m", 2, 0, "hello")
    frames = [ACCEPTED, *HISTORY[:2], delta, *HISTORY[2:]]
    assert await followed(connection, nothing, *frames) == frames


@pytest.mark.anyio
async def test_what_comes_at_once_is_given_at_once_each_once_and_in_order(connection: Connection) -> None:
    await ensure_streams(connection, 1)
    deltas = [Delta("r1", "t1", "r1-1-m", 2, at, "x") for at in range(500)]
    frames = [ACCEPTED, *HISTORY[:2], *deltas, *deltas[100:200], *HISTORY[2:]]

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(owner(connection, frames))
        groups = [group async for group in follow_together(connection, nothing, COMMAND, 10)]
    assert [frame for group in groups for frame in group] == [ACCEPTED, *HISTORY[:2], *deltas, *HISTORY[2:]]
    assert all(len(group) == 1 or all(isinstance(frame, Delta) for frame in group) for group in groups)


@pytest.mark.anyio
async def test_who_reads_too_slowly_loses_pieces_of_text_and_no_event(connection: Connection) -> None:
    await ensure_streams(connection, 1)
    deltas = [Delta("r1", "t1", "r1-1-m", 2, at, "x") for at in range(QUEUE + 10)]
    passed = []
    async with aclosing(follow_together(connection, recorded, COMMAND, 10)) as groups:
        begun = asyncio.create_task(anext(groups))
        while not (await connection.api(f"STREAM.INFO.{CMD}"))["state"]["messages"]:
            pass
        await connection.publish("live.acme.command.r1", codec.encode(ACCEPTED))
        passed += await begun
        for frame in (*HISTORY[:2], *deltas, *HISTORY[2:]):
            await connection.publish("live.acme.run.r1", codec.encode(frame))
        await connection.flush()
        passed += [frame async for group in groups for frame in group]
    assert [frame for frame in passed if not isinstance(frame, Delta)] == [ACCEPTED, *HISTORY]
    # what is lost is in the result; of what comes behind it nothing is told out of its place
    assert not any(isinstance(frame, Delta) for frame in passed)


@pytest.mark.anyio
async def test_events_that_were_not_heard_are_read_back(connection: Connection) -> None:
    await ensure_streams(connection, 1)
    assert await followed(connection, recorded, ACCEPTED, HISTORY[0], HISTORY[2]) == [ACCEPTED, *HISTORY]


@pytest.mark.anyio
@pytest.mark.parametrize("heard", [HISTORY[2:], HISTORY[3:]], ids=["two", "the last"])
async def test_what_was_not_heard_is_waited_for_until_it_is_recorded(
    connection: Connection, heard: list[Committed]
) -> None:
    await ensure_streams(connection, 1)
    asked = 0

    async def slowly(tenant: str, thread: str, kind: str, entity: str, after: int) -> list[Committed]:
        nonlocal asked
        asked += 1
        return HISTORY[after : asked // 3]

    assert await followed(connection, slowly, ACCEPTED, *heard) == [ACCEPTED, *HISTORY]


@pytest.mark.anyio
async def test_a_silence_is_looked_into(connection: Connection) -> None:
    await ensure_streams(connection, 1)
    assert await followed(connection, recorded, ACCEPTED) == [ACCEPTED, *HISTORY]


@pytest.mark.anyio
@pytest.mark.parametrize("result", ["refused", "dead"])
async def test_a_command_that_is_turned_down_ends_there(connection: Connection, result: str) -> None:
    await ensure_streams(connection, 1)
    outcome = Outcome("r1", result, "t1", Problem(kind="invalid", message="no"))  # type: ignore[arg-type]
    assert await followed(connection, nothing, outcome) == [outcome]


@pytest.mark.anyio
async def test_a_run_that_never_ends_is_given_up_at_the_deadline(connection: Connection) -> None:
    await ensure_streams(connection, 1)
    with pytest.raises(TimeoutError, match="r1"):
        [frame async for frame in follow(connection, nothing, COMMAND, 0.1)]


@pytest.mark.anyio
async def test_a_command_that_is_not_taken_is_an_error_at_once(connection: Connection) -> None:
    await ensure_streams(connection, 1)
    config = (await connection.api(f"STREAM.INFO.{CMD}"))["config"]
    await connection.api(f"STREAM.UPDATE.{CMD}", {**config, "max_bytes": 1})
    with pytest.raises(Refused):
        [frame async for frame in follow(connection, nothing, COMMAND, 4)]


@pytest.mark.anyio
async def test_a_refusal_that_was_not_heard_is_read_back(connection: Connection) -> None:
    await ensure_streams(connection, 4)
    problem = Problem(kind="unknown_agent", message="no agent", field="agent")
    refused = msgspec.structs.replace(
        event(1, "command.refused"),
        subject="t1",
        cause="r1",
        data=codec.payload(CommandRefused(command=COMMAND, problem=problem)),
    )

    async def read_back(tenant: str, thread: str, kind: str, entity: str, after: int) -> list[Committed]:
        return [refused] if kind == "thread" else []

    frames = await followed(connection, read_back)
    assert frames == [Outcome(command="r1", result="refused", thread="t1", problem=problem)]


def test_frames_of_another_thread_that_uses_the_same_id_are_not_passed() -> None:
    foreign = msgspec.structs.replace(HISTORY[0], thread="t2")
    assert passed([foreign, *HISTORY]) == HISTORY
