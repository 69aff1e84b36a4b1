"""Finds the program of a request that does not say whose turn it is.

A request whose prompt continues the tokens of one that ended, answer included, is the next turn of the same program.
It is seen in whole KV blocks, by the keys of the prefix cache, so that nobody is taken for another tenant's. What a
client tells otherwise the next time, as where a template leaves an answer's thoughts out, continues nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

_MOST: Final = 4096
"""Ends that are remembered, the latest."""


class Tips:
    """Where programs' last turns ended."""

    def __init__(self) -> None:
        self._tips: OrderedDict[bytes, str] = OrderedDict()

    def leave(self, keys: Sequence[bytes], program: str) -> None:
        """A turn ended; the first of the keys is of no block."""
        if len(keys) > 1:
            self._tips[keys[-1]] = program
            if len(self._tips) > _MOST:
                self._tips.popitem(last=False)

    def find(self, keys: Sequence[bytes]) -> str | None:
        """Name the program that a prompt continues. It has left that end: who else continues it is another one."""
        for at in range(len(keys) - 1, 0, -1):
            found = self._tips.pop(keys[at], None)
            if found is not None:
                return found
        return None
