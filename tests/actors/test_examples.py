"""The agents of `examples/` and of the page on agents, at work on a real server with a scripted model."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import nats
import pytest

from actors.agent.definition import Agent
from actors.models.provider import ModelCall
from actors.testing import ScriptedModel
from actors.toolsets import Services
from bus.commands import send_command
from bus.connection import Connection
from bus.errors import Unavailable
from bus.store import Store
from bus.streams import ensure_streams
from infra.client import Client
from infra.follow import send
from schemas.commands import Approve, PostResult, Resume
from schemas.live import Progress
from schemas.messages import ToolCall
from schemas.runs import RunFinished, ToolReturned
from schemas.schedules import AddSchedule, Schedule
from schemas.waits import ToolSuspended
from tests.actors.runtime.bench import Bench, answer_of, ends, hearing, owning, run, settling, until
from tests.actors.runtime.test_shard_waits import happened
from tests.actors.schedules.clocks import HOUR, NOON, Alarm, about, firing

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(30)]

ROOT = Path(__file__).parents[2]


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def agent_of(name: str) -> Agent:
    found: Agent = getattr(example(name), name)
    return found


def bench_with(connection: Connection, url: str, *script: Any) -> Bench:
    """A bench whose model says the script's lines one after the other."""
    lines = iter(script)
    return Bench(connection, url, ScriptedModel(lambda call: next(lines)))


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall("k1", name, json.dumps(arguments))


@pytest.fixture
async def streams(connection: Connection) -> None:
    await ensure_streams(connection, 1)


@pytest.mark.usefixtures("streams")
async def test_the_chat_remembers(connection: Connection, nats_url: str) -> None:
    lines = (call("remember", topic="colour", text="blue"), "noted", call("recall", topic="colour"), "blue")
    bench = bench_with(connection, nats_url, *lines)
    bench.agents = [agent_of("chat")]
    async with owning(bench.runtime("p1")):
        assert await answer_of(bench, run("c1", "I like blue", agent="chat")) == "noted"
        assert await answer_of(bench, run("c2", "What do I like?", agent="chat")) == "blue"
    assert [event.content for event in await bench.events(ToolReturned)] == ["saved", "blue"]
    await bench.verified("t1")


@pytest.mark.usefixtures("streams")
async def test_a_payment_is_agreed_to_and_made_once(connection: Connection, nats_url: str) -> None:
    bench = bench_with(connection, nats_url, call("pay", to="Ann", amount=500))
    bench.agents = [agent_of("payments")]
    async with owning(bench.runtime("p1")), hearing(bench, "run.c1") as watcher:
        await send_command(bench.connection, run("c1", "pay Ann", agent="payments"))
        await until(watcher, happened("approval.requested"))
        await send_command(bench.connection, settling("a1", Approve("c1-1-t0")))
        await until(watcher, happened("tool.suspended"))
        await send_command(bench.connection, settling("a2", Resume("c1-1-t0", {"name": "household"})))
        await until(watcher, ends)
    (returned,) = await bench.events(ToolReturned)
    assert returned.content == "paid 500 to Ann from household, once: acme/t1/c1-1-t0"
    (finished,) = await bench.events(RunFinished)
    assert finished.stopped_by == "tool pay"
    await bench.verified("t1")


@pytest.mark.usefixtures("streams")
async def test_a_journey_is_planned_with_tools_of_others(connection: Connection, nats_url: str) -> None:
    bench = bench_with(connection, nats_url, call("where"), call("weather", city="Rome"), "Stay!")
    bench.agents = [agent_of("travel")]
    serving = asyncio.create_task(example("weather_service").serve(nats_url))
    try:
        await served(bench, "weather")
        asked = run("c1", "Where to?", agent="travel", context={"user": "Ann"})
        async with owning(bench.runtime("p1")), hearing(bench, "run.c1") as watcher:
            await send_command(bench.connection, asked)
            await until(watcher, happened("tool.handed_over"))
            await send_command(bench.connection, settling("r1", PostResult("c1-1-t0", "in Rome")))
            await until(watcher, ends)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    assert "for Ann" in bench.model.calls[0].messages[0].content
    assert [event.content for event in await bench.events(ToolReturned)] == ["in Rome", "sun in Rome"]
    await bench.verified("t1")


@pytest.mark.usefixtures("streams")
async def test_research_is_done_by_agents_of_agents(connection: Connection, nats_url: str) -> None:
    lines = (
        call("reader", message="How long may a thread's title be?"),
        call("search", words="title"),
        "200 characters, says memory.md",
        call("critic", message="Is 200 right?"),
        "fine",
        "A title has at most 200 characters (memory.md).",
    )
    bench = bench_with(connection, nats_url, *lines)
    bench.agents = [agent_of("research"), example("research").reader, example("research").critic]
    async with owning(bench.runtime("p1")):
        said = await answer_of(bench, run("c1", "What do we know of titles?", agent="research"))
    assert said == "A title has at most 200 characters (memory.md)."
    found = [event.content for event in await bench.events(ToolReturned)]
    assert any("memory.md: " in content for content in found)
    assert found[-2:] == ["200 characters, says memory.md", "fine"]
    await bench.verified("t1")


