"""Requests that come again: an `Idempotency-Key` names a run, and the same request with it is the same run.

The first that is accepted has the key. Whoever else comes with it, later or at the same time, by this bridge or
another, hears of that run where it asks for the same, and is refused where it asks for something else.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace
from starlette.requests import Request

from actors.runtime.context import SystemChance
from bus.blobs import Blobs
from bus.pictures import Pictures
from infra.bridge.callers import caller_of
from infra.bridge.desk import Desk
from infra.bridge.openai import BadRequest
from schemas import codec
from schemas.commands import Command, RunAgent
from schemas.live import Committed, Frame, Outcome
from schemas.messages import Image
from schemas.runs import CommandAccepted

KEY: Final = "idempotency-key"
_LONGEST: Final = 255
_LOOKS, _LOOK_S = 40, 0.05
"""The record is a moment behind what clients have heard."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """What the record says of requests with keys."""

    desk: Desk

    def named(self, request: Request, command: Command, where: str | None) -> Command:
        """Give a command the name that its request's key makes, in a thread or a new one; without a key its own.

        Raises:
            BadRequest: the key cannot be one.
        """
        key = request.headers.get(KEY, "")
        if not key:
            return command
        if len(key) > _LONGEST:
            raise BadRequest(400, f"header {KEY}: longer than {_LONGEST} characters", KEY, "invalid_value")
        whose = filter(None, [caller_of(request).resource])  # persons need not know of each other's keys
        digest = hashlib.blake2b(codec.encode([command.tenant, where, key, *whose]), digest_size=12).hexdigest()
        return replace(command, id=f"r{digest}", thread=where or f"t{digest}")

    async def accepted(self, tenant: str, thread: str, run: str) -> Command | None:
        """Find the command of a run; None where none was accepted, as far as is recorded, or its thread was deleted."""
        found = await self._found(tenant, thread, run)
        return None if found is None or codec.is_erased(found) else _command(found)

    async def earlier(self, command: Command) -> Command | None:
        """Find the command that has this one's name already, and asks for the same.

        Raises:
            BadRequest: it asks for something else, or nobody can say any more for what: 409.
        """
        found = await self._found(command.tenant, command.thread, command.id)
        if found is None:
            return None
        if codec.is_erased(found):
            raise _deleted()
        earlier = _command(found)
        if await self._asked(earlier) != await self._asked(command):
            raise BadRequest(409, f"header {KEY}: another request had this one: use a new one", KEY, "key_in_use")
        return earlier

    async def known(self, frames: AsyncGenerator[Frame]) -> AsyncGenerator[Frame]:
        """Pass on the frames of the run that the same request began before.

        Raises:
            BadRequest: its thread is deleted meanwhile: 409.
        """
        async with aclosing(frames):
            async for frame in frames:
                if isinstance(frame, Committed) and codec.is_erased(frame.data):
                    raise _deleted()
                yield frame

    async def checked(self, frames: AsyncGenerator[Frame], command: Command) -> AsyncGenerator[Frame]:
        """Pass a run's frames on, once it is certain that it is what this command asks for.

        Raises:
            BadRequest: another request with the same key was accepted meanwhile: 409.
        """
        certain = False
        async with aclosing(frames):
            async for frame in frames:
                refused = isinstance(frame, Outcome) and frame.problem is not None
                if not certain and not refused:
                    certain = True
                    await self._check_own(command)
                yield frame

    async def _check_own(self, command: Command) -> None:
        """Wait until the record says whose a key is; where it is long behind, nobody is kept waiting for that.

        Raises:
            BadRequest: another request's: 409.
        """
        for _ in range(_LOOKS):
            if await self.earlier(command) is not None:
                return
            await asyncio.sleep(_LOOK_S)

    async def _found(self, tenant: str, thread: str, run: str) -> Any:
        for event in await self.desk.read_back(tenant, thread, "thread", thread, 0):
            if event.type == "command.accepted" and event.cause == run:
                return event.data
        return None

    async def _asked(self, command: Command) -> Any:
        """Give what a command asks for: whenever, and wherever its pictures are kept."""
        data = command.data
        if not isinstance(data, RunAgent):
            return data
        shown = [
            replace(one, images=tuple([await self._shown(image) for image in one.images])) for one in data.messages
        ]
        return replace(data, deadline=0, messages=tuple(shown))

    async def _shown(self, image: Image) -> Image:
        pictures = Pictures(Blobs(self.desk.connection), SystemChance(), self.desk.ids)
        return replace(await pictures.shown(image), size=0, media_type="")


def _deleted() -> BadRequest:
    message = f"header {KEY}: the thread of the request that had this one was deleted: use a new one"
    return BadRequest(409, message, KEY, "key_in_use")


def _command(data: Any) -> Command:
    accepted: CommandAccepted = codec.decode(data, CommandAccepted)
    return accepted.command
