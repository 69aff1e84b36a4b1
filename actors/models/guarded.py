"""A model behind a circuit breaker."""

from __future__ import annotations

from dataclasses import dataclass

from actors.errors import CallFailed, ProviderFailed
from actors.models.breaker import Breaker
from actors.models.provider import ModelAnswer, ModelCall, ModelProvider, OnText
from schemas.programs import ProgramNote
from schemas.runs import Problem


@dataclass(frozen=True)
class Guarded:
    """Asks the model inside, unless it failed too often of late."""

    name: str
    inner: ModelProvider
    breaker: Breaker

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Ask, and keep count.

        Raises:
            ProviderFailed: the breaker is open; or what the model inside raises.
        """
        wait = self.breaker.closed_in_ms()
        if wait:
            message = f"{self.name} failed too often: it is left alone for {wait / 1000:g} s more"
            problem = Problem(kind="overloaded", message=message, retry_after_ms=wait)
            raise ProviderFailed(problem, elsewhere=True)
        try:
            answer = await self.inner.call(call, on_text)
        except ProviderFailed as failure:
            if failure.elsewhere:
                self.breaker.missed(failure.problem.retry_after_ms)
            else:
                self.breaker.heard()
            raise
        except BaseException:
            self.breaker.left()
            raise
        self.breaker.heard()
        return answer

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        """Have the model inside search.

        Raises:
            CallFailed: it does.
        """
        return await self.inner.search(call)

    async def note(self, note: ProgramNote) -> None:
        """Pass it on."""
        await self.inner.note(note)

    async def abort(self, request: str) -> None:
        """Pass it on."""
        await self.inner.abort(request)


def elsewhere(failure: CallFailed) -> bool:
    """Say whether another model may answer what this one did not."""
    if isinstance(failure, ProviderFailed):
        return failure.elsewhere
    return failure.problem.kind in {"overloaded", "timeout", "engine"}
