"""The running stack for code that is not async: the event loop has a thread of its own.

So the main thread can wait in `input`, where line editing and Ctrl-C live, while the connection stays alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import msgspec

from bus import subjects
from bus.connection import Connection
from bus.errors import BusError
from bus.projected import latest_threads
from bus.projector import bring_up
from bus.scheduled import schedules_of
from bus.store import Store, StoredEvent
from infra.access import behind, runtime_of
from infra.errors import RecordBehind
from infra.follow import follow, send
from infra.privacy import known_master, opened_store
from infra.readback import LateStore
from infra.services.data_directory import Runtime
from schemas.commands import Command
from schemas.live import Frame, Outcome

T = TypeVar("T")

_DAY_S = 86_400.0
"""A person may take their time over an approval."""
_SILENCE_S = 3.0
"""After so long without a frame we look whether the stack still runs."""
_ASK_S = 1.0
_CLOSING_S = 1.0
_POLL_S = 0.05
_RECORDED_S = 5.0
_CAUGHT_UP_S = 60.0
"""How long all threads of a person may be waited for: who deletes them deletes every one, or is told."""
_MOST = 1000
"""Threads that are listed at once."""


class Session:
    """Sends commands and hears what becomes of them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        data: str,
        runtime: Runtime,
        connection: Connection,
        notice: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._notice = notice
        self._data = data
        self._postgres = runtime.urls["postgres"]
        self._master = known_master(data)
        self._connection = connection

    def follow(self, command: Command, after: int = 0) -> Iterator[Frame]:
        """Send `command` and yield what follows; closing the iterator stops listening, not what goes on.

        Raises:
            NotRunning: the stack was stopped meanwhile.
        """
        heard: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        told = ""

        async def feed() -> None:
            async with LateStore(self._postgres, self._master) as late:
                async for frame in follow(self._connection, late.read_back, command, _DAY_S, after):
                    heard.put(frame)

        feeding = asyncio.run_coroutine_threadsafe(feed(), self._loop)
        feeding.add_done_callback(lambda _: heard.put(None))
        try:
            while True:
                try:
                    frame = heard.get(timeout=_SILENCE_S)
                except queue.Empty:
                    runtime_of(self._data)
                    trouble = _call(self._loop, self._trouble())
                    if trouble and trouble != told:
                        self._notice(f"{trouble}; Ctrl-C stops waiting")
                    told = trouble
                    continue
                if frame is None:
                    break
                yield frame
            feeding.result()
        finally:
            feeding.cancel()

    async def _trouble(self) -> str:
        """Say what keeps us waiting; empty where nothing is known to."""
        if not self._connection.client.is_connected:
            return "the event bus does not answer: waiting for it"
        try:
            reply = await self._connection.request(subjects.status("host"), b"", _ASK_S)
        except (BusError, TimeoutError):
            return ""
        answer: dict[str, str] = msgspec.json.decode(reply.data)
        return answer["trouble"]

    def send(self, command: Command) -> Outcome:
        """Send `command` and return what became of it."""
        return _call(self._loop, send(self._connection, command))

    def events(self, tenant: str, thread: str) -> list[StoredEvent]:
        """Read what is recorded of a thread."""

        async def read() -> list[StoredEvent]:
            async with await opened_store(self._postgres, self._master) as store:
                return await store.events_of_thread(tenant, thread)

        return _call(self._loop, read())

    def threads_of(self, tenant: str, resource: str) -> list[str]:
        """Name the threads of a resource, those that were begun a moment ago included: the record waits for them.

        Raises:
            RecordBehind: the record does not catch up, so some may be missing.
        """

        async def read() -> list[str]:
            async with self._caught_up() as store:
                rows = await latest_threads(store, _MOST, tenant, "agent", resource)
                return [row.thread for row in rows if row.status != "deleted"]

        return _call(self._loop, read())

    def schedules_of(self, tenant: str, resource: str) -> list[str]:
        """Name the schedules of a resource that are not removed, as `threads_of`.

        Raises:
            RecordBehind: the record does not catch up, so some may be missing.
        """

        async def read() -> list[str]:
            async with self._caught_up() as store:
                rows = await schedules_of(store, tenant)
                return [row.id for row in rows if row.schedule.resource == resource and row.status != "removed"]

        return _call(self._loop, read())

    @asynccontextmanager
    async def _caught_up(self) -> AsyncIterator[Store]:
        async with await opened_store(self._postgres, self._master) as store:
            lacking = await behind(self._connection, store, _CAUGHT_UP_S)
            if lacking:
                raise RecordBehind(lacking)
            await bring_up(store)
            yield store

    def until_recorded(self, tenant: str, kind: str, entity: str, version: int) -> None:
        """Wait a moment until the recorder has copied what was heard already."""

        async def look() -> None:
            async with await Store.open(self._postgres) as store:
                for _ in range(int(_RECORDED_S / _POLL_S)):
                    if await store.events_of_entity(tenant, kind, entity, version - 1):
                        return
                    await asyncio.sleep(_POLL_S)

        _call(self._loop, look())


@contextmanager
def session(data: str, notice: Callable[[str], None]) -> Iterator[Session]:
    """Connect to the stack that runs on a data directory; `notice` hears why there is a long wait.

    Raises:
        NotRunning: none does.
        Unavailable: one of its servers does not answer.
    """
    runtime = runtime_of(data)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="session", daemon=True)
    thread.start()
    exits = contextlib.AsyncExitStack()

    async def opened() -> Session:
        connection = await exits.enter_async_context(await Connection.open(runtime.urls["nats"], "chat"))
        return Session(loop, data, runtime, connection, notice)

    async def closed() -> None:
        with contextlib.suppress(OSError):  # a server that is gone cannot be told
            await exits.aclose()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSING_S)

    try:
        yield _call(loop, opened())
    finally:
        _call(loop, closed())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _call(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        raise
