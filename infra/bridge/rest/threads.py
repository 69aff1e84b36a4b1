"""Threads over HTTP: begun, listed, searched, renamed, forked, erased, and what was said there."""

from __future__ import annotations

from msgspec.structs import asdict, replace
from starlette.requests import Request

from bus.spent import ends_of_runs
from infra.access import projected
from infra.bridge.callers import caller_of
from infra.bridge.doors import Door, Operation
from infra.bridge.late import LATE_S, caught_up
from infra.bridge.persons import own_resource
from infra.bridge.rest.answering import Rest, body_of, missing, named, query_of
from infra.bridge.rest.told import taken_by
from schemas.recollections import MessagesTold, ThreadTold
from schemas.rest import (
    Cancelling,
    ChangedThread,
    Done,
    ForkedThread,
    MessagesQuery,
    NewThread,
    ThreadNamed,
    Threads,
    ThreadsQuery,
    ThreadUsage,
)


class ThreadRoutes(Rest):
    """What can be done with threads."""

    def doors(self) -> list[Door]:
        """List the routes."""
        all_, one = "/api/threads", "/api/threads/{thread}"
        create = Operation("Begin a thread", takes=NewThread, gives=ThreadNamed, status=201)
        change = Operation("Give a thread another title or metadata", takes=ChangedThread, gives=Done)
        fork = Operation(
            "Begin a thread with the history of another", takes=ForkedThread, gives=ThreadNamed, status=201
        )
        said = Operation("Read what was said", query=MessagesQuery, gives=MessagesTold)
        return [
            self.door(all_, self.create, create, "POST"),
            self.door(all_, self.listed, Operation("List and search threads", query=ThreadsQuery, gives=Threads)),
            self.door(one, self.get, Operation("Tell of a thread", gives=ThreadTold)),
            self.door(one, self.change, change, "PATCH"),
            self.door(one, self.erase, Operation("Erase a thread for good", takes=Cancelling, gives=Done), "DELETE"),
            self.door(f"{one}/fork", self.fork, fork, "POST"),
            self.door(f"{one}/messages", self.messages, said),
            self.door(f"{one}/usage", self.usage, Operation("Tell what a thread's runs took", gives=ThreadUsage)),
        ]

    async def create(self, request: Request) -> ThreadNamed:
        """Begin a thread before anything is said in it."""
        asked = await body_of(request, NewThread)
        threads, about = self.client(request).threads, asked.metadata
        resource = own_resource(caller_of(request), asked.resource)
        made = await threads.create(asked.thread or None, resource=resource, title=asked.title, metadata=about)
        return ThreadNamed(made)

    async def listed(self, request: Request) -> Threads:
        """List threads, as far as they are recorded."""
        asked, caller = query_of(request, ThreadsQuery), caller_of(request)
        if caller.resource:
            asked = replace(asked, resource=own_resource(caller, asked.resource or ""))
        found = await self.client(request).memory.threads(**asdict(asked))
        return Threads(found, found[-1].last if len(found) == asked.limit else None)

    async def get(self, request: Request) -> ThreadTold:
        """Tell of a thread."""
        thread, memory = named(request, "thread"), self.client(request).memory

        async def look() -> ThreadTold | None:
            return next(iter(await memory.threads(thread=thread, limit=1)), None)

        found = await look()
        if found is None:
            await caught_up(self.desk)
            await projected(await self.desk.store(), "threads", LATE_S)
            found = await look()
        if found is None:
            raise missing("thread", thread)
        return found

    async def change(self, request: Request) -> Done:
        """Give a thread another title, or other metadata."""
        asked, thread = await body_of(request, ChangedThread), named(request, "thread")
        await self.client(request).threads.rename(thread, asked.title, asked.metadata)
        return Done()

    async def erase(self, request: Request) -> Done:
        """End a thread for good: nothing of it is left that could be read."""
        asked, thread = await body_of(request, Cancelling), named(request, "thread")
        await self.client(request).threads.delete(thread, asked.reason)
        return Done()

    async def fork(self, request: Request) -> ThreadNamed:
        """Begin a thread with the history of another; a run that was under way there goes on here too."""
        asked, origin = await body_of(request, ForkedThread), named(request, "thread")
        return ThreadNamed(await self.client(request).threads.clone(origin, asked.at, asked.thread or None))

    async def messages(self, request: Request) -> MessagesTold:
        """Read what was said, as far as it is recorded."""
        asked, thread, memory = query_of(request, MessagesQuery), named(request, "thread"), self.client(request).memory
        if asked.last is None:
            return await memory.messages(thread, asked.first, asked.limit)
        total = (await memory.messages(thread, 0, 1)).total
        return await memory.messages(thread, max(0, total - asked.last), asked.last)

    async def usage(self, request: Request) -> ThreadUsage:
        """Tell what a thread's runs took, as far as it is recorded."""
        thread = await self.thread(request)
        return taken_by(thread, await ends_of_runs(await self.desk.store(), caller_of(request).tenant, thread))
