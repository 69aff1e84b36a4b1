"""The routes of the REST API."""

from __future__ import annotations

from starlette.requests import Request

from infra.bridge.desk import Desk
from infra.bridge.doors import Door, Operation
from infra.bridge.rest.answering import Rest, missing
from infra.bridge.rest.memory import MemoryRoutes
from infra.bridge.rest.runs import RunRoutes
from infra.bridge.rest.schedules import ScheduleRoutes
from infra.bridge.rest.standing import StandingRoutes
from infra.bridge.rest.threads import ThreadRoutes
from infra.bridge.rest.waits import WaitRoutes
from infra.offers import tools_of
from schemas.rest import AgentOffered, Agents, Tools


class OfferRoutes(Rest):
    """Who can be asked, and what they can do."""

    def doors(self) -> list[Door]:
        """List the routes."""
        return [
            self.door("/api/agents", self.agents, Operation("List agents", gives=Agents)),
            self.door("/api/agents/{agent}", self.agent, Operation("Tell of an agent", gives=AgentOffered)),
            self.door("/api/tools", self.tools, Operation("List the tools of all agents", gives=Tools)),
        ]

    def _fails(self, method: str) -> tuple[int, ...]:
        return ()

    async def agents(self, request: Request) -> Agents:
        """List agents."""
        return Agents(self.desk.offered)

    async def agent(self, request: Request) -> AgentOffered:
        """Tell of one."""
        name: str = request.path_params["agent"]
        found = next((one for one in self.desk.offered if one.name == name), None)
        if found is None:
            raise missing("agent", name)
        return found

    async def tools(self, request: Request) -> Tools:
        """List tools."""
        return Tools(tools_of(self.desk.offered))


def rest_doors(desk: Desk) -> list[Door]:
    """List them."""
    routes = (OfferRoutes, ThreadRoutes, RunRoutes, WaitRoutes, MemoryRoutes, ScheduleRoutes, StandingRoutes)
    return [door for some in routes for door in some(desk).doors()]
