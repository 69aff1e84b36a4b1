"""Written exactly once, whatever happens to the request or its acknowledgement."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from bus.commit import ShardWriter
from bus.connection import Connection, Message
from bus.errors import Fenced, OutcomeUnknown
from tests.bus.conformance.conftest import Restart
from tests.bus.conformance.writing import Deaf, Dice, Forgetful, everything, fact, taken, versions

pytestmark = [pytest.mark.anyio, pytest.mark.servers]


async def test_an_append_whose_acknowledgement_is_lost_is_stored_once(forgetful: Forgetful) -> None:
    pen = await taken(forgetful)
    forgetful.losses = 1
    place = await pen.append([fact(1)])
    await pen.append([fact(2)])
    assert await versions(forgetful) == [1, 2]
    assert place.sequence == 2


async def test_a_takeover_whose_acknowledgement_is_lost_is_stored_once(forgetful: Forgetful) -> None:
    forgetful.losses = 1
    pen = await taken(forgetful)
    assert pen.position.sequence == 1
    assert len(await everything(forgetful)) == 1


async def test_an_owner_overtaken_before_it_heard_of_its_append_never_says_that_it_was_not_written(
    forgetful: Forgetful, nats_url: str, kind: str
) -> None:
    """One server looks at the sequence first, and cannot tell; a cluster at the message id, and says that it has it."""
    pen = await taken(forgetful, "old")

    class Overtaken(Forgetful):
        async def request(
            self, subject: str, data: bytes, timeout_s: float = 2.0, headers: dict[str, str] | None = None
        ) -> Message:
            try:
                return await super().request(subject, data, timeout_s, headers)
            except TimeoutError:
                await taken(forgetful, "new")
                raise

    async with await Overtaken.open(nats_url, "overtaken") as connection:
        pen._connection = connection
        connection.losses = 1
        if kind == "one server":
            with pytest.raises(OutcomeUnknown):
                await pen.append([fact(1)])
        else:
            assert (await pen.append([fact(1)])).sequence == 2
        with pytest.raises(OutcomeUnknown if kind == "one server" else Fenced):
            await pen.append([fact(2)])
    assert await versions(forgetful) == [1]


class Behind(Connection):
    """Asks of the server, so many times, what only one that is behind would refuse."""

    behind = 0

    async def request(
        self, subject: str, data: bytes, timeout_s: float = 2.0, headers: dict[str, str] | None = None
    ) -> Message:
        if self.behind and headers is not None:
            self.behind -= 1
            headers = {**headers, "Nats-Expected-Last-Subject-Sequence": "999"}
        return await super().request(subject, data, timeout_s, headers)


async def test_a_refusal_that_the_log_contradicts_is_not_believed_at_once(log: Connection, nats_url: str) -> None:
    async with await Behind.open(nats_url, "behind") as connection:
        pen = await taken(connection)
        connection.behind = 3
        assert (await pen.append([fact(1)])).sequence == 2
        assert connection.behind == 0
        pen.deadline_s = 0.3
        connection.behind = 1_000
        with pytest.raises(Fenced):
            await pen.append([fact(2)])
    assert await versions(log) == [1]


async def test_an_append_that_is_never_answered_ends_at_its_deadline(log: Connection, nats_url: str) -> None:
    async with await Deaf.open(nats_url, "deaf") as connection:
        pen = await taken(connection)
        pen.deadline_s = 0.1
        connection.deaf = True
        results = await asyncio.gather(*(pen.append([fact(n)]) for n in range(1, 4)), return_exceptions=True)
        assert all(isinstance(result, OutcomeUnknown) for result in results)
        connection.deaf = False
        with pytest.raises(OutcomeUnknown):
            await pen.append([fact(4)])
    assert await versions(log) == []


@pytest.mark.deadline(40)
async def test_a_server_restart_in_the_middle_of_appends_resolves_every_one(log: Connection, restart: Restart) -> None:
    pen = await taken(log)
    pen.deadline_s = 25
    started = asyncio.Event()

    async def actor(number: int) -> None:
        for turn in range(20):
            await pen.append([fact(number * 100 + turn)])
            if turn == 5:
                started.set()

    async with asyncio.TaskGroup() as actors:
        for number in range(8):
            actors.create_task(actor(number))
        await started.wait()
        await restart()
    written = await versions(log)
    assert sorted(written) == [number * 100 + turn for number in range(8) for turn in range(20)]
    for number in range(8):
        own = [version for version in written if version // 100 == number]
        assert own == sorted(own)


async def test_however_many_acknowledgements_are_lost_it_is_stored_once(forgetful: Forgetful) -> None:
    pen = await taken(forgetful)
    forgetful.losses = 4
    await asyncio.gather(*(pen.append([fact(number)]) for number in range(1, 4)))
    await pen.append([fact(4)])
    assert await versions(forgetful) == [1, 2, 3, 4]
    assert len(await everything(forgetful)) == 3


class Late(Connection):
    """A connection that keeps its next append back: it does not arrive until told to."""

    kept: tuple[str, bytes, dict[str, str] | None] | None = None
    keeps = False

    async def request(
        self, subject: str, data: bytes, timeout_s: float = 2.0, headers: dict[str, str] | None = None
    ) -> Message:
        if subject.startswith("ev.") and self.keeps:
            self.keeps, self.kept = False, (subject, data, headers)
            raise TimeoutError("it is still under way")
        return await super().request(subject, data, timeout_s, headers)

    async def arrive(self) -> None:
        assert self.kept is not None
        subject, data, headers = self.kept
        await super().request(subject, data, 2.0, headers)


@pytest.mark.parametrize("written_since", [0, 1])
async def test_an_append_that_arrives_after_its_own_repetition_changes_nothing(
    log: Connection, nats_url: str, written_since: int
) -> None:
    async with await Late.open(nats_url, "late") as late:
        pen = await taken(late)
        late.keeps = True
        await pen.append([fact(1)])
        for number in range(written_since):
            await pen.append([fact(2 + number)])
        await late.arrive()
        await pen.append([fact(9)])
    assert await versions(log) == [1, *range(2, 2 + written_since), 9]


async def test_an_append_that_arrives_when_another_owns_the_shard_is_not_stored(log: Connection, nats_url: str) -> None:
    async with await Late.open(nats_url, "late") as late:
        old = await taken(late, "old")
        late.keeps = True
        old.deadline_s = 0
        with pytest.raises(OutcomeUnknown):
            await old.append([fact(1)])
        new = await taken(log, "new")
        await late.arrive()
        await new.append([fact(2)])
    assert await versions(log) == [2]


class Unlucky(Connection):
    """A connection on which some appends never arrive, and some whose answer does not."""

    dice = Dice(0)

    async def request(
        self, subject: str, data: bytes, timeout_s: float = 2.0, headers: dict[str, str] | None = None
    ) -> Message:
        if subject.startswith("ev.") and self.dice.one_in(8):
            raise TimeoutError("it never arrived")
        reply = await super().request(subject, data, timeout_s, headers)
        if subject.startswith("ev.") and self.dice.one_in(8):
            raise TimeoutError("nobody heard of it")
        return reply


class Told:
    """What rivals were told of their appends."""

    def __init__(self) -> None:
        self.there: set[int] = set()
        self.unknown: set[int] = set()

    async def append(self, pen: ShardWriter, version: int) -> bool:
        """Append, note what is said of it, and say whether the pen is still good."""
        try:
            await pen.append([fact(version)])
        except Fenced:
            return False
        except OutcomeUnknown:
            self.unknown.add(version)
            return False
        self.there.add(version)
        return True


async def contend(connection: Unlucky, versions: Iterable[int], told: Told) -> None:
    """Take the shard again and again, and append a few times each."""
    left = iter(versions)
    for _ in range(5):
        try:
            pen = await taken(connection, "rival")
        except (Fenced, OutcomeUnknown):
            continue
        pen.deadline_s = 0.3
        for version in left:
            if not await told.append(pen, version) or connection.dice.one_in(6):
                break


@pytest.mark.deadline(30)
@pytest.mark.parametrize("seed", range(3))
async def test_rivals_that_lose_requests_and_answers_leave_one_history(
    log: Connection, nats_url: str, seed: int
) -> None:
    """What was acknowledged is there once, what was refused is not, and what is unknown is not there twice."""
    told = Told()

    async def rival(number: int) -> None:
        async with await Unlucky.open(nats_url, f"rival-{number}") as connection:
            connection.dice = Dice(10 * seed + number)
            await contend(connection, range(1000 * number, 1000 * number + 20), told)

    await asyncio.gather(*(rival(number) for number in range(1, 4)))
    found = await versions(log)
    assert len(found) == len(set(found))
    assert told.there <= set(found) <= told.there | told.unknown
    assert told.there
    terms = [stored.envelope.term for stored in await everything(log)]
    assert terms == sorted(terms)
