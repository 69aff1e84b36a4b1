"""The master key: from the settings, or a file that is made in the data directory; and stores that open what is sealed.

Who has it and the database can read what is sealed; who has but one of them cannot. So the file is no part of a backup
of the database, and a backup from before an erasure is of use only together with it.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from actors.runtime.context import SystemChance
from bus.connection import Connection
from bus.keyring import Keyring
from bus.master import Master
from bus.store import Store
from infra.configuration import configure
from infra.errors import MasterKeyMissing, MasterKeyWrong
from infra.services.data_directory import PRIVATE, write_atomically
from infra.settings import Settings

FILE = "master.key"
NEXT = "master.key.next"
"""The one that takes its place, while every key is wrapped anew."""
MASTER_VARIABLE = "OSTINATO_PRIVACY_MASTER_KEY"
_BITS = 256


def made_master(settings: Settings) -> bytes:
    """Return the master key of a stack that starts, made if it may be; empty where there is none. Blocks.

    Raises:
        MasterKeyMissing: threads are to be sealed, and others would not have the key that we would make.
    """
    found = _given(settings.privacy.master_key, Path(settings.data))
    if found or settings.privacy.sealed == "off":
        return found
    if settings.nats or settings.postgres:
        if settings.privacy.sealed == "on":
            raise MasterKeyMissing
        return b""
    made = new_master()
    write_atomically(Path(settings.data) / FILE, made, PRIVATE)
    return made


def new_master() -> bytes:
    """Return a master key that nobody guesses."""
    return f"{SystemChance().bits(_BITS):064x}".encode()


def known_master(data: str | Path) -> bytes:
    """Return the master key of a data directory, as far as it is known here; empty where it is not. Blocks."""
    configured = configure({"data": str(data)}, None, os.environ).settings
    return _given(configured.privacy.master_key, Path(data))


def _given(setting: str, data: Path) -> bytes:
    if setting:
        return setting.encode()
    try:
        return (data / FILE).read_bytes()
    except FileNotFoundError:
        return b""


def next_master(data: Path) -> bytes:
    """Return the master key that is to take the place of the file's; empty where none is. Blocks."""
    try:
        return (data / NEXT).read_bytes()
    except FileNotFoundError:
        return b""


async def opened_store(url: str, master: bytes) -> Store:
    """Open a store that opens what is sealed, where there is a master key.

    Raises:
        Unavailable: Postgres cannot be reached.
        DatabaseUnusable: it does not let us in.
    """
    store = await Store.open(url)

    async def itself() -> Store:
        return store

    if master:
        store.keys = Keyring(itself, master, SystemChance(), seals=False)
    return store


def stack_master(store: Store) -> bytes:
    """Return the master key that a store was opened with; empty where there was none."""
    return b"" if store.keys is None else store.keys.master.secret


async def opened_record(url: str, connection: Connection, settings: Settings) -> Store:
    """Open the record of a stack that starts, and have what is sealed in either copy opened.

    Raises:
        MasterKeyMissing: there is no master key, and there must be.
        MasterKeyWrong: threads were sealed with another one.
        Unavailable: Postgres cannot be reached.
    """
    store = await opened_store(url, await asyncio.to_thread(made_master, settings))
    connection.keys = store.keys
    ours = "" if store.keys is None else store.keys.master.name
    others = await store.rows("SELECT master FROM sealing_key WHERE master <> $1 LIMIT 1", ours)
    if not others:
        return store
    await store.close()
    theirs = others[0]["master"]
    if not await asyncio.to_thread(_rotated, settings, theirs):
        raise MasterKeyWrong(theirs, ours)
    return await opened_record(url, connection, settings)


def _rotated(settings: Settings, theirs: str) -> bool:
    """Finish a rotation that was broken off when every key was wrapped anew; False where there is none. Blocks."""
    data = Path(settings.data)
    coming = next_master(data)
    if settings.privacy.master_key or not coming or Master(coming, SystemChance()).name != theirs:
        return False
    (data / NEXT).replace(data / FILE)
    return True
