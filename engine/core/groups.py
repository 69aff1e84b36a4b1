"""Which layers of a model share a KV block, where some look back no further than a window and others see all.

A block has room for some tokens in the layers of one group. Every group has as many layers, the last of a kind perhaps
fewer, so that any block serves any group and there is one pool of them; so does vLLM's hybrid KV cache manager.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_MOST: Final = 8
"""Groups: each adds a block id to every row of a request's table, and its own preparations to a step."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The layers of a model, parted into groups."""

    full: int
    """Groups whose layers see all: the first ones."""
    windowed: int
    """Groups whose layers have a window."""
    window: int | None
    """How many positions back a layer with a window sees, itself included; None if no layer has one."""
    size: int
    """Layers that a block has room for."""
    places: tuple[tuple[int, int], ...]
    """Of each layer its group, and which of the layers in its blocks it is."""

    @property
    def count(self) -> int:
        """How many there are: so many blocks a few tokens take."""
        return self.full + self.windowed


def group(windows: Sequence[int | None]) -> Groups:
    """Part layers into groups, given how many positions each sees."""
    full = [layer for layer, window in enumerate(windows) if window is None]
    near = [layer for layer, window in enumerate(windows) if window is not None]
    size = _size(len(full), len(near))
    places: dict[int, tuple[int, int]] = {}
    first = _needed(len(full), size)
    for begin, layers in ((0, full), (first, near)):
        places.update({layer: (begin + at // size, at % size) for at, layer in enumerate(layers)})
    window = max((window for window in windows if window is not None), default=None)
    in_order = tuple([places[layer] for layer in range(len(windows))])
    return Groups(first, _needed(len(near), size), window, size, in_order)


def _size(full: int, near: int) -> int:
    """Choose how many layers a group has: few groups, and little room in blocks that no layer uses.

    What layers that see all would waste counts first: they hold nearly all of the memory of a long text.
    """

    def cost(size: int) -> tuple[bool, int, int, int]:
        groups = _needed(full, size) + _needed(near, size)
        return groups > _MOST, -full % size, -near % size, groups

    return min(range(1, max(full, near) + 1), key=cost)


def _needed(layers: int, size: int) -> int:
    return -(-layers // size)
