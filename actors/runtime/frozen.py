"""A folded thread as bytes, for snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from actors.runtime.machine import Machine
from schemas import codec


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
