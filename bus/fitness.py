"""Whether a server that somebody else runs can carry the log: asked before anything is made on it."""

from __future__ import annotations

import asyncio
import re
import time

import asyncpg
from nats.aio.client import Client
from nats.errors import AuthorizationError, NoServersError
from nats.errors import Error as NatsError

from bus.address import nats_login, nats_servers
from bus.connection import Connection
from bus.errors import BusError, Refused, Unavailable
from bus.streams import OLDEST_SERVER

OLDEST_POSTGRES = 15
"""Older ones are not tried; Postgres 14 ends in 2026."""
_CONNECT_S = 5.0
_LEADER_S = 10.0
"""How long a cluster that has just started may take to choose who speaks for it."""
_AGAIN_S = 0.2
_HEARD = ("live.>", "gen.>", "step.>", "rpc.>")
_JETSTREAM_OFF = 10039
_NO_LEADER = 10008


class Unfit(BusError):
    """A server that we should use lacks something we need."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(f"{problem}: {mend}")
        self.problem = problem
        self.mend = mend


async def check_nats(url: str) -> None:
    """See that NATS lets us in, is new enough, and has JetStream for us.

    Raises:
        Unfit: with what is wrong and how to mend it.
    """
    if not all(re.match(r"(nats|tls)://[^/]", server) for server in nats_servers(url)):
        raise Unfit("this is no address of NATS", "give a URL like nats://user:password@host:4222")
    try:
        login = nats_login(url)
    except ValueError as error:
        # its text may hold a part of the password
        raise Unfit("this is no URL", "write special characters of the password as %XX") from error
    heard: list[Exception] = []
    client = await _enter(nats_servers(url), login, heard)
    async with Connection(client) as connection:
        found = connection.server_version
        if tuple(int(part) for part in found.split(".")[:2]) < OLDEST_SERVER:
            raise Unfit(
                f"nats-server {found} is too old", f"upgrade it to {'.'.join(map(str, OLDEST_SERVER))} or newer"
            )
        await _check_jetstream(connection, heard)
        for subject in _HEARD:
            await client.subscribe(subject)
        await client.flush(2)
        _check_permissions(heard)


async def _enter(servers: list[str], login: dict[str, str], heard: list[Exception]) -> Client:
    """Connect; `heard` takes what the client is told in passing, now and later."""
    client = Client()

    async def hear(error: Exception) -> None:
        heard.append(error)

    try:
        async with asyncio.timeout(_CONNECT_S):
            await client.connect(
                servers,
                **login,  # type: ignore[arg-type]  # user, password and token are strings
                name="check",
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=_AGAIN_S,  # type: ignore[arg-type]  # seconds; fractions work
                connect_timeout=2,
                error_cb=hear,
            )
    except (NatsError, OSError, TimeoutError) as error:
        await client.close()
        told = [*heard, error]
        if any(isinstance(one, AuthorizationError) or "uthorization" in str(one) for one in told):
            raise Unfit(
                "NATS refuses the user, password or token", "mend them in the URL (special characters as %XX)"
            ) from error
        last = next((one for one in reversed(told) if not isinstance(one, NoServersError)), error)
        problem = str(last) or "no answer"
        raise Unfit(f"NATS cannot be reached ({problem})", "start it, or mend the address") from error
    return client


async def _check_jetstream(connection: Connection, heard: list[Exception]) -> None:
    end = time.monotonic() + _LEADER_S
    while True:
        try:
            await connection.api("INFO", timeout_s=1)
        except Unavailable as error:
            raise _off() from error
        except Refused as refusal:
            if refusal.code == _JETSTREAM_OFF:
                raise _off() from refusal
            if refusal.code != _NO_LEADER or time.monotonic() > end:
                raise Unfit(str(refusal), "see to JetStream on the server") from refusal
        except TimeoutError as error:
            _check_permissions(heard)
            if time.monotonic() > end:
                problem = f"JetStream has not answered for {_LEADER_S:.0f} s"
                raise Unfit(problem, "start more than half of the cluster's servers, or allow $JS.API.>") from error
        else:
            return
        await asyncio.sleep(_AGAIN_S)


def _off() -> Unfit:
    return Unfit(
        "JetStream is not enabled for this account", "put `jetstream {}` into the server's (or account's) file"
    )


def _check_permissions(heard: list[Exception]) -> None:
    refused = next((str(error) for error in heard if "ermissions" in str(error)), None)
    if refused is not None:
        raise Unfit(f"the NATS user may not do what is needed ({refused})", "allow it to publish and subscribe to all")


async def check_postgres(url: str) -> None:
    """See that Postgres lets us in, is new enough, speaks UTF8, and lets us make tables.

    Raises:
        Unfit: with what is wrong and how to mend it.
    """
    if not re.match(r"postgres(ql)?://.", url):
        raise Unfit("this is no address of Postgres", "give a URL like postgresql://user:password@host:5432/database")
    connection = await _connect(url)
    try:
        row = await connection.fetchrow(
            "SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS number,"
            " current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS standby, current_user AS account,"
            " current_database() AS base, current_schema() AS schema,"
            " has_schema_privilege(current_schema(), 'CREATE') AS may"
        )
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unfit(f"Postgres did not answer ({error})", "look at its log") from error
    finally:
        await connection.close(timeout=2)
    if row["number"] < OLDEST_POSTGRES * 10_000:
        raise Unfit(f"Postgres {row['version']} is too old", f"upgrade it to {OLDEST_POSTGRES} or newer")
    base, account = row["base"], row["account"]
    if row["encoding"] != "UTF8":
        mend = "use one made with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        raise Unfit(f"database {base!r} has encoding {row['encoding']}, not UTF8", mend)
    if row["standby"]:
        raise Unfit("this Postgres is a standby, which only reads", "give the address of the primary")
    if not row["may"]:
        grant = f'GRANT CREATE ON SCHEMA {row["schema"] or "public"} TO "{account}"'
        raise Unfit(f"user {account!r} may not create tables in database {base!r}", f"run {grant} there")


async def _connect(url: str) -> asyncpg.Connection[asyncpg.Record]:
    try:
        return await asyncpg.connect(url, timeout=_CONNECT_S, command_timeout=_CONNECT_S)
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise Unfit(f"Postgres does not let us in ({error})", "mend the user or password in the URL") from error
    except asyncpg.InvalidCatalogNameError as error:
        mend = "make it with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        raise Unfit(f"Postgres has no such database ({error})", mend) from error
    except (OSError, TimeoutError) as error:
        problem = str(error) or "no answer"
        raise Unfit(f"Postgres cannot be reached ({problem})", "start it, or mend the address") from error
    except asyncpg.PostgresError as error:
        raise Unfit(f"Postgres does not let us in ({error})", "see to it on the server") from error
    except (asyncpg.InterfaceError, ValueError) as error:
        # its text may hold a part of the password
        raise Unfit("this is no URL", "write special characters of the password as %XX") from error
