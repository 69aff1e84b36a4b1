"""Servers that are not Ostinato's, as somebody else would run them: a NATS cluster and a Postgres, with passwords."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from nats.aio.client import Client
from nats.errors import Error as NatsError

from infra.services.nats_server import find_nats_server
from infra.services.postgres import find_postgres
from infra.services.process import free_port, until
from infra.services.unprivileged import Account, Placement, make_folder, reachable_program, server_account

USER = "ostinato"
PASSWORD = "correct-horse-4711"
START_S = 60.0

_NODE = """\
listen: "127.0.0.1:{port}"
server_name: node{number}
max_payload: 8MB
{jetstream}
authorization {{ users: [ {{ user: "{user}", password: "{password}" }}, {more} ] }}
"""
_CLUSTER = """\
cluster {{ name: foreign, listen: "127.0.0.1:{route}", routes: [ {routes} ] }}
"""


@dataclass
class Node:
    """One nats-server."""

    name: str
    port: int
    argv: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv, stdout=log, stderr=log)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=10)

    @property
    def url(self) -> str:
        return f"nats://{USER}:{PASSWORD}@127.0.0.1:{self.port}"

    @property
    def bare(self) -> str:
        return f"nats://127.0.0.1:{self.port}"


@dataclass
class Nodes:
    """Some nats-servers, of one cluster if there are several."""

    nodes: list[Node] = field(default_factory=list)

    @property
    def url(self) -> str:
        return ",".join(node.url for node in self.nodes)

    def named(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)


@contextmanager
def nats_servers(folder: Path, count: int = 1, *, jetstream: bool = True, more: str = "") -> Iterator[Nodes]:
    """Run nats-servers with a user and a password until the block ends."""
    routes = [free_port() for _ in range(count)]
    binary = str(find_nats_server())
    made = Nodes()
    for number in range(count):
        config, store = folder / f"node{number}.conf", folder / f"node{number}"
        port = free_port()
        text = _NODE.format(
            port=port, number=number, user=USER, password=PASSWORD, more=more,
            jetstream=f'jetstream {{ store_dir: "{store}" }}' if jetstream else "",
        )  # fmt: skip
        if count > 1:
            named = ", ".join(f'"nats://127.0.0.1:{route}"' for route in routes)
            text += _CLUSTER.format(route=routes[number], routes=named)
        config.write_text(text, encoding="utf-8")
        made.nodes.append(Node(f"node{number}", port, [binary, "-c", str(config)], folder / f"node{number}.log"))
    try:
        for node in made.nodes:
            node.start()
        asyncio.run(_answers(made, jetstream))
        yield made
    finally:
        for node in made.nodes:
            node.kill()


async def _answers(nodes: Nodes, jetstream: bool) -> None:
    """Wait until every server lets clients in, and a cluster has a leader."""
    async with asyncio.timeout(START_S):
        for node in nodes.nodes:
            async for _ in until(START_S):
                if await _answered(node, jetstream):
                    break


async def _answered(node: Node, jetstream: bool) -> bool:
    async def ignore(_: Exception) -> None:
        pass

    client = Client()
    try:
        await client.connect(node.url, allow_reconnect=False, connect_timeout=1, error_cb=ignore)
        if jetstream:
            await client.jetstream(timeout=1).account_info()
    except (OSError, NatsError, TimeoutError):
        return False
    finally:
        await client.close()
    return True


@dataclass
class Database:
    """A Postgres that asks for passwords."""

    port: int
    binaries: Path
    account: Account | None

    def url(self, base: str = "ledger", user: str = USER, password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{base}"

    def run(self, sql: str, base: str = "ledger") -> None:
        """Run SQL as the superuser."""

        async def execute() -> None:

            connection = await asyncpg.connect(self.url(base, "boss"), timeout=10)
            try:
                await connection.execute(sql)
            finally:
                await connection.close(timeout=5)

        asyncio.run(execute())


@contextmanager
def postgres(folder: Path) -> Iterator[Database]:
    """Run an ordinary Postgres with the database `ledger` of user `ostinato` until the block ends."""
    account = server_account()
    placement = Placement(account, folder, folder / "system")
    found = find_postgres() / "postgres"
    install = found.parent.parent
    parts = [(install, f"{install.parent.name}/{install.name}")]
    libraries = install.parent.with_name(install.parent.name + ".libs")
    if libraries.is_dir():
        parts.append((libraries, libraries.name))
    binaries = reachable_program(found, placement, parts).parent
    data = make_folder(folder / "pgdata", account)
    secret = folder / "secret"
    secret.write_text(PASSWORD, encoding="utf-8")
    secret.chmod(0o644)
    as_whom = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
    plain = {"env": {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}, "cwd": "/", "timeout": 120}
    initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "boss", "-A", "scram-sha-256", f"--pwfile={secret}"]
    subprocess.run(
        [*initdb, "-E", "UTF8", "--locale=C", "--no-sync"], check=True, capture_output=True, **plain, **as_whom
    )
    port = free_port()
    control = [str(binaries / "pg_ctl"), "-D", str(data), "-w", "-t", str(int(START_S))]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
    log = data / "server.log"
    subprocess.run(
        [*control, "-l", str(log), "-o", options, "start"], check=True, stdout=subprocess.DEVNULL, **plain, **as_whom
    )
    try:
        database = Database(port, binaries, account)
        database.run(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'", "postgres")
        database.run(f"CREATE DATABASE ledger OWNER {USER}", "postgres")
        yield database
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, **plain, **as_whom)


def command_lines(pids: list[int]) -> str:
    """Give how processes were called, as `ps` would."""
    found = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ") for pid in pids]
    return b"\n".join(found).decode(errors="replace")
