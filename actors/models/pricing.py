"""What calls of models cost, by the prices that are known."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from actors.models.provider import ModelAnswer, ModelCall, ModelProvider, OnText
from actors.models.registry import Registry, paid
from schemas.messages import Usage
from schemas.models import Price
from schemas.programs import ProgramNote


@dataclass(frozen=True)
class Pricing:
    """Prices of models: those of the settings, then those of the providers."""

    registry: Registry
    prices: Mapping[str, Price]
    """By pattern of the names that models are asked by."""

    def cost(self, name: str, usage: Usage) -> float | None:
        """Give what a call cost, US dollars; None where no price is known."""
        for pattern, price in self.prices.items():
            if fnmatch.fnmatchcase(name, pattern):
                return paid(price, usage)
        provider, _, model = name.partition("/")
        found = self.registry.find(provider)
        return None if found is None else found[1].cost(model, usage)

    def known_cost(self, name: str, usage: Usage) -> float:
        """Give what a call cost as far as that is known: 0 where it is not."""
        return self.cost(name, usage) or 0.0


@dataclass(frozen=True)
class Priced:
    """Says of each answer of the model inside what it cost."""

    name: str
    inner: ModelProvider
    pricing: Pricing

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Ask.

        Raises:
            CallFailed: the model inside does.
        """
        return self._priced(await self.inner.call(call, on_text))

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        """Have the model inside search.

        Raises:
            CallFailed: it does.
        """
        return [self._priced(answer) for answer in await self.inner.search(call)]

    async def note(self, note: ProgramNote) -> None:
        """Pass it on."""
        await self.inner.note(note)

    async def abort(self, request: str) -> None:
        """Pass it on."""
        await self.inner.abort(request)

    def _priced(self, answer: ModelAnswer) -> ModelAnswer:
        return replace(answer, cost=self.pricing.cost(self.name, answer.usage))
