"""Finds titles for threads beside their turns: asks the model, and sends the title as a command."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from actors.agent.effects import CallModel
from actors.errors import CallFailed
from actors.models.provider import ModelCall, ModelProvider
from actors.processors.guarded import aside, hear_nothing
from bus.errors import BusError
from schemas.commands import Command
from schemas.context import Clock
from schemas.faults import fault
from schemas.memory import RenameThread
from schemas.times import rfc3339

log = logging.getLogger(__name__)

_TOKENS = 32
_TITLE = 100
_SHOWN = 4000
"""Characters of the question that a title is made of."""
_ENTITLE = "Give the conversation that begins as follows a title of at most six words. Answer with it alone."
_STOP_S = 5.0
TIMEOUT_S = 60.0
"""After which a title is given up, until the next turn."""
Send = Callable[[Command], Awaitable[None]]
"""Sends a command; it is durable when that returns."""


class Entitler:
    """Finds titles: no turn waits for it, and what fails is tried again after the next one."""

    def __init__(self, send: Send, clock: Clock, timeout_s: float = TIMEOUT_S) -> None:
        self._send = send
        self._clock = clock
        self._timeout_s = timeout_s
        self._under_way: dict[tuple[str, str], asyncio.Task[None]] = {}

    def consider(self, effect: CallModel, call: ModelCall, model: ModelProvider) -> None:
        """Find a title for a thread that is to have one and has none, unless somebody does so already."""
        plan, key = effect.profile.memory, (call.tenant, call.thread)
        if plan is None or not plan.titles or effect.memory.title or key in self._under_way:
            return
        questions = [message.content for message in effect.said if message.role == "user" and message.content.strip()]
        if questions:
            asking = aside(call, "title", f"{_ENTITLE}\n\n{questions[0][:_SHOWN]}", _TOKENS)
            task = self._under_way[key] = asyncio.create_task(self._guarded(asking, model), name=f"title-{call.thread}")
            task.add_done_callback(lambda _: self._under_way.pop(key, None))

    async def settled(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._under_way.values())

    async def _guarded(self, asking: ModelCall, model: ModelProvider) -> None:
        try:
            await self._entitle(asking, model)
        except (CallFailed, BusError, TimeoutError) as error:
            log.warning("no title for thread %s now: %s", asking.thread, fault(error))
        except Exception as error:  # noqa: BLE001  nobody waits for it
            log.error("no title for thread %s: %s", asking.thread, fault(error))  # noqa: TRY400

    async def _entitle(self, asking: ModelCall, model: ModelProvider) -> None:
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                answer = await model.call(asking, hear_nothing)
        finally:
            if limit.expired():
                async with asyncio.timeout(_STOP_S):
                    await model.abort(asking.request)
        title = answer.text.strip().partition("\n")[0].strip(" \"'*#")[:_TITLE]
        if title:
            data, time = RenameThread(title=title, untitled=True), rfc3339(self._clock.now())
            # the same for the same outcome: whoever comes to it again is not heard twice
            name = f"title-{asking.thread}"
            await self._send(Command(name, asking.tenant, "agent", asking.thread, "rename", data, "observer", time))
