"""Model calls for tests, and how a model elsewhere is reached in them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from actors.models.provider import ModelCall
from actors.models.registry import Reached, Registry, reach
from actors.models.transport import Transport
from schemas.generation import Sampling
from schemas.messages import Message

REGISTRY = Registry.load()
ENVIRONMENT = {
    **{variable: f"key-of-{variable.lower()}" for name in REGISTRY for variable in REGISTRY.named(name).keys[:1]},
    "AZURE_RESOURCE_NAME": "acme",
    "AWS_REGION": "eu-west-3",
    "GOOGLE_VERTEX_PROJECT": "acme",
    "GOOGLE_VERTEX_LOCATION": "europe-west1",
}


def asking(*messages: Message | str, **more: Any) -> ModelCall:
    """A call with some messages; texts are the user's."""
    said = tuple(Message("user", one) if isinstance(one, str) else one for one in messages or ("hi",))
    plain: dict[str, Any] = {"effect": "r1-1-m", "model": "x/y", "tools": (), "sampling": Sampling(max_tokens=64)}
    return ModelCall(**{**plain, "tenant": "acme", "thread": "t1", "messages": said, **more})


def reached(name: str, **changes: Any) -> Reached:
    """A model of a provider, with a key that the tests know."""
    provider, _, model = name.partition("/")
    return reach(provider, REGISTRY.changed({provider: changes}).named(provider), model, ENVIRONMENT)


def sharing(transport: Transport) -> Callable[[], Awaitable[Transport]]:
    """Give a transport to whoever asks for one."""

    async def shared() -> Transport:
        return transport

    return shared
