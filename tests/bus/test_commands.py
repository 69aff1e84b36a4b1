"""Commands: delivered in order, kept once, and buried when nobody can read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import msgspec
import pytest

from bus import commands
from bus.commands import CommandQueue, Delivery, send_command
from bus.connection import Connection, Message
from bus.dead import DeadCommand
from bus.errors import BadSubject, Refused, Unavailable
from bus.live import watching
from bus.streams import CMD, DEAD, ensure_streams
from infra.services.nats_server import NatsServer
from schemas import codec
from schemas.commands import Command, RunAgent
from schemas.context import REQUEST
from schemas.live import Outcome

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

HERE = "in.acme.agent.t1.run"


@pytest.fixture
async def bus(connection: Connection) -> Connection:
    await ensure_streams(connection, 1)
    return connection


def command(identity: str, text: str = "hi", tenant: str = "acme", thread: str = "t1") -> Command:
    return Command(
        id=identity, tenant=tenant, kind="agent", thread=thread, verb="run", data=RunAgent(agent="demo", text=text)
    )


@asynccontextmanager
async def pulling(bus: Connection, process: str = "p1") -> AsyncIterator[asyncio.Queue[Delivery]]:
    queue: asyncio.Queue[Delivery] = asyncio.Queue()

    async def pull() -> None:
        async for delivery in CommandQueue(bus, 0, process).deliveries():
            queue.put_nowait(delivery)

    task = asyncio.create_task(pull())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def kept(bus: Connection, stream: str) -> int:
    return int((await bus.api(f"STREAM.INFO.{stream}"))["state"]["messages"])


async def nothing_kept(bus: Connection) -> None:
    """Wait until the server has dropped what was acknowledged; it answers nobody that it has."""
    while await kept(bus, CMD):
        pass


async def letter(bus: Connection) -> DeadCommand:
    message = (await bus.api(f"STREAM.MSG.GET.{DEAD}", {"last_by_subj": "dead.>"}))["message"]
    return codec.decode(msgspec.convert(message["data"], bytes, strict=False), DeadCommand)


async def test_commands_come_in_the_order_they_were_sent(bus: Connection) -> None:
    sent = [command(f"c{number}", f"text {number}") for number in range(150)]
    for one in sent:
        await send_command(bus, one)
    async with pulling(bus) as queue:
        received = [await queue.get() for _ in sent]
    assert [delivery.command.id for delivery in received] == [one.id for one in sent]
    assert [delivery.command.data for delivery in received] == [one.data for one in sent]


async def test_a_trace_comes_in_the_body_or_as_a_header_and_goes_out_as_both(bus: Connection) -> None:
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    heard: list[Message] = []

    async def hear(message: Message) -> None:
        heard.append(message)

    await bus.subscribe(HERE, hear)
    await send_command(bus, msgspec.structs.replace(command("c1"), traceparent=trace))
    await bus.request(HERE, b'{"id": "c2", "data": {"agent": "demo", "text": "hi"}}', headers={"traceparent": trace})
    async with pulling(bus) as queue:
        for _ in range(2):
            delivery = await queue.get()
            assert delivery.command.traceparent == trace
            await delivery.ack()
    assert heard[0].headers["traceparent"] == trace
    assert msgspec.json.decode(heard[0].data)["traceparent"] == trace


async def test_the_id_of_the_http_request_goes_with_a_command(bus: Connection) -> None:
    before = REQUEST.set("of-the-task")
    try:
        await send_command(bus, command("c1"))
        await send_command(bus, msgspec.structs.replace(command("c2"), request_id="own"))
    finally:
        REQUEST.reset(before)
    await send_command(bus, command("c3"))
    async with pulling(bus) as queue:
        received = [(await queue.get()).command for _ in range(3)]
    assert {one.id: one.request_id for one in received} == {"c1": "of-the-task", "c2": "own", "c3": ""}


async def test_a_command_sent_twice_is_kept_once(bus: Connection) -> None:
    await send_command(bus, command("c1"))
    await send_command(bus, command("c1"))
    assert await kept(bus, CMD) == 1


async def test_ids_of_different_tenants_never_meet(bus: Connection) -> None:
    await send_command(bus, command("b-c", tenant="a"))
    await send_command(bus, command("c", tenant="a-b"))
    assert await kept(bus, CMD) == 2


async def test_what_is_acknowledged_does_not_come_again_and_the_rest_does(
    bus: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "ACK_WAIT_S", 1)
    await send_command(bus, command("c1"))
    await send_command(bus, command("c2"))
    async with pulling(bus) as queue:
        first, second = await queue.get(), await queue.get()
        assert (first.attempt, second.attempt) == (1, 1)
        await first.ack()
    async with pulling(bus, "p2") as queue:
        again = await queue.get()
        assert (again.command.id, again.attempt) == ("c2", 2)
        await again.ack()
    await nothing_kept(bus)


async def test_a_puller_that_goes_leaves_the_next_commands_to_its_successor(bus: Connection) -> None:
    for number in range(5):
        async with pulling(bus, f"p{number}") as queue:
            await send_command(bus, command(f"c{number}"))
            delivery = await queue.get()
            assert delivery.command.id == f"c{number}"
            await delivery.ack()


async def test_deliveries_that_their_process_outlived_do_not_count(bus: Connection) -> None:
    survived: dict[str, int] = {}
    await send_command(bus, command("c1"))
    for _ in range(3):
        async with aclosing(CommandQueue(bus, 0, "p1", survived).deliveries()) as deliveries:
            assert (await anext(deliveries)).attempt == 1
    async with aclosing(CommandQueue(bus, 0, "p2").deliveries()) as deliveries:
        delivery = await anext(deliveries)
        assert delivery.attempt == 4
        await delivery.ack()


async def test_what_a_puller_had_in_hand_when_it_went_comes_to_its_successor_at_once(bus: Connection) -> None:
    async with pulling(bus) as queue:
        await send_command(bus, command("c1"))
        await queue.get()
    async with pulling(bus, "p2") as queue, asyncio.timeout(commands.ACK_WAIT_S * 0.75):
        assert (await queue.get()).command.id == "c1"


@pytest.mark.deadline(15)
async def test_a_server_that_restarts_is_asked_again_within_two_seconds(
    bus: Connection, nats_server: NatsServer
) -> None:
    async with pulling(bus) as queue:
        await send_command(bus, command("c1"))
        await queue.get()
        await nats_server.kill()
        await nats_server.start(nats_server.port)
        await send_command(bus, command("c2"), 10)
        async with asyncio.timeout(2.5):
            while (await queue.get()).command.id != "c2":
                pass


BAD = {
    "no JSON": (HERE, b"{nope", "malformed"),
    "no UTF-8": (HERE, b'{"id":"bad","data":{"agent":"a","text":"\xff"}}', "utf-8"),
    "no UTF-8 id": (HERE, b'{"id":"\xff","data":{}}', "utf-8"),
    "endless nesting": (HERE, b'{"id":"bad","data":{"x":' + b"[" * 5000 + b"]" * 5000 + b"}}", "recursion"),
    "no object": (HERE, b"[]", "object"),
    "no data": (HERE, b'{"id":"bad"}', "`data`"),
    "data is a list": (HERE, b'{"id":"bad","data":[]}', "object"),
    "a missing field": (HERE, b'{"id":"bad","data":{"text":"hi"}}', "`agent`"),
    "a wrong type": (HERE, b'{"id":"bad","data":{"agent":"demo","text":5}}', "$.text"),
    "an absurd temperature": (
        HERE,
        b'{"id":"bad","data":{"agent":"demo","text":"x","temperature":9}}',
        "$.temperature",
    ),
    "an absurd seed": (HERE, b'{"id":"bad","data":{"agent":"demo","seed":1180591620717411303424}}', "$.seed"),
    "no token": (HERE, b'{"id":"bad","data":{"agent":"demo","max_tokens":0}}', "$.max_tokens"),
    "a bad id": (HERE, b'{"id":"BAD ID","data":{"agent":"demo","text":"hi"}}', "command id"),
    "a bad thread": ("in.acme.agent.T1.run", b'{"id":"bad","data":{"agent":"demo","text":"hi"}}', "thread"),
    "a bad tenant": ("in.ACME.agent.t1.run", b'{"id":"bad","data":{"agent":"demo","text":"hi"}}', "tenant"),
    "an unknown verb": ("in.acme.agent.t1.fly", b'{"id":"bad","data":{}}', "no command 'fly' for 'agent': known are"),
    "an unknown kind": ("in.acme.bird.t1.run", b'{"id":"bad","data":{}}', "no command 'run' for 'bird': known are"),
}


@pytest.mark.parametrize(("subject", "body", "names"), BAD.values(), ids=BAD.keys())
async def test_poison_is_buried_and_its_neighbours_go_on(
    bus: Connection, subject: str, body: bytes, names: str
) -> None:
    await bus.request(subject, body)
    await send_command(bus, command("good"))
    async with pulling(bus) as queue:
        delivery = await queue.get()
        assert delivery.command.id == "good"
        await delivery.ack()
    await nothing_kept(bus)
    assert await kept(bus, DEAD) == 1
    found = await letter(bus)
    assert names in found.error
    assert found.body == body.decode("utf-8", "replace")
    assert found.subject == subject.replace("in.", "cmd.0.", 1)
    assert found.process == "p1"


@pytest.mark.deadline(20)
async def test_poison_that_is_sent_again_to_a_server_that_restarted_is_buried_once(
    bus: Connection, nats_server: NatsServer
) -> None:
    poison, headers = b'{"id":"p1","data":7}', {"Nats-Msg-Id": "acme.p1"}
    await bus.request(HERE, poison, headers=headers)
    async with pulling(bus):
        await nothing_kept(bus)
        await nats_server.kill()
        await nats_server.start(nats_server.port)
        await bus.flush()
        again = msgspec.json.decode((await bus.request(HERE, poison, headers=headers)).data)
        assert "duplicate" not in again  # or there would be nothing to test
        await nothing_kept(bus)
    assert await kept(bus, DEAD) == 1


async def test_the_sender_of_a_dead_command_is_told_if_it_gave_an_id(bus: Connection) -> None:
    async with watching(bus, "live.acme.command.bad") as watcher, pulling(bus):
        await bus.request(HERE, b'{"id":"bad","data":{"text":"hi"}}')
        outcome = await watcher.next(3)
    assert isinstance(outcome, Outcome)
    assert (outcome.result, outcome.thread) == ("dead", "t1")
    assert outcome.problem is not None
    assert "`agent`" in outcome.problem.message


async def test_a_letter_that_cannot_be_kept_does_not_stop_the_queue(bus: Connection) -> None:
    await bus.api(f"STREAM.DELETE.{DEAD}")
    await bus.request(HERE, b"{nope")
    await send_command(bus, command("good"))
    async with pulling(bus) as queue:
        assert (await queue.get()).command.id == "good"
    assert await kept(bus, CMD) == 2  # not lost either: it comes again when its wait is over


async def test_a_full_command_stream_refuses(bus: Connection) -> None:
    config = (await bus.api(f"STREAM.INFO.{CMD}"))["config"]
    await bus.api(f"STREAM.UPDATE.{CMD}", {**config, "max_msgs": 1})
    await send_command(bus, command("c1"))
    with pytest.raises(Refused):
        await send_command(bus, command("c2"))


async def test_a_command_that_is_larger_than_the_server_takes_is_refused_at_once(bus: Connection) -> None:
    with pytest.raises(Refused) as refused:
        await send_command(bus, command("c1", "x" * (9 << 20)))
    assert refused.value.too_large


async def test_a_command_to_a_server_without_streams_is_not_taken(connection: Connection) -> None:
    with pytest.raises(Unavailable):
        await send_command(connection, command("c1"), timeout_s=0.5)


async def test_a_thread_that_cannot_be_a_subject_is_refused_before_it_is_sent(bus: Connection) -> None:
    with pytest.raises(BadSubject, match="thread"):
        await send_command(bus, command("c1", thread="a.b"))
