"""Schedules and background tasks over HTTP."""

from __future__ import annotations

from starlette.requests import Request

from bus.scheduled import ScheduleRow
from infra.bridge.doors import Door, Operation
from infra.bridge.late import lately
from infra.bridge.rest.answering import Rest, body_of, missing, named
from schemas.rest import Cancelling, Done, Schedules, ScheduleShown
from schemas.rest_tasks import Tasks, TaskShown
from schemas.schedules import (
    AddSchedule,
    FireSchedule,
    PauseSchedule,
    RemoveSchedule,
    Schedule,
    ScheduleCommand,
    UnpauseSchedule,
)


class ScheduleRoutes(Rest):
    """What agents are asked by the clock, and what goes on without their runs."""

    def doors(self) -> list[Door]:
        """List the routes."""
        one, tasks = "/api/schedules/{schedule}", "/api/threads/{thread}/tasks"
        put = Operation("Have an agent asked by the clock", takes=Schedule, gives=Done)
        cancel = Operation("End a background task", takes=Cancelling, gives=Done)
        return [
            self.door("/api/schedules", self.listed, Operation("List schedules", gives=Schedules)),
            self.door(one, self.get, Operation("Tell how a schedule stands", gives=ScheduleShown)),
            self.door(one, self.put, put, "PUT"),
            self.door(one, self.remove, Operation("End a schedule", gives=Done), "DELETE"),
            self.door(f"{one}/pause", self.pause, Operation("Have it fire no more", gives=Done), "POST"),
            self.door(f"{one}/resume", self.resume, Operation("Have it go on", gives=Done), "POST"),
            self.door(f"{one}/run", self.run, Operation("Have it fire now", gives=Done), "POST"),
            self.door(tasks, self.tasks, Operation("List background tasks", gives=Tasks)),
            self.door(f"{tasks}/{{task}}/cancel", self.cancel, cancel, "POST"),
        ]

    async def listed(self, request: Request) -> Schedules:
        """List schedules, as far as they are recorded."""
        return Schedules(tuple(_shown(row) for row in await self.client(request).schedules.list()))

    async def get(self, request: Request) -> ScheduleShown:
        """Tell how one stands."""
        identity, client = named(request, "schedule"), self.client(request)

        async def look() -> ScheduleRow | None:
            return next((row for row in await client.schedules.list() if row.id == identity), None)

        row = await lately(self.desk, look)
        if row is None:
            raise missing("schedule", identity)
        return _shown(row)

    async def put(self, request: Request) -> Done:
        """Begin one, or put another in its place."""
        return await self._tell(request, AddSchedule(await body_of(request, Schedule)))

    async def remove(self, request: Request) -> Done:
        """End one."""
        return await self._tell(request, RemoveSchedule())

    async def pause(self, request: Request) -> Done:
        """Have it fire no more until it is resumed."""
        return await self._tell(request, PauseSchedule())

    async def resume(self, request: Request) -> Done:
        """Have it go on from now."""
        return await self._tell(request, UnpauseSchedule())

    async def run(self, request: Request) -> Done:
        """Have it fire now, beside what is due."""
        return await self._tell(request, FireSchedule())

    async def tasks(self, request: Request) -> Tasks:
        """List the tool calls of a thread that go on in the background, as far as is recorded."""
        found = await self.client(request).tasks(await self.thread(request))
        return Tasks(
            tuple(TaskShown(one.effect, one.run, one.agent, one.call.name, one.call.arguments) for one in found)
        )

    async def cancel(self, request: Request) -> Done:
        """End one."""
        asked = await body_of(request, Cancelling)
        await self.client(request).cancel(await self.thread(request), named(request, "task"), asked.reason)
        return Done()

    async def _tell(self, request: Request, data: ScheduleCommand) -> Done:
        await self.client(request).tell(named(request, "schedule"), data, "schedule")
        return Done()


def _shown(row: ScheduleRow) -> ScheduleShown:
    return ScheduleShown(row.id, row.schedule, row.status, row.next, row.fired, row.last)
