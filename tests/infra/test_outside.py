"""Servers that somebody else runs: what each check says when a server will not do, and that passwords stay hidden."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.address import masked, nats_login, nats_servers
from bus.connection import Connection
from bus.errors import Refused, Unavailable
from bus.fitness import Unfit, check_nats
from bus.streams import EV
from infra.configuration import ConfigurationWrong, configure, shown
from infra.errors import ServerUnfit
from infra.services.data_directory import DataDirectory, Runtime, made_shards
from infra.services.outside import Outside, check_outside, prepare_streams, remember_outside, remembered_outside
from tests.system import foreign

pytestmark = pytest.mark.servers
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(open_folder: Path) -> Path:
    """A folder for this module's servers."""
    folder = open_folder / "outside"
    folder.mkdir(mode=0o755)
    return folder


@pytest.fixture(scope="module")
def database(place: Path) -> Iterator[foreign.Database]:
    with foreign.postgres(place) as running:
        yield running


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[foreign.Node]:
    limited = 'user: "limited", password: "p", permissions: { publish: ["_INBOX.>"] }'
    with foreign.nats_servers(place, more=f"{{ {limited} }}") as running:
        yield running.nodes[0]


def refused(nats: str = "", postgres: str = "") -> str:
    """Check and return the one line that says why not."""
    with pytest.raises(ServerUnfit) as unfit:
        asyncio.run(check_outside(Outside(nats, postgres)))
    line = str(unfit.value)
    assert "\n" not in line
    assert foreign.PASSWORD not in line
    assert line.startswith(f"setting {'nats' if nats else 'postgres'!r} (")
    return line


def test_servers_that_will_do(server: foreign.Node, database: foreign.Database) -> None:
    asyncio.run(check_outside(Outside(server.url, database.url())))


def test_nats_with_a_wrong_password(server: foreign.Node) -> None:
    line = refused(server.url.replace(foreign.PASSWORD, "wrong-4242"))
    assert "refuses the user, password or token" in line
    assert "wrong-4242" not in line
    assert "ostinato:***@" in line


def test_nats_without_a_password(server: foreign.Node) -> None:
    assert "refuses the user, password or token" in refused(server.bare)


def test_nats_that_is_not_there() -> None:
    line = refused(f"nats://{foreign.USER}:{foreign.PASSWORD}@127.0.0.1:{foreign.free_port()}")
    assert "cannot be reached" in line
    assert "start it" in line


def test_nats_whose_user_may_not_do_enough(server: foreign.Node) -> None:
    line = refused(server.bare.replace("//", "//limited:p@"))
    assert "may not do what is needed" in line


def test_nats_without_jetstream(place: Path) -> None:
    folder = place / "plain"
    folder.mkdir()
    with foreign.nats_servers(folder, jetstream=False) as running:
        line = refused(running.url)
    assert "JetStream is not enabled" in line
    assert "jetstream {}" in line


