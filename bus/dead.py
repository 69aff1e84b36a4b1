"""Dead letters: commands that nobody could handle, kept until somebody sends them again, or drops them."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from bus import subjects
from bus.batch import on_leader
from bus.connection import Connection, accepted
from bus.errors import NoSuchLetter, Refused
from bus.streams import DEAD
from schemas import codec
from schemas.errors import BadShape
from schemas.times import rfc3339
from schemas.wire import Wire

LONGEST = 1 << 20
"""Characters of a command that are kept."""
_KEEP_S = 5.0


class DeadCommand(Wire, frozen=True):
    """What is kept of a command that nobody could handle."""

    subject: str
    """Where it was delivered: `cmd.<shard>.<tenant>.<kind>.<thread>.<verb>`."""
    body: str
    """As it was sent; what is not UTF-8 is replaced, what is over a million characters cut."""
    error: str
    deliveries: int
    process: str
    exact: bool = True
    """Whether `body` is what was sent to the last byte."""


class Letter(NamedTuple):
    """A dead command in its place."""

    number: int
    """Its sequence in DEAD: what it is called by."""
    time: str
    """When it was buried, RFC 3339."""
    dead: DeadCommand


def dead_command(subject: str, body: bytes, error: str, deliveries: int, process: str) -> DeadCommand:
    """Make what is kept of a command."""
    text = body.decode("utf-8", "replace")[:LONGEST]
    return DeadCommand(subject, text, error, deliveries, process, exact=text.encode() == body)


async def keep(connection: Connection, shard: int, kind: str, dead: DeadCommand, message_id: str) -> None:
    """Put a command among the dead; once, however often it is tried with the same `message_id`.

    Raises:
        Refused: DEAD takes no more.
        Unavailable: no JetStream.
        TimeoutError: no acknowledgement.
    """
    headers = {"Nats-Msg-Id": message_id}
    accepted(await connection.request(subjects.dead(shard, kind), codec.encode(dead), _KEEP_S, headers))


async def letters(connection: Connection, limit: int) -> list[Letter]:
    """Return the oldest letters, at most `limit`.

    Raises:
        BusError: NATS cannot say.
        TimeoutError: no answer.
    """
    found: list[Letter] = []
    number = 1
    while len(found) < limit:
        letter = await _at(connection, {"seq": number, "next_by_subj": subjects.DEAD})
        if letter is None:
            break
        found.append(letter)
        number = letter.number + 1
    return found


async def letter_at(connection: Connection, number: int) -> Letter:
    """Return one letter.

    Raises:
        NoSuchLetter: there is none of that number.
        BusError: NATS cannot say.
        TimeoutError: no answer.
    """
    letter = await _at(connection, {"seq": number})
    if letter is None:
        raise NoSuchLetter(number)
    return letter


async def _at(connection: Connection, where: dict[str, object]) -> Letter | None:
    item = await on_leader(connection, DEAD, where)
    if item is None:
        return None
    time = rfc3339(item.time // 1_000_000 * 1_000_000).replace(".000000", "")
    return Letter(item.sequence, time, codec.decode(item.data, DeadCommand))


async def redrive(connection: Connection, letter: Letter, body: bytes) -> None:
    """Send a letter's command again, with this body, and forget the letter.

    After a crash between the two it is sent once more; the command's own id keeps it from being done twice.

    Raises:
        Refused: the command stream takes no more; the letter stays.
        BadSubject: what was sent to its subject can never be handled.
        Unavailable: no JetStream.
        TimeoutError: no acknowledgement.
    """
    where = subjects.parse_command(letter.dead.subject)
    subject = subjects.command(where.tenant, where.kind, where.thread, where.verb)
    # an id of its own: the command's was used up by the sending that ended here
    headers = {"Nats-Msg-Id": f"redriven-{letter.number}-{codec.digest(body)}"}
    accepted(await connection.request(subject, body, _KEEP_S, headers))
    await drop(connection, letter.number)


async def drop(connection: Connection, number: int) -> None:
    """Forget a letter.

    Raises:
        NoSuchLetter: there is none of that number.
        BusError: NATS does not do it.
        TimeoutError: no answer.
    """
    try:
        await connection.api(f"STREAM.MSG.DELETE.{DEAD}", {"seq": number})
    except Refused as refusal:
        raise NoSuchLetter(number) from refusal


def command_id(body: bytes) -> str | None:
    """Give the id of the command that a body holds; None where it holds none."""
    with contextlib.suppress(BadShape):
        known: _Identified = codec.decode(body, _Identified)
        return known.id
    return None


class _Identified(Wire, frozen=True):
    """As much of a command as is needed to answer its sender."""

    id: str
