"""What a tool tells of itself while it runs: numbered live frames, heard now or never."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from types import TracebackType
from typing import Any, Self

from actors.runtime.machine import Effect
from actors.runtime.performer import Site
from bus.errors import BusError
from bus.live import Live
from schemas.live import Progress

log = logging.getLogger(__name__)

_WAITING = 100
"""Frames of one call that may wait to be sent: of more the oldest are left out, and the numbers say so."""


class Reporter:
    """Sends the frames of one call in order, from whatever thread they are told in."""

    def __init__(self, live: Live, effect: Effect, site: Site) -> None:
        self._live = live
        self._effect = effect
        self._site = site
        self._loop = asyncio.get_running_loop()
        self._told = 0
        self._frames: asyncio.Queue[Progress] = asyncio.Queue(_WAITING)
        self._sending: asyncio.Task[None] | None = None

    def tell(self, data: Any) -> None:
        """Take what a tool says."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: a thread outlived it
            self._loop.call_soon_threadsafe(self._queue, data)

    def _queue(self, data: Any) -> None:
        effect, site = self._effect, self._site
        self._told += 1
        if self._frames.full():
            self._frames.get_nowait()
        self._frames.put_nowait(Progress(effect.entity, site.thread, effect.id, site.version, self._told, data))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while True:
            frame = await self._frames.get()
            try:
                await self._live.progress(self._site.tenant, self._effect.kind, frame)
            except BusError as error:
                log.debug("progress of %s is not told: %s", self._effect.id, error)
            self._frames.task_done()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.sleep(0)  # what was told last is queued
        if self._sending is None:
            return
        if kind is None:
            await self._frames.join()
        self._sending.cancel()
