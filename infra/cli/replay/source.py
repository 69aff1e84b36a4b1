"""Where threads are read from: the log, a bundle that was imported beside it, or a bundle file.

`ID` is a thread of the log, `NAME:ID` one of the bundle imported as NAME. With `--bundle FILE` every id is one of
that file, and no data directory is needed.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from heapq import nlargest
from pathlib import Path
from typing import NamedTuple, Protocol

from bus.imported import kept_thread, kept_threads
from bus.store import Store, StoredEvent, ThreadSummary
from infra.access import recorded
from infra.bundles import Bundle
from infra.errors import NothingRecorded


class Thread(NamedTuple):
    """A thread as it was read."""

    events: list[StoredEvent]
    redacted: bool = False
    """Whether its texts were replaced, so that no decision of it can be checked."""


class Source(Protocol):
    """Reads threads."""

    async def thread(self, tenant: str, identity: str) -> Thread:
        """Read a thread, all of its events.

        Raises:
            NothingRecorded: there is none of that id.
        """

    async def run(self, tenant: str, identity: str) -> Thread:
        """Read the thread that a run is in.

        Raises:
            NothingRecorded: there is none of that id.
        """

    async def latest(self, count: int) -> list[tuple[ThreadSummary, list[StoredEvent]]]:
        """Read the threads with the latest events, the latest first."""


class RecordedThreads:
    """Those in Postgres."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def thread(self, tenant: str, identity: str) -> Thread:
        """Read a thread of the log, or of an imported bundle."""
        bundle, colon, own = identity.rpartition(":")
        if colon:
            kept = await kept_thread(self.store, bundle, tenant, own)
            found = Thread([]) if kept is None else Thread(*kept)
        else:
            found = Thread(await self.store.events_of_thread(tenant, identity))
        if not found.events:
            raise NothingRecorded(identity)
        return found

    async def run(self, tenant: str, identity: str) -> Thread:
        """Read the thread of the log that a run is in."""
        own = await self.store.events_of_entity(tenant, "run", identity)
        if not own:
            raise NothingRecorded(identity)
        first = min(own, key=lambda event: (event.incarnation, event.sequence))  # forks have the run too
        return Thread(await self.store.events_of_thread(tenant, first.fact.thread))

    async def imported(self, count: int) -> list[tuple[ThreadSummary, list[StoredEvent]]]:
        """Read the latest threads of imported bundles."""
        return [
            (line, (await self.thread(line.tenant, line.thread)).events)
            for line in await kept_threads(self.store, count)
        ]

    async def latest(self, count: int) -> list[tuple[ThreadSummary, list[StoredEvent]]]:
        """Read the latest threads of the log."""
        return [
            (thread, await self.store.events_of_thread(thread.tenant, thread.thread))
            for thread in await self.store.threads(count)
        ]


class BundledThreads:
    """Those in a file. It is read from its beginning for each, and never held whole."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    async def thread(self, tenant: str, identity: str) -> Thread:
        """Read a thread; the tenant only chooses between two of one id."""
        found = [events for events in self._bundle.threads() if events[0].fact.thread == identity]
        if not found:
            raise NothingRecorded(identity)
        own = next((events for events in found if events[0].fact.tenant == tenant), found[0])
        return Thread(own, self._bundle.header.redacted)

    async def run(self, tenant: str, identity: str) -> Thread:
        """Read the first thread that has a run of that id."""
        for events in self._bundle.threads():
            if any((event.fact.kind, event.fact.entity) == ("run", identity) for event in events):
                return Thread(events, self._bundle.header.redacted)
        raise NothingRecorded(identity)

    def all(self) -> Iterator[Thread]:
        """Read them one after the other."""
        return (Thread(events, self._bundle.header.redacted) for events in self._bundle.threads())

    async def latest(self, count: int) -> list[tuple[ThreadSummary, list[StoredEvent]]]:
        """Read the latest threads."""
        found = ((_summary(events), events) for events in self._bundle.threads())
        return nlargest(count, found, key=lambda item: item[0].last)


def _summary(events: list[StoredEvent]) -> ThreadSummary:
    first = events[0].fact
    return ThreadSummary(first.tenant, first.thread, len(events), events[0].time, events[-1].time)


@asynccontextmanager
async def source(options: argparse.Namespace) -> AsyncIterator[RecordedThreads | BundledThreads]:
    """Open what the command line says to read from."""
    if options.bundle is not None:
        yield BundledThreads(Bundle(Path(options.bundle)))
        return
    async with recorded(options.data) as store:
        yield RecordedThreads(store)
