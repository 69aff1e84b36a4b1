"""Who sees pictures: providers that take them are shown them whole, everybody else is asked about none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from msgspec.structs import replace

from actors.errors import CallFailed, ProviderFailed
from actors.models.provider import ModelAnswer, ModelCall, ModelProvider, OnText
from bus.errors import LogDamaged
from bus.pictures import BadPicture
from schemas.messages import Image
from schemas.programs import ProgramNote
from schemas.runs import Problem

Show = Callable[[Image], Awaitable[Image]]
"""Gives a picture with its bytes, as a `data:` address; as `bus.pictures.Pictures.shown`."""


async def as_it_is(image: Image) -> Image:
    """Give a picture as it is: where none are kept."""
    return image


async def with_pictures(call: ModelCall, show: Show) -> ModelCall:
    """Give a call whose pictures are there whole.

    Raises:
        CallFailed: one cannot be had any more.
        Unavailable: no JetStream.
        TimeoutError: no answer.
    """
    if not any(message.images for message in call.messages):
        return call
    try:
        messages = [
            replace(message, images=tuple([await show(image) for image in message.images]))
            if message.images
            else message
            for message in call.messages
        ]
    except (BadPicture, LogDamaged) as error:
        problem = Problem(kind="invalid", message=f"messages: an image cannot be shown: {error}", field="messages")
        raise CallFailed(problem) from error
    return replace(call, messages=tuple(messages))


@dataclass(frozen=True)
class Unseeing:
    """Asks the model inside about texts alone."""

    name: str
    inner: ModelProvider

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Ask.

        Raises:
            ProviderFailed: there are pictures.
            CallFailed: the model inside does.
        """
        self._check(call)
        return await self.inner.call(call, on_text)

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        """Have the model inside search.

        Raises:
            ProviderFailed: there are pictures.
            CallFailed: the model inside does.
        """
        self._check(call)
        return await self.inner.search(call)

    async def note(self, note: ProgramNote) -> None:
        """Pass it on."""
        await self.inner.note(note)

    async def abort(self, request: str) -> None:
        """Pass it on."""
        await self.inner.abort(request)

    def _check(self, call: ModelCall) -> None:
        if any(message.images for message in call.messages):
            message = f"messages: model {self.name!r} sees no images: send texts alone, or ask a model that does"
            raise ProviderFailed(Problem(kind="invalid", message=message, field="messages"), elsewhere=True)
