"""Routes that say what runs here."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from infra.bridge.desk import Desk
from infra.bridge.doors import Door
from infra.bridge.openai import AGENT_PREFIX, BadRequest
from schemas.about import LoadTold, Models, ModelShown, VersionTold
from schemas.times import rfc3339

VERSION: Final = importlib.metadata.version("ostinato")


@dataclass(frozen=True)
class _About:
    desk: Desk
    since: int
    """When the models here were loaded, in seconds since the Unix epoch."""

    async def version(self, request: Request) -> Response:
        """Say which version it is."""
        return _json(VersionTold(VERSION))

    async def load(self, request: Request) -> Response:
        """Say how many requests are under way."""
        return _json(LoadTold(len(self.desk.under_way)))

    async def models(self, request: Request) -> Response:
        """List what may be given as `model`."""
        listed = [about_model(self.desk, name, self.since) for name in names_of(self.desk)]
        return _json(Models(listed, has_more=False))

    async def model(self, request: Request) -> Response:
        """Tell of one thing that may be given as `model`."""
        name = request.path_params["model"]
        if name not in names_of(self.desk):
            raise BadRequest(404, f"model {name[:100]!r} is not among those listed", "model", "model_not_found")
        return _json(about_model(self.desk, name, self.since))


def names_of(desk: Desk) -> list[str]:
    """List what may be given as `model`: what is served here, then what is elsewhere, then agents."""
    return [*desk.models, *desk.adapters, *desk.poolers, *desk.routed, *(AGENT_PREFIX + agent for agent in desk.agents)]


def about_model(desk: Desk, name: str, since: int) -> ModelShown:
    """Tell of a model, to clients of OpenAI's and of Anthropic's API; of one with an adapter, whose it is."""
    provider, _, model = name.partition("/")
    owner = provider if model and provider != AGENT_PREFIX.rstrip("/") else "ostinato"
    parent = desk.models[0] if name in desk.adapters else UNSET
    return ModelShown(name, since, owner, "model", name, rfc3339(since * 1_000_000), parent)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def about_doors(desk: Desk) -> list[Door]:
    """List them."""
    about = _About(desk, desk.seconds())
    return [
        Door("/v1/models", about.models, "inference", "agents"),
        Door("/version", about.version, "inference", "agents", "metrics", "admin"),
        Door("/load", about.load, "inference", "metrics", "admin"),
        Door("/v1/models/{model:path}", about.model, "inference", "agents"),
    ]
