"""The form of an answer, said in words to a model whose provider can bind it to none."""

from __future__ import annotations

from msgspec.structs import replace

from actors.models.provider import ModelCall
from actors.models.registry import Provider
from schemas.messages import Message


def in_words(schema: str) -> str:
    """Ask for a schema's JSON."""
    return f"Answer with a JSON object that fits this JSON Schema:\n{schema}"


def formed(call: ModelCall, provider: Provider) -> ModelCall:
    """Ask in words for what whoever calls reads and has mended; leave a form that must hold to be refused."""
    wanted = call.sampling.structured
    if wanted is None or provider.structured != "none" or (wanted.kind, wanted.field) != ("json_schema", "output_type"):
        return call
    asked = Message("system", in_words(wanted.text))
    return replace(call, messages=(asked, *call.messages), sampling=replace(call.sampling, structured=None))
