"""Rotates the master key: another one takes its place, wherever the stack is broken off meanwhile.

The new key is on the disk before anything is wrapped with it, the keys change in one transaction, and the file changes
after it: whoever comes after a crash finds in Postgres which of the two counts, and goes on from there.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from actors.runtime.context import SystemChance
from bus.master import Master
from bus.rotation import rewrap
from bus.store import Store
from infra.access import resting_log_servers
from infra.errors import RotationUnfit
from infra.privacy import FILE, NEXT, known_master, new_master, next_master
from infra.services.data_directory import PRIVATE, write_atomically

_SHORTEST = 16
"""Bytes of a master key of one's own, at least."""


async def rotate(data: str) -> int:
    """Make a master key and have it take the place of the file in a data directory; return how many keys it wraps now.

    Raises:
        RotationUnfit: there is no key, or the one that counts is in the settings, where we write nothing.
        InfraError: the stack runs, or the servers cannot be started.
        WrongMaster: keys are wrapped with one that is not here.
        Unavailable: Postgres went away.
    """
    path = Path(data)
    async with resting_log_servers(data) as (_, store):
        old = await asyncio.to_thread(filed_master, path)
        new = await asyncio.to_thread(next_master, path)
        if not new:
            new = new_master()
            await asyncio.to_thread(write_atomically, path / NEXT, new, PRIVATE)
        count = await _rewrapped(store, old, new)
        await asyncio.to_thread((path / NEXT).replace, path / FILE)
    return count


async def rotate_to(data: str, new: bytes) -> int:
    """Have a given master key take the place of the one in the settings; return how many keys it wraps now.

    Raises:
        RotationUnfit: it is easily guessed.
        InfraError: the stack runs, or the servers cannot be started.
        WrongMaster: keys are wrapped with neither.
        Unavailable: Postgres went away.
    """
    if len(new) < _SHORTEST:
        raise RotationUnfit(f"a master key has {_SHORTEST} bytes at least, for whoever guesses it reads everything")
    async with resting_log_servers(data) as (_, store):
        old = await asyncio.to_thread(known_master, data)
        return await _rewrapped(store, old or new, new)


def filed_master(data: Path) -> bytes:
    """Return the master key of the file in a data directory. Blocks.

    Raises:
        RotationUnfit: there is none, or another one counts.
    """
    counts = known_master(data)
    if not counts:
        raise RotationUnfit(f"there is no master key in {str(data)!r}: nothing is sealed there that it would open")
    try:
        held = (data / FILE).read_bytes()
    except FileNotFoundError:
        held = b""
    if held != counts:
        raise RotationUnfit("the master key is `privacy.master_key` of the settings: give another with --to FILE")
    return held


async def _rewrapped(store: Store, old: bytes, new: bytes) -> int:
    return await rewrap(store, Master(old, SystemChance()), Master(new, SystemChance()))
