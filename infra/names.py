"""What clients may give as `model`: no two things that a stack serves go by one name."""

from __future__ import annotations

from collections.abc import Iterator

from actors.models.registry import Registry
from actors.models.router import LOCAL
from infra.bridge.openai import AGENT_PREFIX
from infra.configuration import ConfigurationWrong
from infra.settings import Settings

_KEY = "engine.adapters"


def check_names(settings: Settings) -> None:
    """See that no adapter is called what something else is called.

    Raises:
        ConfigurationWrong: one is; names both and the mend.
    """
    for name in settings.engine.adapters:
        other = next(_others(settings, name), None)
        if other is not None:
            raise ConfigurationWrong(_KEY, _KEY, f"{name!r} {other}: name the adapter otherwise")


def _others(settings: Settings, name: str) -> Iterator[str]:
    """Say what else a name stands for."""
    if not name.strip():
        yield "is no name"
    if name == settings.engine.name:
        yield "is what the model is called (engine.name)"
    if settings.pooling.model and name == settings.pooling.served_name:
        yield "is what the model that gives vectors is called (pooling.name)"
    if name in settings.models.chains:
        yield "is a chain of models (models.chains)"
    provider, slash, model = name.partition("/")
    if name.startswith((AGENT_PREFIX, LOCAL)):
        yield f"would be taken for what is called {model!r} itself"
    elif slash and model and Registry.load(settings.models.providers).find(provider) is not None:
        yield f"would be taken for a model of the provider {provider!r}"
