"""What asks providers over the network, as far as those need to know who ask; and how it fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Lost(Exception):
    """The provider cannot be reached, or the connection broke. The message holds nothing that was sent."""


class Slow(Exception):
    """Nothing came for too long."""


class Answered(Protocol):
    """An answer whose body is still to come."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers, by lower-case names."""

    @property
    def body(self) -> AsyncIterator[bytes]:
        """The bytes as they come; raises `Lost` or `Slow`."""

    async def whole(self) -> bytes:
        """Read an error.

        Raises:
            Lost: the connection broke.
            Slow: nothing came for too long.
        """


class Transport(Protocol):
    """Sends requests."""

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> AbstractAsyncContextManager[Answered]:
        """Send one; raises `Lost` or `Slow`."""

    async def close(self) -> None:
        """Close all connections."""
