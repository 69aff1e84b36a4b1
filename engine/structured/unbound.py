"""The grammar of an answer that is bound to nothing: what follows thinking that has a budget."""

from __future__ import annotations

from collections.abc import Sequence

from engine.structured.grammar import Bits


class Unbound:
    """Lets everything come, and end anywhere. It is a grammar and stands at every place in it."""

    shortest: tuple[int, ...] | None = None

    def matcher(self) -> Unbound:
        """Return itself: there is nothing to remember."""
        return self

    def mask(self, row: Bits) -> None:
        """Set all bits."""
        row[:] = 255

    def accept(self, token: int) -> bool:
        """Take any token."""
        return True

    def is_accepting(self) -> bool:
        """Say that the answer may end."""
        return True

    def is_whole(self) -> bool:
        """Say that it need not."""
        return False

    def copy(self) -> Unbound:
        """Return itself."""
        return self

    def closing(self, most: int, likely: Sequence[int]) -> tuple[int, ...] | None:
        """Name no tokens: it may end at once."""
        return ()
