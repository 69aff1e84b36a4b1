"""What every test may ask for: real servers, a database and a NATS of its own, and bounds on time and blocking.

Async tests carry `pytest.mark.anyio` and fail after 5 seconds, or `pytest.mark.deadline(seconds)`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import msgspec
import nats
import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import settings

from bus.connection import Connection
from bus.store import Store
from bus.streams import ensure_streams
from infra.services.data_directory import DataDirectory
from infra.services.embedded import Servers, embedded
from infra.services.nats_server import NatsServer
from infra.services.postgres import Postgres
from schemas import codec
from schemas.envelope import FORMAT, GENESIS, Envelope, Fact
from schemas.steps import Slice, StepPlan, StepResult

# Triton decides when it is first imported, by whatever test comes first, whether kernels run in its interpreter
if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

DEADLINE_S = 5.0
TESTS = Path(__file__).parent
LONGEST = ("chaos", "system", "engine", "infra/embedded")
"""The folders of tests whose files take longest."""
OURS = ["schemas", "bus", "engine", "actors", "infra"]
_numbers = itertools.count(1)

# a shared machine may be slow for a moment; time is bounded per test
settings.register_profile("ostinato", deadline=None)
settings.load_profile("ostinato")


def pytest_configure(config: pytest.Config) -> None:
    """Make our own markers known."""
    config.addinivalue_line("markers", "deadline(seconds): how long an async test may take; 5 unless said")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, so that no worker is left with one of them while another has none.

    Those with whole stacks take longest, then those that compute or train; among these one with many tests goes before
    one with few. The order within a file stays.
    """
    counts = Counter(item.path for item in items)

    def rank(item: pytest.Item) -> tuple[int, int, Path]:
        place = next((n for n, name in enumerate(LONGEST) if item.path.is_relative_to(TESTS / name)), len(LONGEST))
        return place, -counts[item.path], item.path

    items.sort(key=rank)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Bound every async test."""
    test = pyfuncitem.obj
    if inspect.iscoroutinefunction(test):
        marker = pyfuncitem.get_closest_marker("deadline")
        seconds = marker.args[0] if marker else DEADLINE_S

        @functools.wraps(test)
        async def bounded(*args: Any, **kwargs: Any) -> None:
            with anyio.fail_after(seconds):
                await test(*args, **kwargs)

        pyfuncitem.obj = bounded
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the session's nats-server complained of last, and how much room the disk has."""
    report = yield
    servers = getattr(item, "funcargs", {}).get("servers")
    if report.failed and servers is not None:
        complaints = [line for line in servers.nats.log.read_text().splitlines() if "[WRN]" in line or "[ERR]" in line]
        free = shutil.disk_usage(servers.nats.folder).free >> 20
        report.sections.append(("nats-server", "\n".join([f"disk: {free} MiB free", *complaints[-10:]])))
    return report


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """One asyncio loop for the whole session: the servers' processes belong to it."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[BlockBuster]:
    """Fail when our code blocks the event loop."""
    with blockbuster_ctx(scanned_modules=OURS) as blockbuster:
        for file, function in (
            # starting a process reads one pipe until the child has called exec: there is no other way
            ("subprocess.py", "_execute_child"),
            # an import on demand (the registry's) reads files, once
            ("<frozen importlib._bootstrap>", "_find_and_load"),
            # asyncpg looks for password and certificate files when it connects
            ("asyncpg/connect_utils.py", "_parse_connect_arguments"),
        ):
            for call in blockbuster.functions.values():
                call.can_block_in(file, function)
        yield blockbuster


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A folder that `nobody` can enter, unlike pytest's own; the servers of the session live in it."""
    folder = Path(tempfile.mkdtemp(prefix="ostinato-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def folder(open_folder: Path) -> Path:
    """A folder for this test alone that `nobody` can enter."""
    made = Path(tempfile.mkdtemp(dir=open_folder))
    made.chmod(0o755)
    return made


@pytest.fixture(scope="session")
async def servers(open_folder: Path) -> AsyncIterator[Servers]:
    """The servers of the session, started when first asked for."""
    async with embedded(DataDirectory(open_folder / "data"), system=open_folder / "system") as running:
        yield running


@pytest.fixture(scope="session")
def nats_server(servers: Servers) -> NatsServer:
    """The session's nats-server; a test that breaks it starts it again."""
    return servers.nats


@pytest.fixture(scope="session")
def postgres_server(servers: Servers) -> Postgres:
    """The session's Postgres; a test that breaks it starts it again."""
    return servers.postgres


@pytest.fixture
async def nats_url(nats_server: NatsServer, open_folder: Path) -> AsyncIterator[str]:
    """The URL of a NATS without streams; those a test makes are deleted after it."""
    yield nats_server.url
    client = await nats.connect(nats_server.url)
    try:
        jetstream = client.jetstream()
        for stream in await jetstream.streams_info():
            assert stream.config.name is not None
            await jetstream.delete_stream(stream.config.name)
        await _until_gone(open_folder)
    finally:
        await client.close()


async def _until_gone(open_folder: Path) -> None:
    """Wait for what was deleted: the server renames its folder, removes it later, and refuses a new one meanwhile."""
    with anyio.fail_after(30):
        while await anyio.to_thread.run_sync(lambda: [*open_folder.glob("data/nats/jetstream/*/streams/.*")]):
            await anyio.lowlevel.checkpoint()


@pytest.fixture(scope="session")
async def migrated_template(postgres_server: Postgres) -> str:
    """A migrated database to copy; nobody stays connected to it."""
    await _execute(postgres_server, "CREATE DATABASE migrated")
    await (await Store.open(postgres_server.url_of("migrated"))).close()
    return "migrated"


@pytest.fixture
async def database(postgres_server: Postgres, migrated_template: str) -> AsyncIterator[str]:
    """The URL of a migrated database, for this test alone."""
    name = f"test_{next(_numbers)}"
    await _execute(postgres_server, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    yield postgres_server.url_of(name)
    await _execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def empty_database(postgres_server: Postgres) -> AsyncIterator[str]:
    """The URL of a database without tables, for this test alone."""
    name = f"test_{next(_numbers)}"
    await _execute(postgres_server, f"CREATE DATABASE {name}")
    yield postgres_server.url_of(name)
    await _execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    """A store on a database of its own."""
    async with await Store.open(database) as opened:
        yield opened


@pytest.fixture
async def connection(nats_url: str) -> AsyncIterator[Connection]:
    """A connection to a NATS without streams."""
    async with await Connection.open(nats_url, "test") as opened:
        yield opened


PATIENCE_S = 20.0
"""How long an append may take: each of a hundred at once is synced to a disk that others use."""


class History:
    """Writes envelopes and steps by hand: each shard's chain is whole unless a test breaks it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.written: dict[int, bytes] = {}
        """Stream sequence to bytes."""
        self.previous: dict[int, str] = {}
        self.entities = itertools.count(1)
        self.commits = itertools.count(1)

    def fact(self, **changes: Any) -> Fact:
        """Make the first event of a new entity."""
        entity = f"run{next(self.entities)}"
        plain = Fact(
            tenant="acme",
            thread=f"thread{len(entity) % 3}",
            kind="run",
            entity=entity,
            version=1,
            type="test.happened",
            cause="c1",
            payload=msgspec.Raw(b'{"type":"test.happened","text":"\xc3\xa4"}'),
        )
        return msgspec.structs.replace(plain, **changes)

    def envelope(self, shard: int, facts: Iterable[Fact], **changes: Any) -> bytes:
        """Make the shard's next envelope."""
        commit = f"commit{next(self.commits)}"
        previous = self.previous.get(shard, GENESIS)
        whole = Envelope(FORMAT, shard, 1, "writer", commit, "code", 1_700_000_000_000_000, previous, tuple(facts))
        data = codec.encode(msgspec.structs.replace(whole, **changes))
        self.previous[shard] = codec.digest(data)
        return data

    async def publish(self, subject: str, data: bytes) -> int:
        """Publish and return the stream sequence."""
        answer = msgspec.json.decode((await self.connection.request(subject, data, PATIENCE_S)).data)
        assert "seq" in answer, answer
        return int(answer["seq"])

    async def commit(self, shard: int = 0, facts: int | Iterable[Fact] = 1, **changes: Any) -> int:
        """Append an envelope; return its sequence."""
        if isinstance(facts, int):
            facts = [self.fact() for _ in range(facts)]
        data = self.envelope(shard, facts, **changes)
        sequence = await self.publish(f"ev.{shard}", data)
        self.written[sequence] = data
        return sequence

    async def fill(self, envelopes: int, facts: int = 1) -> None:
        """Append many envelopes, over four shards."""
        for start in range(0, envelopes, 100):
            await asyncio.gather(*(self.commit(n % 4, facts) for n in range(start, min(start + 100, envelopes))))

    async def step(self, n: int, requests: Iterable[str], epoch: str = "epoch1", engine: str = "tiny") -> None:
        """Publish a step's plan and its result."""
        slices = tuple(Slice(request, n, 1) for request in requests)
        plan = StepPlan(n=n, epoch=epoch, time=n, full=False, arrivals=(), slices=slices, gone=())
        result = StepResult(n=n, epoch=epoch, worker="w1", tokens=tuple((part.request, 7) for part in slices))
        await self.publish(f"step.{engine}.plan", codec.encode(plan))
        await self.publish(f"step.{engine}.result", codec.encode(result))


@pytest.fixture
async def history(connection: Connection) -> History:
    """Empty streams, and a hand to write on them."""
    await ensure_streams(connection, shards=4)
    return History(connection)


async def _execute(server: Postgres, sql: str) -> None:
    client = await asyncpg.connect(server.url_of("postgres"))
    try:
        await client.execute(sql)
    finally:
        await client.close()
