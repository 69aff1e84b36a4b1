"""HTTP as it comes over a connection: heads of requests within bounds of size and time, before they are whole."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD_S = 30.0
_LINE = 64 << 10
"""Bytes of a request's first line, beside its headers."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's, whose parser keeps whatever comes before a head is whole, for as long as it takes to come."""

    def __init__(self, most: int, **parts: Any) -> None:
        """Make it.

        Args:
            most: bytes of all headers; they are counted exactly once they are there.
            parts: what uvicorn gives.
        """
        super().__init__(**parts)
        self._most = most + _LINE
        self._head = 0
        self._whole = self._ended = False
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, and end the connection where a head gets too long."""
        self._ended = False
        super().data_received(data)
        # what comes first is not of this head, where a client asks again without waiting for its answer
        if not self._whole and not self._ended:
            self._head += len(data)
            if self._head > self._most and not self.transport.is_closing():
                self.send_400_response("The request's head is too large.")

    def on_message_begin(self) -> None:
        """Begin with the next head."""
        super().on_message_begin()
        self._whole, self._head = False, 0
        if self._late is None:
            self._wait()

    def on_headers_complete(self) -> None:
        """Go on with the body, which the doors bound."""
        self._whole = True
        self._wait_no_more()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Wait for the next request."""
        self._ended = True
        super().on_message_complete()

    def _wait(self) -> None:
        self._late = self.loop.call_later(_HEAD_S, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
