"""What runs wait for a person or program to say, over HTTP, and the answers."""

from __future__ import annotations

from starlette.requests import Request

from bus.waits import waits
from infra.bridge.callers import caller_of
from infra.bridge.doors import Door, Operation
from infra.bridge.rest.answering import Rest, body_of, named, query_of
from schemas.commands import Approve, Deny, PostResult, Resume
from schemas.rest import Approving, Cancelling, Done, Resulting, Resuming
from schemas.rest_waits import Waits, WaitShown, WaitsQuery


class WaitRoutes(Rest):
    """Approvals, suspended tools, and tools of the caller's."""

    def doors(self) -> list[Door]:
        """List the routes."""
        thread = "/api/threads/{thread}/waits"
        one = thread + "/{effect}"
        approve = Operation("Agree to a call with exactly these arguments", takes=Approving, gives=Done)
        return [
            self.door("/api/waits", self.everywhere, Operation("List what waits", query=WaitsQuery, gives=Waits)),
            self.door(thread, self.of_thread, Operation("List what a thread waits for", gives=Waits)),
            self.door(f"{one}/approve", self.approve, approve, "POST"),
            self.door(f"{one}/decline", self.decline, Operation("Refuse a call", takes=Cancelling, gives=Done), "POST"),
            self.door(f"{one}/resume", self.resume, Operation("Give data", takes=Resuming, gives=Done), "POST"),
            self.door(f"{one}/result", self.result, Operation("Give a result", takes=Resulting, gives=Done), "POST"),
        ]

    async def everywhere(self, request: Request) -> Waits:
        """List what waits in all threads, as far as it is recorded."""
        asked = query_of(request, WaitsQuery)
        caller = caller_of(request)
        found = await waits(await self.desk.store(), caller.tenant, asked.limit, caller.resource or None)
        return Waits(
            tuple(
                WaitShown(
                    kind=one.kind,  # type: ignore[arg-type]  # one of the three
                    thread=one.thread,
                    effect=one.effect,
                    tool=one.call.name,
                    arguments=one.call.arguments,
                    payload=one.payload,
                    run=one.run,
                    agent=one.agent,
                    since=one.since,
                )
                for one in found
            )
        )

    async def of_thread(self, request: Request) -> Waits:
        """List what a thread's run waits for, and those of the agents that it has asked."""
        found = await self.client(request).waiting(await self.thread(request))
        return Waits(
            tuple(
                WaitShown(
                    kind=one.kind,
                    thread=one.thread,
                    effect=one.effect,
                    tool=one.call.name,
                    arguments=one.call.arguments,
                    payload=one.payload,
                    schema=one.schema,
                    problem=one.problem,
                )
                for one in found
            )
        )

    async def approve(self, request: Request) -> Done:
        """Agree to a call."""
        asked = await body_of(request, Approving)
        return await self._settle(request, Approve(named(request, "effect"), asked.arguments, asked.always))

    async def decline(self, request: Request) -> Done:
        """Refuse a call; the model is told why."""
        asked = await body_of(request, Cancelling)
        return await self._settle(request, Deny(named(request, "effect"), asked.reason))

    async def resume(self, request: Request) -> Done:
        """Give a suspended tool its data."""
        asked = await body_of(request, Resuming)
        return await self._settle(request, Resume(named(request, "effect"), asked.answer))

    async def result(self, request: Request) -> Done:
        """Give the result of a tool that the caller ran."""
        asked = await body_of(request, Resulting)
        return await self._settle(request, PostResult(named(request, "effect"), asked.content, asked.error))

    async def _settle(self, request: Request, answer: Approve | Deny | Resume | PostResult) -> Done:
        thread, client = await self.thread(request), self.client(request)
        # what a thread's waits are said to be are those of the agents that it has asked, too
        threads = {one.effect: one.thread for one in await client.waiting(thread)}
        await client.settle(threads.get(answer.effect, thread), answer)
        return Done()
