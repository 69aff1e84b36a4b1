"""Asks a thread's model to condense its older messages, until the time at which that is given up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from msgspec.structs import replace

from actors.agent.condensing import Condense
from actors.agent.toolboxes import Toolboxes
from actors.errors import CallFailed, DefinitionError
from actors.memory.observing import condensing_prompt
from actors.models.asking import chain_of, unknown_model
from actors.models.chain import Chained
from actors.models.provider import ModelAnswer, ModelCall, ModelProvider
from actors.processors.guarded import Guarded, hear_nothing
from actors.runtime.performer import Site
from bus.errors import BusError
from schemas.context import Clock
from schemas.faults import fault
from schemas.generation import Sampling
from schemas.memory import LONGEST_OBSERVATION, CondensingEnded
from schemas.messages import Message
from schemas.programs import program_id
from schemas.runs import Problem
from schemas.times import rfc3339

log = logging.getLogger(__name__)

_LONGEST = 1000
"""Tokens of what is condensed."""
_STOP_S = 5.0
"""How long the engine may take to stop what was given up."""


class Condenser:
    """Performs `Condense`."""

    def __init__(self, models: Mapping[str, ModelProvider], toolboxes: Toolboxes, clock: Clock) -> None:
        self._models = models
        self._toolboxes = toolboxes
        self._clock = clock

    async def condense(self, effect: Condense, site: Site, again: bool) -> CondensingEnded:
        """Ask for observations; whatever comes of it is an event."""
        try:
            answer = await self._in_time(effect, site, again)
        except CallFailed as failure:
            return replace(_without(effect, failure.problem, self._now), usage=failure.usage, cost=failure.cost)
        except DefinitionError as error:
            return _without(effect, Problem(kind="definition", message=str(error)), self._now)
        except BusError:
            raise
        except Exception as error:  # noqa: BLE001  whatever comes of it is an event
            log.error("the provider of model %r broke: %s", effect.profile.model, fault(error))  # noqa: TRY400
            message = f"the provider broke ({type(error).__name__})"
            return _without(effect, Problem(kind="engine", message=message), self._now)
        text = answer.text.strip()[:LONGEST_OBSERVATION]
        nothing = Problem(kind="engine", message="the model said nothing")
        ended = _ended(effect, self._now, text=text) if text else _without(effect, nothing, self._now)
        return replace(ended, usage=answer.usage, cost=answer.cost, engine=answer.engine)

    async def abort(self, effect: Condense, site: Site) -> None:
        """Stop what nobody waits for any more."""
        await self._stop(effect, _call_of(effect, site, again=True))

    async def _in_time(self, effect: Condense, site: Site, again: bool) -> ModelAnswer:
        """Ask, and stop it when it is to be given up.

        Raises:
            CallFailed: there is no answer, or none in time.
            DefinitionError: a processor that goes around it is not here.
        """
        call, left = _call_of(effect, site, again), effect.begun.at - self._clock.now()
        limit = asyncio.timeout(max(0, left) / 1e6)
        try:
            async with limit:
                return await self._asked(effect, call, site)
        except TimeoutError:
            if not limit.expired():
                raise
        await self._stop(effect, call)
        seconds = (effect.begun.at - effect.begun.decided) / 1e6
        raise CallFailed(Problem(kind="timeout", message=f"it took longer than {seconds:g} s"))

    async def _asked(self, effect: Condense, call: ModelCall, site: Site) -> ModelAnswer:
        if call.model not in self._models:
            raise CallFailed(unknown_model(call.model, self._models))
        box = await self._toolboxes.of(effect.profile, effect.begun.run, site, effect.context)
        processors = [one for one in box.guards(effect.profile.processors) if one.everywhere]
        guarded = Guarded(self._model(call), processors, first=False, models=self._models)
        return await guarded.call(call, hear_nothing)

    def _model(self, call: ModelCall) -> ModelProvider:
        return self._models[call.model] if call.chain is None else Chained(call.chain, self._models)

    async def _stop(self, effect: Condense, call: ModelCall) -> None:
        if call.model not in self._models:
            return
        try:
            async with asyncio.timeout(_STOP_S):
                await self._model(call).abort(call.request)
        except TimeoutError:
            log.warning("%s goes on in the engine: it could not be stopped", effect.id)

    @property
    def _now(self) -> str:
        return rfc3339(self._clock.now())


def _ended(effect: Condense, at: str, text: str = "", kind: str = "", reason: str = "") -> CondensingEnded:
    begun = effect.begun
    place = (effect.id, begun.first, begun.upto)
    return CondensingEnded(*place, text=text, at=at, whole=begun.whole, kind=kind, reason=reason)


def _without(effect: Condense, problem: Problem, at: str) -> CondensingEnded:
    return _ended(effect, at, kind=problem.kind, reason=problem.message)


def _call_of(effect: Condense, site: Site, again: bool) -> ModelCall:
    """Make the call: of what the run asks of its answers, such as a form, nothing holds."""
    profile = effect.profile
    assert profile.memory is not None
    prompt = condensing_prompt(profile.memory, effect.messages, effect.observations, effect.begun.whole)
    return ModelCall(
        effect=effect.id,
        model=profile.memory.model or profile.model,
        messages=(Message(role="user", content=prompt),),
        tools=(),
        sampling=Sampling(seed=profile.sampling.seed, max_tokens=_LONGEST),
        tenant=site.tenant,
        thread=site.thread,
        traceparent=effect.traceparent,
        deadline=effect.begun.at,
        program=program_id(site.tenant, site.thread),
        agent=profile.agent,
        chain=None if profile.memory.model else chain_of(profile, profile.model),
        again=again,
        root=None if effect.parent is None else effect.parent.first,
    )
