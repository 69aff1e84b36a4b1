"""A folded thread as bytes, for snapshots; sealed where its thread is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from actors.runtime.machine import Machine
from bus.keyring import Keyring
from bus.snapshots import ThreadKey
from schemas import codec
from schemas.errors import BadShape


class Frozen(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot holds."""

    versions: tuple[tuple[str, str, int], ...]
    """Of each entity: kind, id, version."""
    state: msgspec.Raw


def frozen(versions: Mapping[tuple[str, str], int], state: Any) -> bytes:
    """Encode a folded thread."""
    numbers = tuple((kind, entity, version) for (kind, entity), version in versions.items())
    return codec.encode(Frozen(numbers, msgspec.Raw(codec.encode(state))))


def thawed(machine: Machine[Any], data: bytes) -> tuple[dict[tuple[str, str], int], Any]:
    """Decode what `frozen` gave: versions and state.

    Raises:
        BadShape: it is another machine's.
    """
    kept: Frozen = codec.decode(data, Frozen)
    versions = {(kind, entity): version for kind, entity, version in kept.versions}
    return versions, codec.decode(bytes(kept.state), machine.shape())


class Hidden(msgspec.Struct, frozen=True, tag="sealed"):
    """What stands in the place of `Frozen`."""

    key: str
    """What seals it."""
    state: str


def hidden(state: bytes, thread: ThreadKey, seal: str | None, keys: Keyring | None) -> bytes:
    """Seal a frozen thread with its thread's key, if it has one."""
    if seal is None or keys is None:
        return state
    return codec.encode(Hidden(seal, keys.seal(seal, state, _about(thread)).decode()))


def sealer(state: bytes) -> str | None:
    """Say which key seals what `hidden` gave; None if none does.

    Raises:
        BadShape: that cannot be read.
    """
    return codec.decode(state, Hidden).key if state[:1] == b"{" else None


def revealed(state: bytes, thread: ThreadKey, keys: Keyring | None) -> bytes:
    """Open what `hidden` gave.

    Raises:
        BadShape: it is not what was sealed, or there are no keys here.
        KeyDestroyed: nobody can any more.
    """
    if state[:1] != b"{":
        return state
    if keys is None:
        raise BadShape(f"the state of thread {thread.thread!r} is sealed, and there are no keys here")
    kept: Hidden = codec.decode(state, Hidden)
    return keys.unseal(kept.key, kept.state.encode(), _about(thread))


def _about(thread: ThreadKey) -> str:
    return "\0".join(thread)
