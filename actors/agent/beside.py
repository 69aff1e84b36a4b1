"""What an agent's own functions ask a model with, beside the run's calls."""

from __future__ import annotations

from collections.abc import Mapping

from actors.agent.effects import PrepareStep
from actors.agent.toolboxes import Toolboxes
from actors.models.aside import Asker
from actors.models.provider import ModelCall, ModelProvider
from actors.processors.guarded import Guarded
from actors.runtime.performer import Site
from schemas.programs import program_id


def asker_of(models: Mapping[str, ModelProvider], toolboxes: Toolboxes, effect: PrepareStep, site: Site) -> Asker:
    """Give what asks: the processors that go around everything go around that, too."""
    run = effect.run

    async def around(model: ModelProvider) -> ModelProvider:
        box = await toolboxes.of(run.profile, run.id, site, effect.context)
        everywhere = [one for one in box.guards(run.profile.processors) if one.everywhere]
        return Guarded(model, everywhere, first=False, models=models)

    return Asker(models, _call_beside(effect, site), around)


def _call_beside(effect: PrepareStep, site: Site) -> ModelCall:
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
    )
