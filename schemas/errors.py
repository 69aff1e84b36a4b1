"""What can be wrong with bytes and shapes.

SchemaError
├── UnknownEvent     an event type this code does not know: the entity stops, nothing is skipped
├── UnknownFormat    an envelope of another version
├── Sealed           a payload that this process has no key for
├── Erased           a payload whose key was destroyed: nobody can read it any more
└── BadShape         bytes that are not what they should be
"""

from __future__ import annotations


class SchemaError(Exception):
    """The root of what decoding raises."""


class UnknownEvent(SchemaError):
    """No event of this code has the type found in the log."""

    def __init__(self, type_: str) -> None:
        super().__init__(f"unknown event type {type_!r}: written by newer code? upgrade before reading this entity")
        self.type = type_


class UnknownFormat(SchemaError):
    """The envelope's format number is not known to this code."""

    def __init__(self, found: object) -> None:
        super().__init__(f"unknown envelope format {found!r}: written by newer code? upgrade before reading this log")
        self.found = found


class Sealed(SchemaError):
    """A payload is sealed, and the key is not at hand here."""

    def __init__(self, place: str) -> None:
        super().__init__(f"{place}: it is sealed: give `privacy.master_key`, or read it where the stack runs")


class Erased(SchemaError):
    """A payload's key was destroyed."""

    def __init__(self, place: str) -> None:
        super().__init__(f"{place}: erased")


class BadShape(SchemaError):
    """The bytes do not decode; the message names the field."""
