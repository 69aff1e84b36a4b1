"""What the bus costs: tokens per second of an engine served over NATS, beside the same engine run inline, in one run.

Served means the processes of `ostinato up`: nats-server with the trace's stream, a scheduler, a worker, and a frontend
that turns tokens into text as they come (it is part of this process, which asks). Inline is `LLM(...).generate` in a
process of its own, with as many threads. Both take the same requests in turns, round after round; what a round took of
one is divided by what it took of the other, and the median of that is told for each load. First every answer must be
the same both ways, token by token. In the second half a recorder copies every step into Postgres meanwhile.

The model has SmolLM2-135M's shape and no weights worth the name. `ratio` and `ratio_recorded` are those of all loads
together, their geometric mean; targets are 0.97 and 0.93.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from actors.models.provider import ModelAnswer, ModelCall, Piece
from actors.serving.frontend import Frontend
from benchmarks.checkpoints import CONFIGS, describe
from benchmarks.log_servers import Urls, fresh_servers
from bus.connection import Connection
from bus.store import Store
from bus.streams import TRACE, ensure_streams
from infra.checkpoint import resolve_engine
from infra.launcher import status_of
from infra.settings import PLACE_VARIABLE, EngineSettings, Place, Settings, encode_place
from schemas.generation import Sampling

ROOT = Path(__file__).parents[1]
NAME = "smol"
BLOCKS = 4000
READY_S = 120.0


@dataclass(frozen=True, slots=True)
class Load:
    """Requests that come at once."""

    requests: int
    prompt: int
    """Tokens of each."""
    answer: int
    rounds: int

    def prompts(self, seed: int) -> list[list[int]]:
        """Make prompts that have nothing in common, with each other or with those of another seed."""
        return [
            [300 + (seed * 7919 + number * 104_729 + at * (31 + number)) % 48_000 for at in range(self.prompt)]
            for number in range(self.requests)
        ]

    @property
    def sampling(self) -> Sampling:
        """Always as many tokens."""
        return Sampling(max_tokens=self.answer, ignore_eos=True)


QUICK = (Load(1, 32, 40, rounds=7), Load(32, 16, 20, rounds=3))
FULL = (Load(1, 128, 128, rounds=15), Load(32, 128, 96, rounds=7))


@dataclass(frozen=True, slots=True)
class Took:
    """One round of one load."""

    seconds: float
    tokens: list[list[int]]
    texts: list[str]


class Inline:
    """The engine in a process of its own, told over a pipe what to do."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def ready(self) -> None:
        """Wait until the model is loaded. Blocks."""
        assert self._pipes[1].readline() == "ready\n", "the inline engine could not start: see above"

    def run(self, load: Load, seed: int) -> Took:
        """Run a load. Blocks."""
        asked, answered = self._pipes
        asked.write(json.dumps([load.requests, load.prompt, load.answer, load.rounds, seed]) + "\n")
        asked.flush()
        return Took(*json.loads(answered.readline()))


@contextmanager
def inline_engine(folder: Path, threads: int) -> Iterator[Inline]:
    """Start a process with the engine, which may take a while to be ready."""
    argv = [sys.executable, "-m", "benchmarks.bus_path_inline", str(folder), str(threads)]
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=_environment()
    )
    try:
        yield Inline(process)
    finally:
        process.communicate(timeout=30)


def _environment() -> dict[str, str]:
    """As the launcher sets it for its children, for both sides."""
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "MKL_CBWR": "AUTO,STRICT", "PYTHONUNBUFFERED": "1"}


