"""What the suite writes, and how it reads it back; connections that lose what passes."""

from __future__ import annotations

from actors.testing import CountedIds, FixedClock
from bus.commit import ShardWriter, Writer
from bus.connection import Connection, Message
from bus.log import START, Stored, last_commit, read_shard
from schemas import codec
from schemas.envelope import Fact
from schemas.runs import MemoryWritten


class Forgetful(Connection):
    """A connection that loses the acknowledgements of the next appends: they arrive, nobody hears of it."""

    losses = 0

    async def request(
        self, subject: str, data: bytes, timeout_s: float = 2.0, headers: dict[str, str] | None = None
    ) -> Message:
        reply = await super().request(subject, data, timeout_s, headers)
        if subject.startswith("ev.") and self.losses:
            self.losses -= 1
            raise TimeoutError("the acknowledgement was lost")
        return reply


class Deaf(Connection):
    """A connection whose appends never reach the server."""

    deaf = False

    async def request(
        self, subject: str, data: bytes, timeout_s: float = 2.0, headers: dict[str, str] | None = None
    ) -> Message:
        if subject.startswith("ev.") and self.deaf:
            raise TimeoutError("nothing came back")
        return await super().request(subject, data, timeout_s, headers)


def fact(number: int, text: str = "") -> Fact:
    event = MemoryWritten(topic=f"t{number}", text=text)
    return Fact(
        tenant="acme",
        thread="thread-1",
        kind="thread",
        entity="thread-1",
        version=number,
        type=codec.tag(event),
        cause="",
        payload=codec.payload(event),
    )


_ids = CountedIds()


async def taken(connection: Connection, process: str = "p1", shard: int = 0) -> ShardWriter:
    return await ShardWriter.take(connection, shard, Writer(process, "test"), FixedClock(), _ids, "agents-0")


async def everything(connection: Connection, shard: int = 0) -> list[Stored]:
    last = await last_commit(connection, shard)
    assert last is not None
    return [stored async for stored in read_shard(connection, shard, START, last.sequence)]


async def versions(connection: Connection) -> list[int]:
    """The versions of the facts written with `fact`, in log order."""
    return [f.version for stored in await everything(connection) for f in stored.envelope.facts if f.kind == "thread"]


class Dice:
    """Chance that is the same in every run."""

    def __init__(self, seed: int) -> None:
        self._state = seed * 2654435761 + 1

    def one_in(self, count: int) -> bool:
        """Say yes once in `count` times."""
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return (self._state >> 33) % count == 0
