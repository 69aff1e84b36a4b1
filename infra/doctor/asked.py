"""Checks of what a start is asked to serve: the model and the agents."""

from __future__ import annotations

from collections.abc import Sequence

from infra.agents import load_agents
from infra.checkpoint import is_hub_id, resolve_engine
from infra.configuration import ConfigurationWrong
from infra.doctor.finding import Finding, ok, problem
from infra.errors import AgentsNotFound, CheckpointNotFound
from infra.names import check_names
from infra.settings import Settings


def model(stack: Settings) -> Finding:
    """Look at the model's folder and at what it and its adapters are called; a hub id is not asked for."""
    settings = stack.engine
    try:
        check_names(stack)
        if is_hub_id(settings.model):
            return ok("model", f"{settings.model} is fetched from the hub at the start, as far as it is not here yet")
        resolved = resolve_engine(settings, lambda _: None)
    except CheckpointNotFound as error:
        return problem("model", error.says, error.mend)
    except ConfigurationWrong as error:
        return problem("model", str(error), f"give {error.key} another value")
    blocks = f"{resolved.kv_blocks} KV blocks" if resolved.kv_blocks else "as many KV blocks as fit"
    return ok("model", f"{settings.name}, context {resolved.context_length} tokens, {blocks}")


def agents(places: Sequence[str]) -> Finding:
    """Import the agents as a start does."""
    try:
        found = load_agents(places)
    except AgentsNotFound as error:
        return problem("agents", str(error), "mend it: a start would end with this line")
    return ok("agents", ", ".join(agent.name for agent in found))
