"""Which key seals a thread or schedule: its own from its first event on, taken from those that were made ahead.

Bare generations are too many for keys of their own, and nobody asks for one to be erased: those of a tenant share some.
"""

from __future__ import annotations

from actors.errors import NotNow
from actors.runtime.cells import Cell
from bus.errors import Unavailable
from bus.keyring import Keyring

_SEALED = frozenset({"agent", "batch", "generation", "push", "schedule"})
_OWN = frozenset({"agent", "push", "schedule"})
"""Those that have a key each."""


async def sealing(cell: Cell, keys: Keyring | None) -> None:
    """See that a thread or generation has a key, where they are sealed; one that is sealed stays so.

    Raises:
        NotNow: there is none, and none can be made.
    """
    if keys is None or cell.family not in _SEALED:
        return
    try:
        if cell.seal is not None:
            await keys.load([cell.seal])
        elif keys.seals:
            cell.seal = await (keys.fresh() if cell.family in _OWN else keys.shared.of(cell.tenant))
    except (Unavailable, TimeoutError) as error:
        raise NotNow(f"the key of its thread cannot be had: {error}") from error
    if cell.seal is not None:
        cell.sealed_with(cell.seal, keys)
