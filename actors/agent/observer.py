"""Condenses what a turn saw, and finds titles, after the turn: asks its model, and sends the outcome as a command."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from msgspec.structs import replace

from actors.agent.effects import CallModel
from actors.errors import CallFailed
from actors.memory.observing import Condensing, is_due
from actors.models.provider import ModelCall, ModelProvider, Piece
from bus.errors import BusError
from schemas.commands import Command
from schemas.context import Clock
from schemas.faults import fault
from schemas.memory import Observe, RenameThread
from schemas.messages import Message
from schemas.runs import ModelReturned
from schemas.times import rfc3339

log = logging.getLogger(__name__)

_LONGEST = 1000
"""Tokens of what is condensed."""
_TITLE = 100
_ENTITLE = "Give the conversation that begins as follows a title of at most six words. Answer with it alone."
Send = Callable[[Command], Awaitable[None]]
"""Sends a command; it is durable when that returns."""


async def _hear_nothing(_piece: Piece, /) -> None:
    """Take no text."""


class Observer:
    """Condenses threads beside their turns: none waits for it, and what fails is tried again after the next turn."""

    def __init__(self, send: Send, clock: Clock) -> None:
        self._send = send
        self._clock = clock
        self._under_way: dict[tuple[str, str, str], asyncio.Task[None]] = {}

    def consider(self, effect: CallModel, call: ModelCall, answer: ModelReturned, model: ModelProvider) -> None:
        """Condense a thread if its turn took more than its plan allows, and nobody does so already."""
        plan = effect.profile.memory
        if plan is not None and plan.titles and not effect.memory.title:
            self._begin((call.tenant, call.thread, "title"), self._entitle(effect.said, call, model))
        if is_due(plan, answer.usage.prompt_tokens):
            condensing = Condensing(plan, effect.said, effect.called.first, effect.memory.observations)
            if condensing.count:
                self._begin((call.tenant, call.thread, "observe"), self._condense(condensing, call, model))

    def _begin(self, key: tuple[str, str, str], work: Coroutine[Any, Any, None]) -> None:
        if key in self._under_way:
            work.close()
            return
        task = self._under_way[key] = asyncio.create_task(self._guarded(key, work), name="-".join(key))
        task.add_done_callback(lambda _: self._under_way.pop(key, None))

    async def _guarded(self, key: tuple[str, str, str], work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (CallFailed, BusError, TimeoutError) as error:
            log.warning("%s of thread %s comes to nothing now: %s", key[2], key[1], fault(error))
        except Exception as error:  # noqa: BLE001  nobody waits for it
            log.error("%s of thread %s comes to nothing: %s", key[2], key[1], fault(error))  # noqa: TRY400

    async def settled(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._under_way.values())

    async def _entitle(self, said: Sequence[Message], call: ModelCall, model: ModelProvider) -> None:
        questions = [message.content for message in said if message.role == "user"]
        if not questions:
            return
        answer = await self._answer("title", f"{_ENTITLE}\n\n{questions[0]}", 32, call, model)
        title = answer.strip().partition("\n")[0].strip(" \"'*#")[:_TITLE]
        if title:
            await self._tell(call, "title", RenameThread(title=title, untitled=True))

    async def _condense(self, condensing: Condensing, call: ModelCall, model: ModelProvider) -> None:
        data = condensing.outcome(await self._answer("observer", condensing.prompt(), _LONGEST, call, model))
        if data is not None:
            await self._tell(call, f"observe-{data.upto}", data)

    async def _answer(self, who: str, prompt: str, tokens: int, call: ModelCall, model: ModelProvider) -> str:
        sampling = replace(call.sampling, temperature=0.0, max_tokens=tokens)
        message = Message(role="user", content=prompt)
        asking = replace(call, effect=f"{call.effect}.{who}", messages=(message,), tools=(), sampling=sampling)
        return (await model.call(asking, _hear_nothing)).text

    async def _tell(self, call: ModelCall, what: str, data: RenameThread | Observe) -> None:
        # the same for the same outcome: whoever comes to it again is not heard twice
        verb, time = str(data.__struct_config__.tag), rfc3339(self._clock.now())
        command = Command(f"{what}-{call.thread}", call.tenant, "agent", call.thread, verb, data, "observer", time)
        await self._send(command)
