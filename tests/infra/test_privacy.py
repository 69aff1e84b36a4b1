"""The master key: made where it may be, asked for where it must be, and told to nobody who does not need it."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from bus.connection import Connection
from bus.store import Store
from infra.configuration import configure, shown
from infra.errors import MasterKeyMissing, MasterKeyWrong, RotationUnfit
from infra.launcher import table
from infra.privacy import NEXT, known_master, made_master, new_master, opened_record, opened_store, stack_master
from infra.rotating import filed_master, rotate_to
from infra.settings import PrivacySettings, Settings, encode_place


def settings(folder: Path, **privacy: str) -> Settings:
    return Settings(data=str(folder), privacy=PrivacySettings(**privacy))  # type: ignore[arg-type]


def test_embedded_servers_get_a_key_of_their_own_that_only_its_owner_reads(tmp_path: Path) -> None:
    assert known_master(tmp_path) == b""
    made = made_master(settings(tmp_path))
    assert len(made) == 64
    assert made_master(settings(tmp_path)) == known_master(tmp_path) == made
    assert stat.S_IMODE((tmp_path / "master.key").stat().st_mode) == 0o600
    # what was sealed stays readable when no more is to be
    assert made_master(settings(tmp_path, sealed="off")) == made


def test_no_key_is_made_where_others_would_not_have_it(tmp_path: Path) -> None:
    elsewhere = replace(settings(tmp_path), postgres="postgresql://db/ostinato")
    assert made_master(elsewhere) == b""
    with pytest.raises(MasterKeyMissing, match="OSTINATO_PRIVACY_MASTER_KEY"):
        made_master(replace(elsewhere, privacy=PrivacySettings(sealed="on")))
    given = PrivacySettings(sealed="on", master_key="hard to guess")
    assert made_master(replace(elsewhere, privacy=given)) == b"hard to guess"
    assert not (tmp_path / "master.key").exists()


def test_the_variable_goes_first_and_no_output_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_master(settings(tmp_path))
    monkeypatch.setenv("OSTINATO_PRIVACY_MASTER_KEY", "hard to guess")
    assert known_master(tmp_path) == b"hard to guess"
    value = configure({}, None, {"OSTINATO_PRIVACY_MASTER_KEY": "hard to guess"}).values["privacy.master_key"]
    assert shown("privacy.master_key", value.value) == "***"
    assert shown("privacy.master_key", "") == ""


def test_only_the_processes_that_open_what_is_sealed_are_given_the_key(tmp_path: Path) -> None:
    class Servers:
        nats_url, postgres_url = "nats://n", "postgresql://p"

    places = table(settings(tmp_path, master_key="hard to guess"), Servers(), b"hard to guess")  # type: ignore[arg-type]
    told = {place.slot for place in places if "hard to guess" in encode_place(place)}
    assert told == {"agents-0"}


@pytest.mark.anyio
@pytest.mark.servers
async def test_a_stack_does_not_start_with_another_key_than_was_used(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    async with await opened_store(database, b"the first one") as store:
        assert store.keys is not None
        assert stack_master(store) == b"the first one"
        await store.keys.fresh()
    with pytest.raises(MasterKeyWrong, match="the one here is"):
        await opened_record(database, connection, settings(tmp_path, master_key="the second one"))
    with pytest.raises(MasterKeyWrong, match="there is none here"):
        await opened_record(database, connection, settings(tmp_path, sealed="off"))
    same = await opened_record(database, connection, settings(tmp_path, master_key="the first one"))
    assert isinstance(same, Store)
    await same.close()


@pytest.mark.anyio
@pytest.mark.servers
@pytest.mark.parametrize("wrapped", ["before", "after"])
async def test_a_rotation_that_was_broken_off_is_finished_where_every_key_was_wrapped_anew(
    database: str, connection: Connection, tmp_path: Path, wrapped: str
) -> None:
    old, new = await asyncio.to_thread(made_master, settings(tmp_path)), new_master()
    await asyncio.to_thread((tmp_path / NEXT).write_bytes, new)
    async with await opened_store(database, new if wrapped == "after" else old) as store:
        assert store.keys is not None
        await store.keys.fresh()
    async with await opened_record(database, connection, settings(tmp_path)) as store:
        assert stack_master(store) == (new if wrapped == "after" else old)
        assert await asyncio.to_thread(known_master, tmp_path) == stack_master(store)
    assert await asyncio.to_thread((tmp_path / NEXT).exists) == (wrapped == "before")


def test_what_is_not_in_the_file_is_not_rotated_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RotationUnfit, match="no master key"):
        filed_master(tmp_path)
    made = made_master(settings(tmp_path))
    assert filed_master(tmp_path) == made
    monkeypatch.setenv("OSTINATO_PRIVACY_MASTER_KEY", "hard to guess")
    with pytest.raises(RotationUnfit, match="--to FILE"):
        filed_master(tmp_path)


@pytest.mark.anyio
async def test_a_master_key_of_ones_own_is_no_word() -> None:
    with pytest.raises(RotationUnfit, match="16 bytes"):
        await rotate_to("nowhere", b"secret")
