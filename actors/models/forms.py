"""The form of an answer, said in words to a model whose provider can bind it to none, or refuses to."""

from __future__ import annotations

import re

from msgspec.structs import replace

from actors.models.provider import ModelCall
from actors.models.registry import Provider
from schemas.messages import Message
from schemas.runs import Problem

_OF_FORM = re.compile(r"schema|structured|response.?format|output.?(format|config)|grammar|json", re.IGNORECASE)


def in_words(schema: str) -> str:
    """Ask for a schema's JSON."""
    return f"Answer with a JSON object that fits this JSON Schema:\n{schema}"


def formed(call: ModelCall, provider: Provider) -> ModelCall:
    """Ask in words for what whoever calls reads and has mended; leave a form that must hold to be refused."""
    return worded(call) if provider.structured == "none" and is_read(call) else call


def is_read(call: ModelCall) -> bool:
    """Say whether whoever calls reads the answer by its schema, and has one mended that does not fit."""
    wanted = call.sampling.structured
    return wanted is not None and (wanted.kind, wanted.field) == ("json_schema", "output_type")


def worded(call: ModelCall) -> ModelCall:
    """Ask in words for the form that a call wants."""
    wanted = call.sampling.structured
    assert wanted is not None, "no form is wanted"
    asked = Message("system", in_words(wanted.text))
    return replace(call, messages=(asked, *call.messages), sampling=replace(call.sampling, structured=None))


def is_of_form(problem: Problem) -> bool:
    """Say whether a provider may have refused a call for the form that it wants."""
    return problem.kind == "invalid" and _OF_FORM.search(problem.message) is not None
