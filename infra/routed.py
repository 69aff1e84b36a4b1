"""The models elsewhere that a stack can be asked for by name: those that its settings and agents name, and those whose
price is known of a provider whose key is at hand.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from actors.agent.definition import Agent
from actors.errors import CallFailed
from actors.models.registry import Registry, reach
from actors.models.router import LOCAL
from infra.settings import ModelSettings
from schemas.models import ModelChain, ModelEntry

_PATTERN = frozenset("*?[")


def routed_models(
    settings: ModelSettings, agents: Sequence[Agent], environment: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """Name them, chains first; what lacks a key is none."""
    registry = Registry.load(settings.providers)

    def can_be_asked(name: str) -> bool:
        return "/" not in name or name.startswith(LOCAL) or _reached(registry, name, environment)

    chains = [name for name, entries in settings.chains.items() if all(map(can_be_asked, map(_model_of, entries)))]
    names = [name for name in _named(settings, agents) if "/" in name and not name.startswith(LOCAL)]
    return tuple(dict.fromkeys([*chains, *filter(can_be_asked, [*names, *_priced(registry)])]))


def _model_of(entry: str | ModelEntry) -> str:
    return entry if isinstance(entry, str) else entry.model


def _named(settings: ModelSettings, agents: Sequence[Agent]) -> Iterator[str]:
    if settings.default:
        yield settings.default
    for entries in settings.chains.values():
        yield from map(_model_of, entries)
    for agent in agents:
        if isinstance(agent.model, str):
            yield agent.model
        elif isinstance(agent.model, ModelChain):
            yield from map(_model_of, agent.model.entries)


def _priced(registry: Registry) -> Iterator[str]:
    for provider in registry:
        for model in registry.named(provider).prices:
            if not _PATTERN & set(model):
                yield f"{provider}/{model}"


def _reached(registry: Registry, name: str, environment: Mapping[str, str]) -> bool:
    provider, _, model = name.partition("/")
    found = registry.find(provider)
    if found is None or not model:
        return False
    own, entry = found
    if entry.auth == "aws" and not environment.get("AWS_ACCESS_KEY_ID"):
        return False
    try:
        reach(own, entry, model, environment)
    except CallFailed:
        return False
    return True
