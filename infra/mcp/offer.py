"""The agents that MCP clients are offered, and how those hear that they are others now.

From the revision of 2026-07-28 on a client listens (`subscriptions/listen`); whoever loses its stream, as when the
server starts again, lists anew. Before it a server says so unasked, where it has a connection to say it on: standard
input and output have one. Over HTTP nothing is kept between requests.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import anyio
import mcp_types as types
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged

from infra.mcp.calls import Context
from schemas.rest import AgentOffered

log = logging.getLogger(__name__)


class Offer:
    """The agents, as they are now."""

    def __init__(self, agents: Sequence[AgentOffered]) -> None:
        self.agents = tuple(agents)
        self._bus = InMemorySubscriptionBus()
        self._listening = ListenHandler(self._bus)

    async def listen(self, context: Context, params: types.SubscriptionsListenRequestParams) -> Any:
        """Tell a client of changes for as long as it listens; of tools alone: nothing else is told of."""
        wanted = types.SubscriptionFilter(tools_list_changed=params.notifications.tools_list_changed)
        return await self._listening(context, params.model_copy(update={"notifications": wanted}))

    def listed(self, context: Context) -> None:
        """Note that a client knows the agents."""

    async def change(self, agents: Sequence[AgentOffered]) -> bool:
        """Offer these from now on; say whether they are others, which all that listen are told."""
        if self.agents == tuple(agents):
            return False
        self.agents = tuple(agents)
        await self._bus.publish(ToolsListChanged())
        return True


class OfferToOne(Offer):
    """An offer to the one client at the other end of standard input and output."""

    _session: Any = None

    def listed(self, context: Context) -> None:
        """Note where it is told, if it does not listen."""
        self._session = context.session

    async def change(self, agents: Sequence[AgentOffered]) -> bool:
        """Offer these from now on, and tell it where they are others."""
        changed = await super().change(agents)
        if changed and self._session is not None:
            try:
                await self._session.send_tool_list_changed()  # the SDK drops it where a client would have to listen
            except (anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
                log.info("the MCP client is gone: %r", error)
        return changed
