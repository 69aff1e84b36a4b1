"""Responses as the log has them: asked for again, gone on from, waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bus import subjects
from bus.errors import BadSubject
from infra.bridge.desk import Around
from infra.bridge.handing import FIRST, Turn
from infra.bridge.late import lately
from infra.bridge.openai import BadRequest
from infra.bridge.responses.events import found_by
from infra.bridge.responses.retelling import Retold
from infra.bridge.telling.recorded import Record
from schemas import codec
from schemas.commands import Command, Generate, PostResult, RunAgent
from schemas.generation import run_of
from schemas.live import Committed
from schemas.messages import Message
from schemas.runs import CommandAccepted, ModelReturned

_RECORD_S: Final = 0.05
"""The record is a moment behind what clients have heard."""


@dataclass(frozen=True)
class Kept:
    """A response, and what it came from."""

    command: Command
    encoder: Retold
    answer: ModelReturned | None
    run: str
    """The run that it is, or goes on with; or the generation."""
    results: tuple[PostResult, ...] = ()
    """What of calls that its client carried out it was asked with."""

    def history(self) -> tuple[Message, ...]:
        """Give what was said up to its end, but for the instructions: those are of one response."""
        data, answer = self.command.data, self.answer
        assert isinstance(data, Generate)
        assert answer is not None
        told = Message("assistant", answer.text, answer.tool_calls, None, answer.reasoning, answer.thoughts)
        return (*data.messages[1 if data.note.get("instructed") else 0 :], told)


async def kept(desk: Around, tenant: str, identity: str, *, over_s: float = 0.0) -> Kept:
    """Find a response; wait for its end, for so long at most.

    Raises:
        BadRequest: there is none, or its client wanted none to be kept.
        BusError: the record cannot be reached.
        TimeoutError: the log does not answer.
    """
    found = found_by(identity)
    if found is None:
        raise unknown(identity)
    command_id, thread = found
    try:
        subjects.checked(command_id, "response id")
        subjects.checked(thread, "response id")
    except BadSubject as error:
        raise unknown(identity) from error

    async def look() -> Kept | None:
        return await _read(desk, tenant, command_id, thread)

    one, until = await lately(desk, look), asyncio.get_running_loop().time() + over_s
    while one is not None and not one.encoder.over and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(_RECORD_S)
        one = await look()
    if one is None or not one.encoder.kept:
        raise unknown(identity)
    return one


async def _read(desk: Around, tenant: str, command_id: str, thread: str) -> Kept | None:
    bare = command_id == thread
    events = await desk.read_back(tenant, thread, "generation" if bare else "thread", thread, 0)
    accepted = [(event, asked) for event in events if (asked := _accepted(event))]
    place, command = next(((event.id, asked) for event, asked in accepted if asked.id == command_id), ("", None))
    if command is None or not isinstance(command.data, Generate | RunAgent | PostResult):
        return None
    if any(event.type == "thread.deleted" for event in events):
        return None
    if not bare:
        return await _turn(desk, command, place, [asked for _, asked in accepted])
    encoder = Retold(command)
    answer: ModelReturned | None = None
    for event in events:
        encoder.feed(event)
        if event.type == "model.returned":
            answer = codec.decode(event.data, ModelReturned)
    return Kept(command, encoder, answer, command.id)


async def _turn(desk: Around, command: Command, place: str, accepted: Sequence[Command]) -> Kept | None:
    """Read what of a run is one response: from where its client was heard, up to where it is to act."""
    encoder, data = Retold(command), command.data
    results = tuple(
        one.data
        for one in accepted
        if isinstance(one.data, PostResult) and command.id in {one.id, one.data.note.get(FIRST)}
    )
    name = run_of(data.effect) if isinstance(data, PostResult) else command.id
    run = next((one for one in accepted if one.id == name), None)
    if run is None:
        return None
    turn = Turn(command.thread)
    recorded = await Record(desk).run_of(run)
    begun = name == command.id
    for frame in recorded.events:
        if not begun and isinstance(frame, Committed) and _after(frame.id, place):
            begun = True
            encoder.feed(turn.go_on(one.effect for one in results))
        for told in turn.feed(frame):
            if begun:
                encoder.feed(told)
        turn.over = turn.over and begun
    return Kept(command, encoder, None, name, results)


def _after(place: str, other: str) -> bool:
    """Compare places in the log."""
    first, second = (tuple(map(int, one.split("-"))) for one in (place, other))
    return first > second


def _accepted(event: Committed) -> Command | None:
    if event.type != "command.accepted":
        return None
    accepted: CommandAccepted = codec.decode(event.data, CommandAccepted)
    return accepted.command


def unknown(identity: str) -> BadRequest:
    """Say that there is no such response."""
    return BadRequest(404, f"response {identity[:100]!r}: there is none", "response_id", "response_not_found")
