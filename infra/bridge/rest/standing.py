"""What stands in a thread over HTTP: its mode, what somebody agreed to beforehand, and its goal."""

from __future__ import annotations

from msgspec.structs import asdict
from starlette.requests import Request

from actors.agent.standing import Goal
from infra.bridge.callers import caller_of
from infra.bridge.doors import Door, Operation
from infra.bridge.openai import BadRequest
from infra.bridge.rest.answering import Rest, body_of, missing, named
from schemas.commands import CommandData
from schemas.rest import Cancelling, Done
from schemas.rest_standing import GoalResuming, GoalSetting, GoalShown, Granting, ModeSetting, StandingShown
from schemas.standing import ClearGoal, GrantTool, PauseGoal, ResumeGoal, SetGoal, SetMode, WithdrawGrant


class StandingRoutes(Rest):
    """Modes, grants and goals."""

    def doors(self) -> list[Door]:
        """List the routes."""
        one = "/api/threads/{thread}"
        goal, grants = f"{one}/goal", f"{one}/grants"
        mode = Operation("Have a thread's agent be in a mode", takes=ModeSetting, gives=Done)
        agree = Operation("Agree beforehand to calls of tools", takes=Granting, gives=Done)
        put = Operation("Have an agent go on by itself until a goal is reached", takes=GoalSetting, gives=Done)
        pause = Operation("Have no further run begin for the goal", takes=Cancelling, gives=Done)
        resume = Operation("Go on with the goal", takes=GoalResuming, gives=Done)
        withdraw = Operation("Be asked again", takes=Granting, gives=Done)
        return [
            self.door(f"{one}/standing", self.all_, Operation("Tell what stands in a thread", gives=StandingShown)),
            self.door(f"{one}/mode", self.mode, mode, "PUT"),
            self.door(grants, self.agree, agree, "POST"),
            self.door(f"{grants}/withdraw", self.withdraw, withdraw, "POST"),
            self.door(goal, self.goal, Operation("Tell how a thread's goal stands", gives=GoalShown)),
            self.door(goal, self.put, put, "PUT"),
            self.door(goal, self.clear, Operation("Have no goal any more", gives=Done), "DELETE"),
            self.door(f"{goal}/pause", self.pause, pause, "POST"),
            self.door(f"{goal}/resume", self.resume, resume, "POST"),
        ]

    async def all_(self, request: Request) -> StandingShown:
        """Tell what stands in a thread, as far as is recorded."""
        standing = await self.client(request).threads.standing(await self._living(request))
        return StandingShown(standing.mode, standing.grants, None if standing.goal is None else _shown(standing.goal))

    async def mode(self, request: Request) -> Done:
        """Have its agent be in a mode."""
        return await self._tell(request, SetMode((await body_of(request, ModeSetting)).mode))

    async def agree(self, request: Request) -> Done:
        """Agree beforehand."""
        return await self._tell(request, GrantTool((await body_of(request, Granting)).tool))

    async def withdraw(self, request: Request) -> Done:
        """Be asked again."""
        return await self._tell(request, WithdrawGrant((await body_of(request, Granting)).tool))

    async def goal(self, request: Request) -> GoalShown:
        """Tell how its goal stands, as far as is recorded."""
        thread = await self._living(request)
        found = await self.client(request).goals.get(thread)
        if found is None:
            raise BadRequest(404, f"thread {thread!r} has no goal", "goal", "goal_not_found")
        return _shown(found)

    async def put(self, request: Request) -> Done:
        """Set it a goal; the thread begins, where there is none."""
        return await self._tell(request, SetGoal(**asdict(await body_of(request, GoalSetting))))

    async def clear(self, request: Request) -> Done:
        """Have no goal any more."""
        return await self._tell(request, ClearGoal())

    async def pause(self, request: Request) -> Done:
        """Have no further run begin."""
        return await self._tell(request, PauseGoal((await body_of(request, Cancelling)).reason))

    async def resume(self, request: Request) -> Done:
        """Go on."""
        return await self._tell(request, ResumeGoal((await body_of(request, GoalResuming)).budget))

    async def _living(self, request: Request) -> str:
        """Read the id of a thread out of the path, that there is still.

        Raises:
            BadRequest: there is none, or it was deleted: 404.
        """
        thread = await self.thread(request)
        events = await self.desk.read_back(caller_of(request).tenant, thread, "thread", thread, 0)
        if any(event.type == "thread.deleted" for event in events):
            raise missing("thread", thread)
        return thread

    async def _tell(self, request: Request, data: CommandData) -> Done:
        await self.client(request).tell(named(request, "thread"), data)
        return Done()


def _shown(goal: Goal) -> GoalShown:
    about = (goal.id, goal.agent, goal.text, goal.status, goal.reason, goal.runs, goal.budget)
    return GoalShown(*about, goal.judging is not None, goal.usage, goal.cost)
