"""Tools that are NATS services: found by what they say of themselves, called with the model's arguments."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import nats
import pytest
from nats.aio.client import Client as Nats
from nats.micro import add_service
from nats.micro.request import Request

from actors.agent.definition import Agent
from actors.errors import NoService, ToolError
from actors.services import BusServices, tool_of
from actors.testing import ScriptedModel
from actors.tools import tool
from actors.toolsets import Approval, Prefixed, Services
from bus.commands import send_command
from bus.connection import Connection, Message
from bus.microservices import Info
from bus.streams import ensure_streams
from schemas.commands import AbortRun, Command, Resume
from schemas.context import TRACE
from schemas.live import Committed, Progress
from schemas.runs import ToolFailed, ToolIndeterminate, ToolReturned
from schemas.tracing import span_id
from schemas.waits import ToolSuspended
from tests.actors.runtime.bench import Bench, answer_of, answering, ends, hearing, owning, run, settling, until
from tests.actors.runtime.test_shard_waits import happened, outcome_of

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(20)]

SCHEMA = {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]}


@asynccontextmanager
async def served(url: str, name: str, handler: Callable[[Request], Any], **metadata: str) -> AsyncIterator[Nats]:
    """A tool as anybody would write it, with plain nats-py."""
    client = await nats.connect(url)
    service = await add_service(
        client,
        name=f"tool-{name}",
        version="1.0.0",
        description="Tell the weather.",
        metadata={"parameters": json.dumps(SCHEMA), **metadata},
    )
    await service.add_endpoint(name="call", subject=f"rpc.tool-{name}.call", handler=handler)
    await client.flush()
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
async def bench(connection: Connection, nats_url: str) -> Bench:
    await ensure_streams(connection, 1)
    return Bench(connection, nats_url, ScriptedModel(answering))


async def weather(request: Request) -> None:
    arguments = json.loads(request.data)
    headers = request.headers or {}
    await request.respond(f"sun in {arguments['what']} {headers['Ostinato-Key']}".encode())


async def test_a_service_is_a_tool(bench: Bench) -> None:
    bench.agents = [Agent("sky", "Help.", tools=[Prefixed(Services("weather"), "get_")])]
    async with served(bench.url, "weather", weather, effect="pure"), owning(bench.runtime("p1")):
        assert (
            await answer_of(bench, run("c1", "use get_weather Rome", agent="sky")) == "re: sun in Rome acme/t1/c1-"[:24]
        )
    (spec,) = bench.model.calls[0].tools
    assert (spec.name, spec.description, spec.parameters) == ("get_weather", "Tell the weather.", SCHEMA)
    (returned,) = await bench.events(ToolReturned)
    assert returned.content == "sun in Rome acme/t1/c1-1-t0"
    await bench.verified("t1")


async def test_a_service_is_called_within_the_caller_s_trace_and_the_call_s_span(bench: Bench) -> None:
    heard: list[dict[str, str]] = []

    async def listening(request: Request) -> None:
        heard.append(request.headers or {})
        await request.respond(b"sun")

    bench.agents = [Agent("sky", "Help.", tools=[Services("weather")])]
    trace = "ab" * 16
    traced = msgspec.structs.replace(
        run("c1", "use weather Rome", agent="sky"), traceparent=f"00-{trace}-{'cd' * 8}-01"
    )
    async with served(bench.url, "weather", listening, effect="pure"), owning(bench.runtime("p1")):
        await answer_of(bench, traced)
        await answer_of(bench, run("c2", "use weather Rome", agent="sky"))
    assert heard[0]["traceparent"] == f"00-{trace}-{span_id('acme', 't1', 'c1-1-t0')}-01"
    assert "traceparent" not in heard[1]


async def test_a_tool_here_does_what_it_does_within_the_call_s_span_too(bench: Bench) -> None:
    heard: list[str] = []

    @tool(effect="pure")
    async def look_up(what: str) -> str:
        """Look it up."""
        heard.append(TRACE.get())
        return what

    bench.agents = [Agent("sky", "Help.", tools=[look_up])]
    asked = msgspec.structs.replace(
        run("c1", "use look_up Rome", agent="sky"), traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01"
    )
    async with owning(bench.runtime("p1")):
        await answer_of(bench, asked)
    assert heard == [f"00-{'ab' * 16}-{span_id('acme', 't1', 'c1-1-t0')}-01"]


async def test_a_service_knows_whose_call_it_is_and_what_the_request_said(bench: Bench) -> None:
    heard: list[dict[str, str]] = []

    async def listening(request: Request) -> None:
        heard.append(request.headers or {})
        await request.respond(b"sun")

    bench.agents = [Agent("sky", "Help.", tools=[Services("weather")])]
    context = {"user": "Zoë", "limits": {"amount": 5}}
    async with served(bench.url, "weather", listening, effect="pure"), owning(bench.runtime("p1")):
        await answer_of(bench, run("c1", "use weather Rome", agent="sky", context=context))
        await answer_of(bench, run("c2", "use weather Rome", agent="sky"))
    assert json.loads(heard[0]["Ostinato-Context"]) == context
    assert (heard[0]["Ostinato-Agent"], heard[0]["Ostinato-Run"]) == ("sky", "c1")
    assert "Ostinato-Context" not in heard[1]


@pytest.mark.parametrize("limit", ["0.1", "60"], ids=["too long", "aborted"])
async def test_a_service_hears_of_a_call_that_nobody_waits_for(bench: Bench, limit: str) -> None:
    called, given_up = asyncio.Event(), asyncio.Queue[str]()

    async def silent(request: Request) -> None:
        called.set()
        await asyncio.Event().wait()

    async def heard(message: Message) -> None:
        given_up.put_nowait((message.headers or {})["Ostinato-Key"])

    bench.agents = [Agent("sky", "Help.", tools=[Services("weather")])]
    await bench.connection.subscribe("rpc.tool-weather.cancel", heard)
    async with served(bench.url, "weather", silent, timeout_s=limit), owning(bench.runtime("p1")):
        await send_command(bench.connection, run("c1", "use weather x", agent="sky"))
        await called.wait()
        if limit == "60":
            abort = Command(id="x", tenant="acme", kind="agent", thread="t1", verb="abort", data=AbortRun())
            await send_command(bench.connection, abort)
        assert await given_up.get() == "acme/t1/c1-1-t0"


async def test_a_service_tells_how_far_it_is_until_it_has_answered(bench: Bench) -> None:
    """Twice the same is told once; what is no JSON, comes late, or was meant for another call, is not."""
    inboxes, clients = list[str](), list[Nats]()

    async def telling(request: Request) -> None:
        headers = request.headers or {}
        inbox, what = headers["Ostinato-Progress"], json.loads(request.data)["what"]
        inboxes.append(inbox)
        garbage = (b"{", b"\xff", b"", b"[" * 5000 + b"]" * 5000)
        twice = {"Nats-Msg-Id": "m1"}
        for data, named in ((b'{"part": 1}', twice), (b'{"part": 1}', twice), *((one, None) for one in garbage)):
            await clients[0].publish(inbox, data, headers=named)
        for other in inboxes:
            await clients[0].publish(other, f'"of {what}"'.encode())
        await request.respond(b"sun")

    bench.agents = [Agent("sky", "Help.", tools=[Services("weather")])]
    async with served(bench.url, "weather", telling, effect="pure") as client, owning(bench.runtime("p1")):
        clients.append(client)
        for number, city in enumerate(("Rome", "Brest"), 1):
            async with hearing(bench, f"run.c{number}") as watcher:
                await send_command(bench.connection, run(f"c{number}", f"use weather {city}", agent="sky"))
                told = [frame for frame in await until(watcher, ends) if isinstance(frame, Progress)]
            assert [(frame.n, frame.data) for frame in told] == [(1, {"part": 1}), (2, f"of {city}")]
            assert {frame.effect for frame in told} == {f"c{number}-1-t0"}
    assert len(set(inboxes)) == 2


async def test_a_service_waits_for_data_and_goes_on_with_it_in_another_process(bench: Bench) -> None:
    heard: list[tuple[str, str]] = []
    wanted = {"payload": {"price": 40}, "schema": {"type": "boolean"}}

    async def asking(request: Request) -> None:
        headers = request.headers or {}
        heard.append((headers["Ostinato-Key"], headers.get("Ostinato-Answers", "")))
        answers = json.loads(headers.get("Ostinato-Answers", "[]"))
        if answers[-1:] != [True]:
            problem = {"problem": "say true or false"} if answers else {}
            asked = json.dumps({**wanted, **problem}).encode()
            await request.respond(asked, headers={"Ostinato-Suspended": "1"})
            return
        await request.respond(b"booked")

    bench.agents = [Agent("travel", "Help.", tools=[Services("book")])]
    async with served(bench.url, "book", asking), hearing(bench, "run.c1") as watcher:
        async with owning(bench.runtime("p1")):
            await send_command(bench.connection, run("c1", "use book seat", agent="travel"))
            *_, suspended = await until(watcher, happened("tool.suspended"))
            assert isinstance(suspended, Committed)
        async with owning(bench.runtime("p2")):
            await send_command(bench.connection, settling("r1", Resume("c1-1-t0", "Zoë")))
            await until(watcher, happened("tool.suspended", suspended.version))
        async with owning(bench.runtime("p3")):
            await send_command(bench.connection, settling("r2", Resume("c1-1-t0s1", answer=True)))
            await until(watcher, ends)
    first, second = await bench.events(ToolSuspended)
    assert (first.payload, first.schema, first.problem) == ({"price": 40}, {"type": "boolean"}, "")
    assert second.problem == "say true or false"
    key = "acme/t1/c1-1-t0"
    assert heard == [(key, ""), (key, '["Zo\\u00eb"]'), (key, '["Zo\\u00eb", true]')]
    (returned,) = await bench.events(ToolReturned)
    assert returned.content == "booked"
    await bench.verified("t1")


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"schema": 3}',
        b'{"payload": 1e999}',
        b"[" * 5000 + b"]" * 5000,
        json.dumps({"payload": "x" * 200_000}).encode(),
    ],
    ids=["nothing", "bytes", "a list", "a schema that is none", "a number that is none", "deep", "long"],
)
async def test_what_a_service_asks_for_in_garbage_is_the_models_to_read(bench: Bench, asked: bytes) -> None:
    async def garbling(request: Request) -> None:
        await request.respond(asked, headers={"Ostinato-Suspended": "1"})

    bench.agents = [Agent("sky", "Help.", tools=[Services("weather")])]
    async with served(bench.url, "weather", garbling), owning(bench.runtime("p1")):
        assert (await answer_of(bench, run("c1", "use weather x", agent="sky"))).startswith("re: error: ")
    (failed,) = await bench.events(ToolFailed)
    assert "ask" in failed.content
    assert len(failed.content) < 1000
    await bench.verified("t1")


async def test_what_no_message_can_carry_to_a_service_is_told_and_the_next_call_goes_through(bench: Bench) -> None:
    """The server would close the connection of whoever sends more."""
    services, heard = BusServices(bench.connection), list[object]()
    headers = {"Ostinato-Key": "k", "Ostinato-Context": "x" * bench.connection.client.max_payload}
    async with served(bench.url, "weather", weather):
        binding = (await services.describe("weather")).binding
        with pytest.raises(ToolError, match="too large"):
            await services.call(binding, '{"what": "Rome"}', headers, heard.append)
        fitting = {"Ostinato-Key": "k", "Ostinato-Context": "x" * 100_000}
        assert await services.call(binding, '{"what": "Rome"}', fitting, heard.append) == "sun in Rome k"
    assert heard == []


async def test_a_service_that_is_not_there_is_named_before_the_run(bench: Bench) -> None:
    bench.agents = [Agent("sky", "Help.", tools=[Services("weather")])]
    with pytest.raises(NoService, match="tool-weather"):
        await BusServices(bench.connection).describe("weather")
    async with owning(bench.runtime("p1")):
        refused = await outcome_of(bench, run("c1", "hi", agent="sky"))
    assert refused.problem is not None
    assert "tool-weather" in refused.problem.message


async def test_what_a_service_answers_in_error_is_the_models_to_read(bench: Bench) -> None:
    async def broken(request: Request) -> None:
        await request.respond_error("500", "no such place")

    bench.agents = [Agent("sky", "Help.", tools=[Services("weather")])]
    async with served(bench.url, "weather", broken), owning(bench.runtime("p1")):
        assert (await answer_of(bench, run("c1", "use weather x", agent="sky"))).startswith("re: error: no such pla")
    (failed,) = await bench.events(ToolFailed)
    assert failed.content == "error: no such place (code 500)"


@pytest.mark.parametrize(("effect", "shape"), [("once", ToolIndeterminate), ("pure", ToolFailed)])
async def test_a_service_that_does_not_answer_in_time_may_have_done_it(
    bench: Bench, effect: str, shape: type[Any]
) -> None:
    async def silent(request: Request) -> None:
        await asyncio.Event().wait()

    bench.agents = [Agent("sky", "Help.", tools=[Services("weather")])]
    about = {"effect": effect, "timeout_s": "0.1"}
    async with served(bench.url, "weather", silent, **about), owning(bench.runtime("p1")):
        assert (await answer_of(bench, run("c1", "use weather x", agent="sky"))).startswith("re: error: ")
    assert len(await bench.events(shape)) == 1
    await bench.verified("t1")


async def test_a_service_may_need_approval_like_any_tool(bench: Bench) -> None:
    bench.agents = [Agent("sky", "Help.", tools=[Approval(Services("weather"), lambda what: what == "Mars")])]
    async with served(bench.url, "weather", weather), owning(bench.runtime("p1")):
        assert (await answer_of(bench, run("c1", "use weather Rome", agent="sky"))).startswith("re: sun in Rome")
        refused = await answer_of(bench, run("c2", "use weather Mars", agent="sky", approvals="refuse"))
        assert refused.startswith("re: error: 'weather' ne")


@pytest.mark.parametrize(
    ("info", "names"),
    [
        (Info("tool-x", description=""), "description"),
        (Info("tool-x", description="d", metadata={"parameters": "["}), "metadata"),
        (Info("tool-x", description="d", metadata={"effect": "checkable"}), "checkable"),
        (Info("tool-x", description="d", metadata={"timeout_s": "-1"}), "timeout_s"),
    ],
)
def test_a_service_that_says_too_little_of_itself_is_none(info: Info, names: str) -> None:
    with pytest.raises(NoService, match=names):
        tool_of("x", info)
