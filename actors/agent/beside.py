"""What an agent's own functions ask a model with, beside the run's calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from actors.agent.effects import PrepareStep
from actors.agent.toolboxes import Toolboxes
from actors.models.aside import Asker
from actors.models.provider import ModelCall, ModelProvider
from actors.processors.guarded import Guarded
from actors.runtime.performer import Site
from schemas.generation import request_id
from schemas.programs import program_id


class Askers:
    """Those of the functions that are called just now."""

    def __init__(self, models: Mapping[str, ModelProvider], toolboxes: Toolboxes) -> None:
        self._models = models
        self._toolboxes = toolboxes
        self._asking = dict[str, Asker]()

    @contextmanager
    def of(self, effect: PrepareStep, site: Site, again: bool) -> Iterator[Asker]:
        """Give what asks: the processors that go around everything go around that, too."""
        run, name = effect.run, request_id(site.tenant, site.thread, effect.id)

        async def around(model: ModelProvider) -> ModelProvider:
            box = await self._toolboxes.of(run.profile, run.id, site, effect.context)
            everywhere = [one for one in box.guards(run.profile.processors) if one.everywhere]
            return Guarded(model, everywhere, first=False, models=self._models)

        asker = self._asking[name] = Asker(self._models, _call_beside(effect, site, again), around)
        try:
            yield asker
        finally:
            if self._asking.get(name) is asker:
                del self._asking[name]

    async def abort(self, effect: PrepareStep, site: Site) -> None:
        """Stop what is asked for the sake of functions that nobody waits for any more."""
        asker = self._asking.get(request_id(site.tenant, site.thread, effect.id))
        if asker is not None:
            await asker.abort()


def _call_beside(effect: PrepareStep, site: Site, again: bool) -> ModelCall:
    """Make what calls have in common that an agent's functions ask for."""
    profile = effect.run.profile
    return ModelCall(
        effect=effect.id,
        model=profile.model,
        messages=(),
        tools=(),
        sampling=profile.sampling,
        tenant=site.tenant,
        thread=site.thread,
        traceparent=effect.traceparent,
        program=program_id(site.tenant, site.thread),
        agent=profile.agent,
        again=again,
        root=None if effect.parent is None else effect.parent.first,
    )
