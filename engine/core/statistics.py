"""How a scheduler does, in numbers."""

from __future__ import annotations

import msgspec


class Statistics(msgspec.Struct, frozen=True):
    """How the scheduler does."""

    running: int
    waiting: int
    finished: int
    """Finished requests still remembered."""
    idle_blocks: int
    cached_blocks: int
    steps: int
    in_flight: int
    prompt_tokens: int
    """Prompt tokens of all requests admitted for the first time."""
    cached_tokens: int
    """Those of them found in the prefix cache."""
    preemptions: int
    parked: int = 0
    """Requests whose grammars are not compiled yet."""
    blocks: int = 0
    """KV blocks there are, idle or not."""
