"""An engine's model with an adapter, as a model of its own."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from actors.models.provider import ModelAnswer, ModelCall, ModelProvider, OnText
from schemas.programs import ProgramNote


@dataclass(frozen=True)
class Adapted:
    """Asks the model inside to compute with one of its adapters."""

    adapter: str
    inner: ModelProvider

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Ask.

        Raises:
            CallFailed: the model inside does.
        """
        return await self.inner.call(self._adapted(call), on_text)

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        """Have the model inside search.

        Raises:
            CallFailed: the model inside does.
        """
        return await self.inner.search(self._adapted(call))

    async def note(self, note: ProgramNote) -> None:
        """Pass it on."""
        await self.inner.note(note)

    async def abort(self, request: str) -> None:
        """Pass it on."""
        await self.inner.abort(request)

    def _adapted(self, call: ModelCall) -> ModelCall:
        return replace(call, sampling=replace(call.sampling, adapter=self.adapter))
