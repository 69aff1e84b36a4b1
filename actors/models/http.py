"""The thin HTTP client that asks providers: a POST, and the bytes of its answer as they come."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from actors.models.transport import Lost, Slow

# it tells of every request, and at its finest of headers
logging.getLogger("httpx").setLevel(logging.WARNING)
logging.getLogger("httpcore").setLevel(logging.WARNING)

_MOST_ERROR = 1 << 20
"""Bytes of an error that are read."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer whose body is still to come."""

    status: int
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]

    async def whole(self) -> bytes:
        """Read the body, as far as an error may be long.

        Raises:
            Lost: the connection broke.
            Slow: nothing came for too long.
        """
        read = b""
        async for data in self.body:
            read += data
            if len(read) >= _MOST_ERROR:
                break
        return read


class HttpClient:
    """Connections to providers, kept open between requests."""

    def __init__(self, connect_s: float, silence_s: float) -> None:
        timeout = httpx.Timeout(silence_s, connect=connect_s)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._client = httpx.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False)

    @asynccontextmanager
    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> AsyncIterator[HttpAnswer]:
        """Send a request; what it raises holds neither headers nor a part of them.

        Raises:
            Lost: the provider cannot be reached, or the connection broke.
            Slow: nothing came for too long.
        """
        try:
            async with self._client.stream("POST", url, headers=dict(headers), content=body) as response:
                yield HttpAnswer(response.status_code, response.headers, _read(response))
        except httpx.HTTPError as error:
            raise _failure(error) from None
        except httpx.InvalidURL:
            raise Lost("its address is none") from None

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


async def _read(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for data in response.aiter_bytes():
            yield data
    except httpx.HTTPError as error:
        raise _failure(error) from None


def _failure(error: httpx.HTTPError) -> Lost | Slow:
    """Say in our own words what broke: the library's may hold a header, and with it a key."""
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return Slow("no connection in time")
    if isinstance(error, httpx.TimeoutException):
        return Slow("nothing came for too long")
    if isinstance(error, httpx.ConnectError):
        return Lost(f"no connection ({type(error.__cause__ or error).__name__})")
    return Lost(f"the connection broke ({type(error).__name__})")
