"""What an agent's functions may know of the request that they work on: a mapping that travels with the command.

It is in the log with the command, so a function that is called again after a crash is told the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from actors.errors import ContextMissing
from schemas import codec

MOST_BYTES = 16_384
"""Of a context as JSON: it is in the record of each of its runs."""
MOST_KEYS = 64

T = TypeVar("T")


class RequestContext(Mapping[str, Any]):
    """The values that a client sent along, read only."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values = dict(values or {})

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"RequestContext({self._values!r})"

    def need(self, key: str, kind: type[T]) -> T:
        """Return a value that must be there, as its type.

        Raises:
            ContextMissing: it is not there, or is something else; the message names it.
        """
        if key not in self._values:
            raise ContextMissing(f"context.{key}: it is missing: send it with the request")
        try:
            return msgspec.convert(self._values[key], kind)
        except msgspec.ValidationError as error:
            raise ContextMissing(f"context.{key}: {error}") from error

    def read(self, kind: type[T]) -> T:
        """Return all of it as a struct or dataclass.

        Raises:
            ContextMissing: it does not fit; the message names the field.
        """
        try:
            return msgspec.convert(self._values, kind)
        except msgspec.ValidationError as error:
            raise ContextMissing(f"context: {error}") from error


def too_large(values: Mapping[str, Any]) -> str:
    """Say why a context is none that a run may have; empty when it is one."""
    if len(values) > MOST_KEYS:
        return f"context: {len(values)} keys, at most {MOST_KEYS} go along"
    size = len(codec.encode(values)) if values else 0
    return f"context: {size} bytes as JSON, at most {MOST_BYTES} go along" if size > MOST_BYTES else ""
