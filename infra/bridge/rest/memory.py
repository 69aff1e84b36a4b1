"""What agents keep in mind, over HTTP."""

from __future__ import annotations

from msgspec.structs import asdict, replace
from starlette.requests import Request

from infra.bridge.callers import caller_of, request_id_of
from infra.bridge.doors import ANSWERING, Door, Operation
from infra.bridge.guard import trace_of
from infra.bridge.openai import BadRequest
from infra.bridge.ownership import keep_to_own
from infra.bridge.persons import LONGEST_RESOURCE, own_resource
from infra.bridge.rest.answering import Rest, body_of, named, query_of
from infra.spans.searching import Searched
from schemas.recollections import AskRecall, AskUnindexed, Recalled, ReindexTold
from schemas.rest import Done, Recollections, UnindexedTexts, WorkingMemory, Writing


class MemoryRoutes(Rest):
    """Working memory, and what is recalled by meaning."""

    def doors(self) -> list[Door]:
        """List the routes."""
        thread = "/api/threads/{thread}/memory"
        write = Operation("Write the working memory of a thread", takes=Writing, gives=Done)
        told = "Read the working memory that a resource's threads share"
        shared = Operation(told, gives=WorkingMemory, fails=(400,))
        near = "Find what was said that is near to a text"
        recall = Operation(near, takes=AskRecall, gives=Recollections, fails=ANSWERING)
        unindexed = Operation("List what was said and recall cannot find", query=AskUnindexed, gives=UnindexedTexts)
        again = Operation("Have all of that tried again", gives=ReindexTold)
        return [
            self.door(thread, self.read, Operation("Read the working memory of a thread", gives=WorkingMemory)),
            self.door(thread, self.write, write, "PUT"),
            self.door("/api/resources/{resource:path}/memory", self.shared, shared),
            self.door("/api/recall", self.recall, recall, "POST"),
            self.door("/api/recall/unindexed", self.unindexed, unindexed),
            self.door("/api/recall/unindexed/retry", self.reindex, again, "POST"),
        ]

    async def read(self, request: Request) -> WorkingMemory:
        """Read the working memory of a thread."""
        return WorkingMemory(await self.client(request).memory.working(thread=named(request, "thread")))

    async def write(self, request: Request) -> Done:
        """Write it."""
        asked = await body_of(request, Writing)
        await self.client(request).threads.remember(named(request, "thread"), asked.content, merge=asked.merge)
        return Done()

    async def shared(self, request: Request) -> WorkingMemory:
        """Read what the threads of a person or project share."""
        resource: str = request.path_params["resource"]
        if len(resource) > LONGEST_RESOURCE:
            raise BadRequest(400, f"resource: at most {LONGEST_RESOURCE} characters", "resource", "invalid_value")
        own_resource(caller_of(request), resource)
        return WorkingMemory(await self.client(request).memory.working(resource=resource))

    async def recall(self, request: Request) -> Recollections:
        """Find what was said."""
        wanted = await self._own(request, await body_of(request, AskRecall))
        asked, start = asdict(wanted), self.desk.clock.now()
        found, problem = tuple[Recalled, ...](), "it came to nothing"
        try:
            found = await self.client(request).memory.recall(asked.pop("text"), **asked)
            problem = ""
        finally:
            store = (wanted.thread if wanted.scope == "thread" else "") or wanted.scope
            whose = wanted.resource if wanted.scope == "resource" else ""
            about = (caller_of(request).tenant, request_id_of(request), trace_of(request.headers), store, wanted.text)
            self.desk.aside(Searched(*about, len(found), start, self.desk.clock.now(), problem, whose))
        return Recollections(found)

    async def _own(self, request: Request, asked: AskRecall) -> AskRecall:
        """Have somebody who is one person recall what was said in that person's threads.

        Raises:
            BadRequest: more is asked for.
        """
        caller = caller_of(request)
        if not caller.resource:
            return asked
        if asked.scope == "tenant":
            raise BadRequest(403, f"scope: this key is bound to {caller.resource!r}", "scope", "bound_key")
        if asked.thread:
            await keep_to_own(self.desk, request, asked.thread)
        return asked if asked.scope == "thread" else replace(asked, resource=own_resource(caller, asked.resource))

    async def unindexed(self, request: Request) -> UnindexedTexts:
        """List what the embedder refuses."""
        asked = query_of(request, AskUnindexed)
        return UnindexedTexts(await self.client(request).memory.unindexed(asked.limit))

    async def reindex(self, request: Request) -> ReindexTold:
        """Have it tried again."""
        return ReindexTold(await self.client(request).memory.reindex())
