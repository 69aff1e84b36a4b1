"""Condenses what a turn saw, after the turn: asks its model, and sends the outcome to the thread as a command."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from actors.agent.turns import CallModel
from actors.errors import CallFailed
from actors.memory.observing import Condensing, is_due
from actors.models.provider import ModelCall, ModelProvider, Piece
from bus.errors import BusError
from schemas.commands import Command
from schemas.context import Clock
from schemas.messages import Message
from schemas.runs import ModelReturned
from schemas.times import rfc3339

log = logging.getLogger(__name__)

_LONGEST = 1000
"""Tokens of what is condensed."""
Send = Callable[[Command], Awaitable[None]]
"""Sends a command; it is durable when that returns."""


async def _hear_nothing(_piece: Piece, /) -> None:
    """Take no text."""


class Observer:
    """Condenses threads beside their turns: none waits for it, and what fails is tried again after the next turn."""

    def __init__(self, send: Send, clock: Clock) -> None:
        self._send = send
        self._clock = clock
        self._under_way: dict[tuple[str, str], asyncio.Task[None]] = {}

    def consider(self, effect: CallModel, call: ModelCall, answer: ModelReturned, model: ModelProvider) -> None:
        """Condense a thread if its turn took more than its plan allows, and nobody does so already."""
        key = (call.tenant, call.thread)
        plan = effect.profile.memory
        if not is_due(plan, answer.usage.prompt_tokens) or key in self._under_way:
            return
        condensing = Condensing(plan, effect.said, effect.called.first, effect.observations)
        if condensing.count:
            task = asyncio.create_task(self._condense(condensing, call, model), name=f"observe-{call.thread}")
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))

    async def settled(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._under_way.values())

    async def _condense(self, condensing: Condensing, call: ModelCall, model: ModelProvider) -> None:
        upto = condensing.first + condensing.count
        asking = replace(
            call,
            effect=f"{call.effect}.observer",
            messages=(Message(role="user", content=condensing.prompt()),),
            tools=(),
            sampling=replace(call.sampling, temperature=0.0, max_tokens=_LONGEST),
        )
        try:
            data = condensing.outcome((await model.call(asking, _hear_nothing)).text)
            if data is not None:
                # the same for the same messages: whoever condenses them again is not heard twice
                name = f"observe-{call.thread}-{upto}"
                time = rfc3339(self._clock.now())
                await self._send(Command(name, call.tenant, "agent", call.thread, "observe", data, "observer", time))
        except (CallFailed, BusError, TimeoutError) as error:
            log.warning("thread %s is not condensed now: %s", call.thread, error)
        except Exception:
            log.exception("thread %s cannot be condensed", call.thread)
