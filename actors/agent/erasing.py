"""The end of what a thread held, as an effect: its key is destroyed, and what was made of its texts is deleted."""

from __future__ import annotations

from typing import Protocol

from actors.runtime.machine import Effect


class EraseThread(Effect, frozen=True, kw_only=True):
    """Destroy the thread's key, and delete what was made of what it held."""


class Eraser(Protocol):
    """Erases threads."""

    async def erase(self, tenant: str, thread: str) -> int:
        """Do it, as often as it is asked for; return how many of its events are in the log unsealed."""


def erase_thread(thread: str) -> EraseThread:
    """Make the effect of a thread's end."""
    return EraseThread(f"{thread}-e", "thread", thread, "")