@pytest.mark.usefixtures("streams")
async def test_a_digest_is_made_when_it_is_due(connection: Connection, nats_url: str, tmp_path: Path) -> None:
    module = example("digest")
    module.FOLDER = tmp_path
    (tmp_path / "new.txt").write_text("news", encoding="utf-8")
    bench = bench_with(connection, nats_url, call("changed"), "There is a file new.txt.")
    bench.agents = [module.digest]
    clock = Alarm()
    runtime = firing(bench, "p1", clock, agents=("digest",))
    wanted = Schedule("0 * * * *", "digest", "What is new since yesterday?", thread="digest")
    async with owning(runtime), hearing(bench, "run.morning-1767272400") as watcher:
        await send(connection, about("s1", AddSchedule(wanted), "morning"))
        clock.set(NOON + HOUR)
        await until(watcher, ends)
    assert [event.content for event in await bench.events(ToolReturned)] == ["new.txt"]
    assert [event.text for event in await bench.events(RunFinished)] == ["There is a file new.txt."]
    await bench.verified("digest")


@pytest.mark.usefixtures("streams")
async def test_a_tool_is_a_shell_script(connection: Connection, nats_url: str) -> None:
    bench = bench_with(connection, nats_url, call("disk"), "All is well.")
    bench.agents = [agent_of("machine")]
    host, port = nats_url.removeprefix("nats://").split(":")
    script = ROOT / "examples" / "disk_service.sh"
    serving = await asyncio.create_subprocess_exec("bash", str(script), host, port)
    try:
        await served(bench, "disk", "INFO")
        async with owning(bench.runtime("p1")):
            assert await answer_of(bench, run("c1", "How is it?", agent="machine")) == "All is well."
    finally:
        serving.kill()
        await serving.wait()
    (returned,) = await bench.events(ToolReturned)
    assert "%" in returned.content


async def served(bench: Bench, name: str, verb: str = "PING") -> None:
    """Wait until a service is there."""
    from_now = bench.connection.client
    for _ in range(200):
        try:
            await from_now.request(f"$SRV.{verb}.tool-{name}", b"", timeout=1)
        except nats.errors.NoRespondersError:
            await asyncio.sleep(0.01)
        else:
            return
    raise AssertionError(f"nobody serves {name!r}")


def test_every_example_is_run_by_a_test() -> None:
    """What a test loads or starts is named in it: here, or where a whole stack is there to run it."""
    tests = [Path(__file__), ROOT / "tests" / "system" / "test_waits.py"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in tests)
    run_by_tests = set(re.findall(r'\b(?:agent_of|example)\("(\w+)"\)', code))
    run_by_tests |= set(re.findall(r'"examples" / "(\w+)\.\w+"', code))
    there = {path.stem for path in (ROOT / "examples").iterdir() if path.is_file()}
    assert there
    assert there == run_by_tests


def looking_up(order: str) -> Any:
    """A model that looks an order up, and says what it reads."""

    def script(asked: ModelCall) -> Any:
        last = asked.messages[-1]
        return call("look_up", order=order) if last.role == "user" else last.content

    return script


async def no_record() -> Store:
    raise Unavailable("there is no record")


@pytest.mark.usefixtures("streams")
async def test_the_page_on_agents_does_what_it_says(
    connection: Connection, nats_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
    named: dict[str, Any] = {}
    for block in re.findall(r"```py\n(.*?)```", page, re.DOTALL):
        exec(block, named)
    bench = bench_with(connection, nats_url, call("office_look_up", order="4711"), "It comes.", "Hello Ann")
    bench.agents = [named["shop"], named["careful"], named["shielded"]]
    async with owning(bench.runtime("p1")):
        assert await answer_of(bench, run("c1", "Where is it?", agent="careful")) == "It comes."
        assert await answer_of(bench, run("c2", "Hello", agent="shop", context={"customer": "Ann"})) == "Hello Ann"
        assert bench.model.calls[-1].messages[0].content == "You answer Ann."
        for order, read in (("4711", "4711 is coming"), ("x", "error: an order's number"), ("1", "it was delivered")):
            bench.model.script = looking_up(order)
            assert (await answer_of(bench, run(f"o{order}", "Where?", agent="shielded"))).startswith(read)
        # the stack that the page connects to is this one
        named["connect"] = lambda: nullcontext(Client(connection, bench.read_back, no_record, "acme"))
        bench.model.script = looking_up("4712")
        await named["ask"]()
        assert capsys.readouterr().out == "4712 is on its way"
    client = await nats.connect(nats_url)
    await named["serve"](client)
    reply = await client.request("rpc.tool-weather.call", b'{"city": "Rome"}', timeout=2)
    assert reply.data == b"sun in Rome"
    await named["serve_booking"](client)
    bench = bench_with(connection, nats_url, call("book"), "Done.")
    bench.agents = [Agent("travel", "Book.", tools=[Services("book")])]
    async with owning(bench.runtime("p2")), hearing(bench, "run.c3") as watcher:
        await send_command(connection, run("c3", "book", agent="travel", thread="t3"))
        await until(watcher, happened("tool.suspended"))
        (suspended,) = await bench.events(ToolSuspended)
        assert (suspended.payload, suspended.schema) == ({"price": 40}, {"type": "boolean"})
        await send_command(connection, settling("y1", Resume(effect=suspended.effect, answer=True), "t3"))
        heard = await until(watcher, ends)
    assert [frame.data for frame in heard if isinstance(frame, Progress)] == [{"booked": "the seat"}]
    assert [returned.content for returned in await bench.events(ToolReturned)][-1] == "booked"
    await client.close()
