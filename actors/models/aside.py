"""Asks a model something beside a run's own calls: a generation of its own that nobody hears, and that is counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from actors.errors import CallFailed
from actors.models.asking import unknown_model
from actors.models.provider import ModelAnswer, ModelCall, ModelProvider, Piece
from schemas.generation import Sampling
from schemas.messages import Message, Usage, added

log = logging.getLogger(__name__)

_STOP_S = 5.0
"""How long an engine may take to stop what nobody waits for."""

Around = Callable[[ModelProvider], Awaitable[ModelProvider]]


class Ask(Protocol):
    """Asks a model."""

    async def __call__(self, who: str, prompt: str, sampling: Sampling, model: str = "") -> ModelAnswer:
        """Ask.

        Args:
            who: names the call among those of one asker: each by a name of its own.
            prompt: what is asked.
            sampling: how.
            model: which one; empty is whoever is asked otherwise.

        Raises:
            CallFailed: the model failed.
        """


class Asker:
    """An `Ask` for the sake of one effect; what its calls took is added up."""

    def __init__(self, models: Mapping[str, ModelProvider], call: ModelCall, around: Around | None = None) -> None:
        """Ask beside an effect.

        Args:
            models: by their names.
            call: what all calls have in common; its effect and its model among that.
            around: puts around a model what goes around whatever is asked there; nothing does, unless given.
        """
        self._models = models
        self._call = call
        self._around = around
        self.used = Usage()
        self.paid: float | None = 0.0
        """US dollars; None where a price is not known."""
        self.by = dict[str, Usage]()
        """What each model took: the one that answered, or that was asked where none did."""
        self._open = dict[str, ModelProvider]()
        """By request: calls whose end nobody has heard, also where whoever asked does not wait any more."""

    async def __call__(self, who: str, prompt: str, sampling: Sampling, model: str = "") -> ModelAnswer:
        """Ask."""
        name = model or self._call.model
        if name not in self._models:
            raise CallFailed(unknown_model(name, self._models))
        fields = {name: getattr(self._call, name) for name in self._call.__struct_fields__}
        about = {"effect": f"{self._call.effect}.{who}", "model": name, "messages": (Message("user", prompt),)}
        model_of = self._models[name] if self._around is None else await self._around(self._models[name])
        call = ModelCall(**{**fields, **about, "sampling": sampling})
        self._open[call.request] = self._models[name]
        try:
            answer = await model_of.call(call, _unheard)
        except CallFailed as failure:
            self._open.pop(call.request, None)
            self._count(name, failure.usage, failure.cost)
            raise
        self._open.pop(call.request, None)
        self._count(answer.engine or name, answer.usage, answer.cost)
        return answer

    async def abort(self) -> None:
        """Stop the calls that have not ended: nobody waits for them any more."""
        going, self._open = self._open, {}
        for request, model in going.items():
            try:
                async with asyncio.timeout(_STOP_S):
                    await model.abort(request)
            except TimeoutError:
                log.warning("%s goes on in the engine: it could not be stopped", request)

    def _count(self, model: str, usage: Usage, cost: float | None) -> None:
        self.used, self.paid = self.used + usage, added(self.paid, cost)
        if usage != Usage():
            self.by[model] = self.by.get(model, Usage()) + usage


async def _unheard(_piece: Piece, /) -> None:
    """Take no text."""
