"""The workers that computed recorded steps, and what they said that they compute with."""

from __future__ import annotations

from bus.steps import worker_of
from bus.store import Store
from schemas.steps import WorkerBegan


class Workers:
    """Those that computed the steps that are shown."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str], WorkerBegan | None] = {}
        self.fresh = ""
        """One that was not named yet."""

    async def profile(self, engine: str, worker: str) -> str:
        """Say with what it computes; empty if no record says so."""
        key = (engine, worker)
        if key not in self._known:
            self._known[key], self.fresh = await worker_of(self._store, engine, worker), worker
        known = self._known[key]
        return "" if known is None else known.profile

    def introduce(self) -> str:
        """Name the one that was not named yet, and what it computes with."""
        fresh, self.fresh = self.fresh, ""
        known = next((one for one in self._known.values() if one is not None and one.worker == fresh), None)
        if known is None:
            return f"worker {fresh}: no record says what it computes with"
        parts = ", ".join(f"{name} {value}" for name, value in known.parts.items())
        return f"worker {fresh}: kernel profile {known.profile} ({parts}), model {known.checkpoint[:8]}"
