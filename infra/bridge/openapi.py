"""The OpenAPI document of all routes, made of the types that they take and give.

OpenAPI 3.1.1, whose schemas are JSON Schema 2020-12.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from infra.bridge.doors import Door, Operation, Wing
from schemas.agui import AguiInput
from schemas.anthropic import MessagesRequest
from schemas.completions import CompletionRequest
from schemas.embeddings import ClassifyRequest, EmbeddingRequest, PoolingRequest, RerankRequest, ScoreRequest
from schemas.openai import ChatRequest, ErrorResponse
from schemas.responses import ResponsesRequest
from schemas.tokenizing import DetokenizeRequest, TokenizeRequest
from schemas.uimessages import ChatAsked

_REF: Final = "#/components/schemas/{name}"
_PARAMETER: Final = re.compile(r"{(\w+)(?::\w+)?}")

OTHERS: Final[Mapping[tuple[str, str], Operation]] = {
    ("POST", "/v1/chat/completions"): Operation("OpenAI: chat completions", ChatRequest, streams=True),
    ("POST", "/v1/completions"): Operation("OpenAI: completions", CompletionRequest, streams=True),
    ("POST", "/v1/responses"): Operation("OpenAI: create a response", ResponsesRequest, streams=True),
    ("GET", "/v1/responses/{response_id}"): Operation("OpenAI: tell how a response stands"),
    ("POST", "/v1/responses/{response_id}/cancel"): Operation("OpenAI: end a response"),
    ("POST", "/v1/messages"): Operation("Anthropic: create a message", MessagesRequest, streams=True, own=True),
    ("POST", "/v1/messages/count_tokens"): Operation("Anthropic: count tokens", MessagesRequest, own=True),
    ("POST", "/v1/embeddings"): Operation("OpenAI: vectors of texts", EmbeddingRequest),
    ("POST", "/tokenize"): Operation("vLLM: a text's tokens", TokenizeRequest),
    ("POST", "/detokenize"): Operation("vLLM: tokens' text", DetokenizeRequest),
    ("POST", "/ag-ui/{agent}"): Operation("AG-UI: run an agent", AguiInput, streams=True),
    ("POST", "/classify"): Operation("vLLM: the chances of labels", ClassifyRequest),
    ("POST", "/pooling"): Operation("vLLM: what a model makes of texts", PoolingRequest),
    ("POST", "/ag-ui/{agent}/threads/{thread_id}/stop"): Operation("AG-UI: end a thread's run", empty=True),
    ("GET", "/v1/models"): Operation("List what may be given as `model`"),
    ("GET", "/health"): Operation("Say whether all is well: 503 where it is not"),
    ("GET", "/metrics"): Operation("Metrics, for Prometheus", media="text/plain"),
    **{
        (method, f"{path}/{{chat_id}}/{verb}"): Operation(summary, empty=True)
        for path in ("/api/chat", "/api/agents/{agent}/chat")
        for method, verb, summary in (
            ("GET", "stream", "AI SDK: tell what is under way in a conversation"),
            ("POST", "stop", "AI SDK: end the run of a conversation"),
        )
    },
    **{
        ("POST", path): Operation("AI SDK: go on with a conversation", ChatAsked, streams=True)
        for path in ("/api/chat", "/api/agents/{agent}/chat")
    },
    **{("POST", path): Operation("vLLM: score pairs of texts", ScoreRequest) for path in ("/score", "/v1/score")},
    **{
        ("POST", path): Operation("Put documents in order", RerankRequest)
        for path in ("/rerank", "/v1/rerank", "/v2/rerank")
    },
}
"""Of routes whose protocols are described elsewhere: their bodies, and what they are for."""


def openapi_door(doors: Sequence[Door | Wing], version: str) -> Door:
    """Make the route that tells of all routes, itself too."""
    told: list[bytes] = []

    async def tell(request: Request) -> Response:
        """Tell of all routes."""
        if not told:
            told.append(msgspec.json.encode(document([*doors, door], version)))
        return Response(told[0], media_type="application/json")

    door = Door("/openapi.json", tell, operation=Operation("Tell of all routes: this document"))
    return door


def document(doors: Sequence[Door | Wing], version: str) -> dict[str, Any]:
    """Make the document of some routes."""
    plain = [door for door in doors if isinstance(door, Door)]
    shapes = _shapes(plain)
    refs, components = msgspec.json.schema_components([*shapes, ErrorResponse], ref_template=_REF)
    known = _Known(dict(zip(map(id, shapes), refs, strict=False)), refs[-1], components)
    paths: dict[str, dict[str, Any]] = {}
    for door in plain:
        path = paths.setdefault(_PARAMETER.sub(r"{\1}", door.path), {})
        for method in _methods(door):
            path[method.lower()] = _operation(door, method, known)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Ostinato",
            "version": version,
            "summary": "Agents and the models they think with, on one replayable event log",
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a token of your issuer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


class _Known(NamedTuple):
    """The schemas of all shapes."""

    refs: Mapping[int, Any]
    error: Any
    components: Mapping[str, Any]


def _methods(door: Door) -> list[str]:
    return sorted((door.methods or set()) - {"HEAD"})


def _about(door: Door, method: str) -> Operation:
    first = (door.endpoint.__doc__ or door.name).partition("\n")[0].rstrip(".")
    return door.operation or OTHERS.get((method, door.path)) or Operation(first)


def _shapes(doors: Sequence[Door]) -> list[Any]:
    abouts = [_about(door, method) for door in doors for method in _methods(door)]
    given = ((about.takes, about.gives, about.query, about.tells) for about in abouts)
    shapes = [shape for some in given for shape in some if shape is not None]
    return list({id(shape): shape for shape in shapes}.values())


def _operation(door: Door, method: str, known: _Known) -> dict[str, Any]:
    about = _about(door, method)
    parameters = [*_in_path(door.path), *_in_query(about, known), *_in_headers(about)]
    made: dict[str, Any] = {"summary": about.summary, "operationId": _identity(method, door.path)}
    if parameters:
        made["parameters"] = parameters
    if about.takes is not None:
        content = {about.sends: {"schema": known.refs[id(about.takes)]}}
        must = bool(known.components[about.takes.__name__].get("required"))
        made["requestBody"] = {"required": must, "content": content}
    made["responses"] = _responses(about, known)
    if door.wants:
        made["security"] = [{}, {"bearer": []}, {"x-api-key": []}]
        made["description"] = f"Opened by a key with any of these scopes: {', '.join(door.wants)}."
    return made


def _identity(method: str, path: str) -> str:
    return "_".join([method.lower(), *re.findall(r"\w+", _PARAMETER.sub(r"by_\1", path))])


def _in_path(path: str) -> Iterator[dict[str, Any]]:
    for name in _PARAMETER.findall(path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _in_query(about: Operation, known: _Known) -> Iterator[dict[str, Any]]:
    if about.query is None:
        return
    shape = known.components[about.query.__name__]
    for name, schema in shape["properties"].items():
        yield {"name": name, "in": "query", "required": name in shape.get("required", ()), "schema": schema}


def _in_headers(about: Operation) -> Iterator[dict[str, Any]]:
    for name in about.headers:
        yield {"name": name, "in": "header", "schema": {"type": "string", "maxLength": 255}}


def _event(carried: Any) -> dict[str, Any]:
    """Describe each event of a stream, as OpenAPI 3.2 does; 3.1 does not say what the schema of a stream is of."""
    text = {"type": "string"}
    data = text if carried is None else {**text, "contentMediaType": "application/json", "contentSchema": carried}
    return {
        "type": "object",
        "description": "Each event",
        "properties": {"data": data, "event": text, "id": text},
        "required": ["data"],
    }


def _responses(about: Operation, known: _Known) -> dict[str, Any]:
    made: dict[str, dict[str, Any]] = {}
    if about.gives is not None or about.takes is not None or not about.streams:
        schema = {} if about.gives is None else {"schema": known.refs[id(about.gives)]}
        made[str(about.status)] = {"description": "Done"} | ({"content": {about.media: schema}} if about.media else {})
    if about.streams:
        content = made.setdefault("200", {"description": "Done", "content": {}})["content"]
        content["text/event-stream"] = {"schema": _event(None if about.tells is None else known.refs[id(about.tells)])}
    if about.empty:
        made["204"] = {"description": "Nothing"}
    wrong: dict[str, Any] = {"description": "Why there is no answer"}
    if not about.own:
        wrong["content"] = {"application/json": {"schema": known.error}}
    return {**made, "default": wrong}
