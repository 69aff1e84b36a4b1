"""From a tool's result to the step that its program's next turn is in, as served.

Two ways lead there. An agent's own tool returns: from when the commit that says so goes to the log, to when the plan
goes out that has the next request in a slice. Or a client's tool has, and the client asks over HTTP: from when it
begins to send. Both ends are heard by one listener on the bus. Each is measured with nothing else to do, and beside
completions that keep the engine in steps: then a turn waits for the plans that are out already, which take a step.

Without a checkpoint the built-in model serves, which does call tools; with `--model FOLDER` clients alone are measured.
`tool_to_step_ms` is the median of agents' turns (of clients' with a model), nothing else to do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import msgspec
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.peers_processes import environment, first_line, started
from bus import subjects
from bus.connection import Connection, Message
from schemas import codec
from schemas.envelope import Envelope
from schemas.steps import StepPlan

ROOT = Path(__file__).parents[1]
READY_S = 120.0
BUSY = 3
"""Completions at once that keep the engine in steps."""


class Listener:
    """Hears when tools have returned, and when requests are first in a step."""

    def __init__(self) -> None:
        self.took: list[float] = []
        """Seconds, of each turn of an agent."""
        self._returned: dict[str, float] = {}
        """By thread, tools that have returned whose next turn is in no step."""
        self._lengths: dict[int, asyncio.Future[float]] = {}

    async def listen(self, connection: Connection, engine: str) -> None:
        """Begin to."""
        await connection.subscribe("ev.>", self._committed)
        await connection.subscribe(subjects.plan(engine), self._planned)
        await connection.flush()

    def first(self, length: int) -> asyncio.Future[float]:
        """Give when the next request of so many tokens is in a step."""
        found = self._lengths[length] = asyncio.get_running_loop().create_future()
        return found

    async def _committed(self, message: Message) -> None:
        now = time.perf_counter()
        for fact in msgspec.json.decode(message.data, type=Envelope).facts:
            if fact.type == "tool.returned":
                self._returned[f"{fact.tenant}/{fact.thread}"] = now

    async def _planned(self, message: Message) -> None:
        now = time.perf_counter()
        plan: StepPlan = codec.decode(message.data, StepPlan)
        sliced = {part.request for part in plan.slices}
        for arrival in plan.arrivals:
            if arrival.request not in sliced:
                continue
            began = self._returned.pop(arrival.request.rpartition("/")[0], None)
            if began is not None:
                self.took.append(now - began)
            waited = self._lengths.pop(len(arrival.tokens), None)
            if waited is not None:
                waited.set_result(now)


async def agents(client: httpx.AsyncClient, listener: Listener, turns: int) -> list[float]:
    """Have the demonstration agent use its calculator, in one thread that grows."""
    listener.took.clear()
    thread: dict[str, str] = {}
    for number in range(turns):
        text = f"What is {12 + number} times {34 + number}?"
        body = {"model": "agent/demo", "messages": [{"role": "user", "content": text}]}
        answer = await client.post("/v1/chat/completions", json=body, headers=thread)
        answer.raise_for_status()
        if number % 8 == 0:
            thread = {"X-Ostinato-Thread": answer.headers["X-Ostinato-Thread"]}
        if number % 8 == 7:
            thread = {}
    return list(listener.took)


async def clients(client: httpx.AsyncClient, listener: Listener, model: str, turns: int, session: str) -> list[float]:
    """Have a client go on with its history, again and again."""
    history, took = [300 + at % 200 for at in range(97)], []
    for number in range(turns):
        body = {"model": model, "prompt": history, "max_tokens": 4, "ignore_eos": True, "return_token_ids": True}
        body |= {"session_id": f"{session}-{number // 8}", "temperature": 0}
        planned = listener.first(len(history))
        began = time.perf_counter()
        answer = await client.post("/v1/completions", json=body)
        answer.raise_for_status()
        took.append(await planned - began)
        history = [*history, *answer.json()["choices"][0]["token_ids"], 301, 302, 303]
        if number % 8 == 7:
            history = [300 + (number + at) % 200 for at in range(97)]
    return took


@asynccontextmanager
async def busy(client: httpx.AsyncClient, model: str) -> AsyncIterator[None]:
    """Keep the engine in steps for as long as the block runs."""

    async def go_on(number: int) -> None:
        body = {"model": model, "prompt": [310 + number, 311, 312], "max_tokens": 200, "ignore_eos": True}
        while True:
            (await client.post("/v1/completions", json=body)).raise_for_status()

    tasks = [asyncio.create_task(go_on(number)) for number in range(BUSY)]
    try:
        await asyncio.sleep(1.0)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start the stack, and ask."""
    argv = [sys.executable, "-m", "infra.cli.main", "serve" if options.model else "up"]
    argv += [options.model] if options.model else []
    argv += ["--json", "--port", "0", "--data", str(folder / "data")]
    variables = environment(PYTHONPATH=str(ROOT), OSTINATO_ENGINE_POLICY=options.policy)
    log = folder / "engine.log"
    async with started(argv, variables, log) as process:
        ready = json.loads(await first_line(process, READY_S))
        urls = json.loads((folder / "data" / "runtime.json").read_text(encoding="utf-8"))["urls"]
        listener = Listener()
        async with (
            await Connection.open(urls["nats"], "benchmark") as connection,
            httpx.AsyncClient(base_url=ready["url"], timeout=120.0) as client,
        ):
            model = (await client.get("/v1/models")).json()["data"]
            name = next(one["id"] for one in model if not one["id"].startswith("agent/"))
            await listener.listen(connection, ready["model"])
            found = dict[str, list[float]]()
            if not options.model:
                await agents(client, listener, 2)
                found["agents"] = await agents(client, listener, options.turns)
            await clients(client, listener, name, 2, "warm")
            found["clients"] = await clients(client, listener, name, options.turns, "idle")
            async with busy(client, name):
                if not options.model:
                    found["agents_beside"] = await agents(client, listener, options.turns)
                found["clients_beside"] = await clients(client, listener, name, options.turns, "beside")
    told: dict[str, Any] = {"policy": options.policy, "cores": os.cpu_count()}
    for name, took in found.items():
        assert took, f"no turn of {name} was seen: {log.read_text(encoding='utf-8')[-2000:]}"
        ordered = sorted(1000 * one for one in took)
        told[f"{name}_ms"] = round(statistics.median(ordered), 2)
        told[f"{name}_p95_ms"] = round(ordered[int(0.95 * len(ordered))], 2)
    told["tool_to_step_ms"] = told["clients_ms" if options.model else "agents_ms"]
    return told


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--model", default="", help="a checkpoint's folder; the built-in model without one")
    parser.add_argument("--policy", default="agents")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="ostinato-benchmark-") as name:
        Path(name).chmod(0o755)
        found = uvloop.run(measure(options, Path(name)))
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
