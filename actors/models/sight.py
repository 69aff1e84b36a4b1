"""Who sees pictures: providers that take them are shown them whole, everybody else is asked about none."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from msgspec.structs import replace

from actors.errors import CallFailed, ProviderFailed
from actors.models.history import last_asked
from actors.models.provider import ModelAnswer, ModelCall, ModelProvider, OnText
from bus.errors import LogDamaged
from bus.pictures import BadPicture
from schemas.messages import Image, Message
from schemas.programs import ProgramNote
from schemas.runs import Problem

log = logging.getLogger(__name__)

LOST = "[an image that was shown here is lost]"
"""What stands for a picture of an earlier turn that cannot be had any more."""
Show = Callable[[Image], Awaitable[Image]]
"""Gives a picture with its bytes, as a `data:` address; as `bus.pictures.Pictures.shown`."""


async def as_it_is(image: Image) -> Image:
    """Give a picture as it is: where none are kept."""
    return image


async def with_pictures(call: ModelCall, show: Show) -> ModelCall:
    """Give a call whose pictures are there whole; of an earlier turn's that is lost, the model is told in words.

    Raises:
        CallFailed: one that is shown in this turn cannot be had.
        Unavailable: no JetStream.
        TimeoutError: no answer.
    """
    if not any(message.images for message in call.messages):
        return call
    asked = last_asked(call.messages)
    try:
        messages = [
            await _shown(message, show, earlier=index < asked) if message.images else message
            for index, message in enumerate(call.messages)
        ]
    except (BadPicture, LogDamaged) as error:
        problem = Problem(kind="invalid", message=f"messages: an image cannot be shown: {error}", field="messages")
        raise CallFailed(problem) from error
    return replace(call, messages=tuple(messages))


async def _shown(message: Message, show: Show, *, earlier: bool) -> Message:
    content, images = message.content, list[Image]()
    for image in message.images:
        try:
            images.append(await show(image))
        except LogDamaged as error:
            if not earlier:
                raise
            log.warning("an earlier turn's image is lost: %s", error)
            place = max(0, len(content) - image.rest)
            content = f"{content[:place]}{LOST}{content[place:]}"
            images = [replace(one, rest=one.rest + len(LOST)) for one in images]
    return replace(message, content=content, images=tuple(images))


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
