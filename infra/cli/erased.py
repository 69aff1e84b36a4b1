"""What is told of an event whose text was erased."""

from __future__ import annotations

from typing import Final

from schemas import codec
from schemas.envelope import Fact
from schemas.errors import Erased
from schemas.runs import Event

ERASED: Final = ("", "erased")
"""Who did it, and what: nobody can say any more."""


def legible(fact: Fact) -> Event | None:
    """Read an event; None where it was erased.

    Raises:
        SchemaError: it cannot be read.
    """
    try:
        return codec.event_of(fact)
    except Erased:
        return None
