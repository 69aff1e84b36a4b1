"""Handing a thread to another agent: what that one is, is fixed while the call is under way, and recorded with it."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from actors.agent.calls import failed
from actors.agent.definition import Agent
from actors.agent.effects import CallTool
from actors.agent.profiles import Unresolved, handed_over, profile_of
from actors.models.asking import missing_model
from actors.models.provider import ModelProvider
from actors.request_context import RequestContext
from actors.runtime.performer import Site
from actors.toolsets import Surroundings, ToolServices
from schemas.runs import Event, ToolReturned


def is_handoff(effect: CallTool) -> bool:
    """Say whether a call hands its thread over."""
    return effect.binding is not None and effect.binding.place == "handoff"


async def hand_over(
    agents: Mapping[str, Agent],
    models: Mapping[str, ModelProvider],
    default_model: str,
    services: ToolServices | None,
    effect: CallTool,
    site: Site,
) -> Event:
    """Fix what the other agent is; the run's bounds and its seed stay what they are."""
    assert effect.binding is not None
    assert effect.asked is not None
    assert effect.profile is not None
    name, there = effect.binding.service, effect.profile
    agent = agents.get(name)
    if agent is None:
        return failed(effect, f"no agent {name!r} is here (there are: {', '.join(sorted(agents)) or 'none'})")
    around = Surroundings(site.tenant, site.thread, RequestContext(effect.context), services)
    try:
        profile = await profile_of(agent, handed_over(effect.asked, agent), around, default_model)
    except Unresolved as error:
        return failed(effect, str(error))
    missing = missing_model(profile, models)
    if missing is not None:
        return failed(effect, missing.message)
    bounds = {field: getattr(there, field) for field in ("max_steps", "most_tokens", "most_cost", "edition")}
    profile = replace(profile, sampling=replace(profile.sampling, seed=there.sampling.seed), **bounds)
    content = f"The conversation is {name}'s from here on."
    return ToolReturned(effect.id, effect.called.call.id, content, handover=profile)