class Served:
    """The engine over the bus, asked through a frontend."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._asked = 0

    async def run(self, load: Load, seed: int, *, named: bool = False) -> Took:
        """Run a load; `named` has the tokens told, which takes time."""
        prompts = [tuple(prompt) for prompt in load.prompts(seed)]
        began = time.perf_counter()
        answers = await asyncio.gather(*(self._ask(prompt, load.sampling, named=named) for prompt in prompts))
        seconds = time.perf_counter() - began
        for answer in answers:
            assert answer.usage.completion_tokens == load.answer, answer.usage
        return Took(seconds, [list(answer.token_ids) for answer in answers], [answer.text for answer in answers])

    async def _ask(self, prompt: tuple[int, ...], sampling: Sampling, *, named: bool) -> ModelAnswer:
        self._asked += 1
        effect = f"call-{self._asked}"
        call = ModelCall(effect, NAME, (), (), sampling, "benchmark", "thread", prompt=prompt, return_token_ids=named)
        said: list[str] = []

        async def on_text(piece: Piece, /) -> None:
            said.append(piece.text)

        answer = await self._frontend.call(call, on_text)
        assert "".join(said) == answer.text
        return answer


@asynccontextmanager
async def child(role: str, urls: Urls, settings: Settings, connection: Connection) -> AsyncIterator[None]:
    """Run a process of the process table, and wait until it is ready."""
    slot = f"{role}-0"
    place = Place(role=role, slot=slot, nats_url=urls.nats, postgres_url=urls.postgres, settings=settings)
    environment = {**_environment(), PLACE_VARIABLE: encode_place(place)}
    argv = (sys.executable, "-m", "infra.process", slot, str(os.getpid()))
    process = await asyncio.create_subprocess_exec(*argv, env=environment, cwd=ROOT)
    try:
        deadline = time.monotonic() + READY_S
        while True:
            status = await status_of(connection, slot)
            if status is not None and status["ready"]:
                break
            assert process.returncode is None, f"{slot} ended: see above"
            assert time.monotonic() < deadline, f"{slot} is not ready after {READY_S:.0f} s"
            await asyncio.sleep(0.05)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@dataclass(frozen=True, slots=True)
class Pair:
    """What one round took, both ways."""

    inline: float
    served: float


class Comparison:
    """Runs both, in turns."""

    def __init__(self, inline: Inline, served: Served) -> None:
        self._inline = inline
        self._served = served
        self._seed = 0

    async def check(self, load: Load) -> None:
        """See that both answer the same."""
        self._seed += 1
        here = await asyncio.to_thread(self._inline.run, load, self._seed)
        there = await self._served.run(load, self._seed, named=True)
        assert here.tokens == there.tokens, "the served engine says other tokens than the same one inline"
        assert here.texts == there.texts, "the served engine's text is another one"

    async def rounds(self, load: Load) -> list[Pair]:
        """Measure; whose turn is first changes every round."""
        pairs = []
        for number in range(load.rounds):
            self._seed += 1
            if number % 2:
                there = await self._served.run(load, self._seed)
                here = await asyncio.to_thread(self._inline.run, load, self._seed)
            else:
                here = await asyncio.to_thread(self._inline.run, load, self._seed)
                there = await self._served.run(load, self._seed)
            assert here.texts == there.texts
            pairs.append(Pair(here.seconds, there.seconds))
        return pairs


def figures(measured: dict[Load, list[Pair]], suffix: str = "") -> dict[str, float]:
    """Give the ratio of all loads, and for each its own and both rates."""
    found: dict[str, float] = {}
    ratios = []
    for load, pairs in measured.items():
        tokens = load.requests * load.answer
        ratios.append(statistics.median(pair.inline / pair.served for pair in pairs))
        found |= {
            f"ratio{suffix}_{load.requests}": round(ratios[-1], 4),
            f"inline{suffix}_tokens_s_{load.requests}": round(
                tokens / statistics.median(pair.inline for pair in pairs), 1
            ),
            f"served{suffix}_tokens_s_{load.requests}": round(
                tokens / statistics.median(pair.served for pair in pairs), 1
            ),
        }
    return {f"ratio{suffix}": round(prod(ratios) ** (1 / len(ratios)), 4), **found}


async def caught_up(connection: Connection, store: Store) -> None:
    """Wait until the recorder has copied all that there was: what it does then is what each step costs it."""
    last = (await connection.api(f"STREAM.INFO.{TRACE}"))["state"]["last_seq"]
    while True:
        cursor = await store.cursor(TRACE)
        if cursor is not None and cursor.sequence >= last:
            return
        await asyncio.sleep(0.05)


async def compare(urls: Urls, folder: Path, inline: Inline, loads: Sequence[Load], threads: int) -> Any:
    """Measure without the recorder and with it."""
    engine = EngineSettings(
        name=NAME,
        model=str(folder),
        device="cpu",
        dtype="bfloat16",
        load_format="dummy",
        kv_blocks=BLOCKS,
        context_length=2048,
        threads=threads,
    )
    settings = Settings(engine=resolve_engine(engine, lambda _: None))
    async with contextlib.AsyncExitStack() as exits:
        connection = await exits.enter_async_context(await Connection.open(urls.nats, "benchmark"))
        await ensure_streams(connection, settings.shards)
        await exits.enter_async_context(child("scheduler", urls, settings, connection))
        await exits.enter_async_context(child("worker", urls, settings, connection))
        frontend = Frontend(connection, NAME, folder, "benchmark", engine.context_length)
        await frontend.start()
        await asyncio.to_thread(inline.ready)
        comparison = Comparison(inline, Served(frontend))
        for load in loads:
            await comparison.check(load)
        found = figures({load: await comparison.rounds(load) for load in loads})
        await exits.enter_async_context(child("recorder", urls, settings, connection))
        store = await exits.enter_async_context(await Store.open(urls.postgres))
        await caught_up(connection, store)
        recorded = {load: await comparison.rounds(load) for load in loads}
        return {**found, **figures(recorded, "_recorded"), "threads": threads}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    half = max(1, (os.cpu_count() or 2) // 2)
    parser.add_argument("--threads", type=int, default=half, help="of the model; half of the cores, as served")
    chosen = parser.parse_args()
    loads = QUICK if chosen.quick else FULL
    with TemporaryDirectory(prefix="ostinato-benchmark-") as name, fresh_servers(4) as urls:
        folder = describe(Path(name) / NAME, CONFIGS["smol-135m"])
        with inline_engine(folder, chosen.threads) as inline:
            found = uvloop.run(compare(urls, folder, inline, loads, chosen.threads))
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