def test_nats_that_is_too_old(server: foreign.Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.fitness.OLDEST_SERVER", (99, 1))
    assert "is too old: upgrade it to 99.1 or newer" in refused(server.url)


@pytest.mark.parametrize(
    "url", ["localhost:4222", f"http://u:{foreign.PASSWORD}@h", "nats://", f"u:{foreign.PASSWORD}@h"]
)
def test_what_is_no_address_of_nats(url: str) -> None:
    assert "give a URL like nats://" in refused(url)


@pytest.mark.parametrize("url", ["localhost:5432", f"mysql://u:{foreign.PASSWORD}@h", f"u:{foreign.PASSWORD}@h"])
def test_what_is_no_address_of_postgres(url: str) -> None:
    assert "give a URL like postgresql://" in refused(postgres=url)


@pytest.mark.parametrize("kind", ["nats", "postgres"])
def test_a_password_whose_special_characters_were_not_written_as_they_must(kind: str) -> None:
    scheme = {"nats": "nats", "postgres": "postgresql"}[kind]
    line = refused(**{kind: f"{scheme}://u:ab/{foreign.PASSWORD}@127.0.0.1:1/base"})
    assert "%XX" in line or "cannot be reached" in line


def test_postgres_with_a_wrong_password(database: foreign.Database) -> None:
    line = refused(postgres=database.url(password="wrong-4242"))
    assert "does not let us in" in line
    assert "mend the user or password" in line
    assert "wrong-4242" not in line


def test_postgres_that_is_not_there() -> None:
    url = f"postgresql://u:{foreign.PASSWORD}@127.0.0.1:{foreign.free_port()}/x"
    assert "cannot be reached" in refused(postgres=url)


def test_a_database_that_is_not_there(database: foreign.Database) -> None:
    assert "CREATE DATABASE" in refused(postgres=database.url("nowhere"))


def test_a_database_that_is_not_utf8(database: foreign.Database) -> None:
    database.run(
        f"CREATE DATABASE old OWNER {foreign.USER} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0", "postgres"
    )
    line = refused(postgres=database.url("old"))
    assert "encoding LATIN1, not UTF8" in line
    assert "ENCODING 'UTF8'" in line


def test_a_user_who_may_not_create_tables(database: foreign.Database) -> None:
    database.run(f"CREATE ROLE guest LOGIN PASSWORD '{foreign.PASSWORD}'", "postgres")
    line = refused(postgres=database.url(user="guest"))
    assert "user 'guest' may not create tables in database 'ledger'" in line
    assert 'GRANT CREATE ON SCHEMA public TO "guest"' in line


def test_postgres_that_is_too_old(database: foreign.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.fitness.OLDEST_POSTGRES", 99)
    assert "is too old: upgrade it to 99 or newer" in refused(postgres=database.url())


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nats://user:secret@host:4222", "nats://user:***@host:4222"),
        ("nats://token@host", "nats://***@host"),
        ("nats://u:a@h1:1,nats://u:b@h2:2", "nats://u:***@h1:1,nats://u:***@h2:2"),
        ("nats://u:se/cr@et@host", "nats://u:***@host"),
        ("postgresql://user@host/base", "postgresql://user@host/base"),
        ("postgresql://user:secret@h1,h2/base", "postgresql://user:***@h1,h2/base"),
        ("postgresql://host/base?user=u&password=secret&x=1", "postgresql://host/base?user=u&password=***&x=1"),
        ("user:secret@host", "***@host"),
        ("nats://host:4222", "nats://host:4222"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, told: str) -> None:
    assert masked(url) == told


def test_several_servers_share_a_login_whose_special_characters_are_decoded() -> None:
    url = "nats://u:p%40ss@h1:1, nats://u:p%40ss@h2:2"
    assert nats_servers(url) == ["nats://u:p%40ss@h1:1", "nats://u:p%40ss@h2:2"]
    assert nats_login(url) == {"user": "u", "password": "p@ss"}
    assert nats_login("nats://t0ken@h") == {"token": "t0ken"}
    assert nats_login("nats://h") == {}


@pytest.mark.anyio
async def test_a_connection_that_fails_does_not_tell_the_password() -> None:
    with pytest.raises(Unavailable) as gone:
        await Connection.open(f"nats://u:{foreign.PASSWORD}@127.0.0.1:{foreign.free_port()}", "test", 0.5)
    assert foreign.PASSWORD not in str(gone.value)
    with pytest.raises(Unfit):
        await check_nats("nats://127.0.0.1:1")


def test_a_bad_value_of_an_address_is_told_without_its_password(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('nats = ["nats://u:s3cret@h"]\n', encoding="utf-8")
    with pytest.raises(ConfigurationWrong) as wrong:
        configure({}, str(file), {})
    assert "s3cret" not in str(wrong.value)
    assert "'nats' cannot be" in str(wrong.value)
    assert shown("postgres", "postgresql://u:s3cret@h/b") == "postgresql://u:***@h/b"


def test_addresses_come_from_the_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('nats = "nats://h"\nreplicas = 3\n', encoding="utf-8")
    settings = configure({}, str(file), {"OSTINATO_POSTGRES": "postgresql://h/b"}).settings
    assert (settings.nats, settings.postgres, settings.replicas) == ("nats://h", "postgresql://h/b", 3)


def test_files_that_hold_passwords_are_for_their_owner_alone(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "data", shards=2)
    directory.open()
    try:
        directory.write_runtime(Runtime(pid=1, urls={"nats": "nats://u:p@h"}))
        remember_outside(directory.path, Outside("nats://u:p@h", "", 3))
        for name in ("runtime.json", "servers.json"):
            assert stat.S_IMODE((directory.path / name).stat().st_mode) == 0o600
        assert remembered_outside(directory.path) == Outside("nats://u:p@h", "", 3)
        remember_outside(directory.path, Outside())
        assert remembered_outside(directory.path) == Outside()
    finally:
        directory.close()
    assert made_shards(directory.path) == 2


@pytest.mark.parametrize("form", [["--json"], ["--origin"], []])
def test_the_settings_are_shown_without_passwords(form: list[str], tmp_path: Path) -> None:
    given = {"OSTINATO_NATS": "nats://u:s3cret@h", "OSTINATO_POSTGRES": "postgresql://u:s3cret@h/b"}
    command = [sys.executable, "-m", "infra.cli.main", "config", "show", *form]
    environment = {**os.environ, **given, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment, timeout=30
    )
    assert "s3cret" not in done.stdout + done.stderr
    assert "nats://u:***@h" in done.stdout
    assert "postgresql://u:***@h/b" in done.stdout


async def silent_at_first(connection: Connection, answers: list[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have JetStream answer so before it answers as it does."""
    asks = connection.api

    async def api(verb: str, body: dict[str, Any] | None = None, timeout_s: float = 5.0) -> dict[str, Any]:
        if answers:
            raise answers.pop(0)
        return await asks(verb, body, timeout_s)

    monkeypatch.setattr(connection, "api", api)


@pytest.mark.anyio
async def test_a_cluster_that_chooses_its_leader_is_waited_for(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [
        TimeoutError("no answer"),
        Refused(10008, "temporarily unavailable"),
        Unavailable("gone"),
    ]
    await silent_at_first(connection, answers, monkeypatch)
    assert await prepare_streams(connection, 1, Outside()) == 1
    assert not answers
    assert (await connection.api(f"STREAM.INFO.{EV}"))["config"]["num_replicas"] == 1


@pytest.mark.anyio
async def test_a_jetstream_that_stays_silent_is_told(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    await silent_at_first(connection, [TimeoutError("no answer") for _ in range(9)], monkeypatch)
    with pytest.raises(Unavailable, match=r"JetStream does not answer \(no answer\): see that its disk"):
        await prepare_streams(connection, 1, Outside(), patience_s=0)
    with pytest.raises(ServerUnfit, match=r"'nats' \(nats://a:\*\*\*@h\): JetStream does not answer .*: see that most"):
        await prepare_streams(connection, 1, Outside("nats://a:b@h"), patience_s=0)
    await silent_at_first(connection, [Refused(10047, "insufficient storage")], monkeypatch)
    with pytest.raises(Refused, match="insufficient storage"):
        await prepare_streams(connection, 1, Outside())
