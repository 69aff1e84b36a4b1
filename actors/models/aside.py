"""Asks a model something beside a run's own calls: a generation of its own that nobody hears, and that is counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from actors.errors import CallFailed
from actors.models.asking import unknown_model
from actors.models.provider import ModelAnswer, ModelCall, ModelProvider, Piece
from schemas.generation import Sampling
from schemas.messages import Message, Usage, added

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

    async def __call__(self, who: str, prompt: str, sampling: Sampling, model: str = "") -> ModelAnswer:
        """Ask."""
        name = model or self._call.model
        if name not in self._models:
            raise CallFailed(unknown_model(name, self._models))
        fields = {name: getattr(self._call, name) for name in self._call.__struct_fields__}
        about = {"effect": f"{self._call.effect}.{who}", "model": name, "messages": (Message("user", prompt),)}
        model_of = self._models[name] if self._around is None else await self._around(self._models[name])
        try:
            answer = await model_of.call(ModelCall(**{**fields, **about, "sampling": sampling}), _unheard)
        except CallFailed as failure:
            self._count(name, failure.usage, failure.cost)
            raise
        self._count(answer.engine or name, answer.usage, answer.cost)
        return answer

    def _count(self, model: str, usage: Usage, cost: float | None) -> None:
        self.used, self.paid = self.used + usage, added(self.paid, cost)
        if usage != Usage():
            self.by[model] = self.by.get(model, Usage()) + usage


async def _unheard(_piece: Piece, /) -> None:
    """Take no text."""
