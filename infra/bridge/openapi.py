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

from infra.bridge.doors import WITH_BODY, Door, Operation, Wing, Workplace
from infra.bridge.operations import OTHERS
from schemas.openai import ErrorResponse

_REF: Final = "#/components/schemas/{name}"
_PARAMETER: Final = re.compile(r"{(\w+)(?::\w+)?}")

_ERROR: Final = "#/components/responses/{name}"
_HEADER: Final = "#/components/headers/{name}"
_ALWAYS: Final = (431, 500)
"""Errors that any route may have; the first comes before it is known which it is."""
_HEADERS_TOO_LARGE: Final = 431
_WHY: Final[Mapping[int, str]] = {
    400: "The request does not fit: the error names the field, and what it should be",
    401: "There is no key, or none that is known",
    403: "The key may not",
    404: "There is no such thing",
    406: "The client does not take what would be sent",
    408: "The body was not there in time",
    409: "Not as things stand now",
    413: "The body is too large",
    415: "The body is of a type that is not read",
    429: "Too much at once, or too often: try again later",
    431: "The headers are too large",
    500: "Something broke: see the server's log",
    501: "The server was installed without it",
    502: "A provider takes no key of the server's",
    503: "There is no answer now: try again",
    504: "There was no answer in time",
}
_TOLD_HEADERS: Final[Mapping[str, tuple[str, str]]] = {
    "x-request-id": ("string", "What the request is called: as its client says, else a fresh id"),
    "retry-after": ("integer", "Seconds after which to try again"),
    "retry-after-ms": ("integer", "The same, in milliseconds"),
    "www-authenticate": ("string", "How to say who asks"),
    "x-ratelimit-limit-requests": ("integer", "Of a key that has a limit: requests a minute"),
    "x-ratelimit-remaining-requests": ("integer", "Those that are left"),
    "x-ratelimit-reset-requests": ("string", "When all of them are there again"),
    "x-ratelimit-limit-tokens": ("integer", "Of a key that has a limit: tokens a minute"),
    "x-ratelimit-remaining-tokens": ("integer", "Those that are left"),
    "x-ratelimit-reset-tokens": ("string", "When all of them are there again"),
}
"""Headers of answers: their types, and what they say."""
_LATER: Final = ("retry-after", "retry-after-ms")
_RATES: Final = tuple(name for name in _TOLD_HEADERS if name.startswith("x-ratelimit-"))


def openapi_door(doors: Sequence[Door | Wing], version: str) -> Door:
    """Make the route that tells of all routes, itself too."""
    told: list[bytes] = []

    async def tell(request: Request) -> Response:
        """Tell of all routes."""
        if not told:
            told.append(msgspec.json.encode(document([*doors, door], version)))
        return Response(told[0], media_type="application/json")

    door = Door("/openapi.json", tell)
    return door


def document(doors: Sequence[Door | Wing], version: str) -> dict[str, Any]:
    """Make the document of some routes."""
    plain = [door for door in doors if isinstance(door, Door)]
    shapes = _shapes(plain)
    refs, components = msgspec.json.schema_components(shapes, ref_template=_REF)
    known = _Known(dict(zip(map(id, shapes), refs, strict=True)), components, {})
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
            "responses": dict(sorted(known.problems.items())),
            "headers": {name: _header(name) for name in _TOLD_HEADERS},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a token of your issuer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


class _Known(NamedTuple):
    """The schemas of all shapes."""

    refs: Mapping[int, Any]
    components: Mapping[str, Any]
    problems: dict[str, Any]
    """Answers of errors, by name, as they are come upon."""

    def of(self, shape: Any) -> Any:
        """Give the schema of a shape."""
        return self.refs[id(shape)]

    def problem(self, error: Any, status: int) -> dict[str, Any]:
        """Give an error of some shape and status."""
        name = f"{error.__name__}.{status}"
        self.problems[name] = {
            "description": _WHY[status],
            "headers": _headers(status, keyed=True),
            "content": {"application/json": {"schema": self.of(error)}},
        }
        return {"$ref": _ERROR.format(name=name)}


def _methods(door: Door) -> list[str]:
    return sorted((door.methods or set()) - {"HEAD"})


def _about(door: Door, method: str) -> Operation:
    first = (door.endpoint.__doc__ or door.name).partition("\n")[0].rstrip(".")
    return door.operation or OTHERS.get((method, door.path)) or Operation(first)


def _shapes(doors: Sequence[Door]) -> list[Any]:
    abouts = [_about(door, method) for door in doors for method in _methods(door)]
    given = ((one.takes, one.gives, one.query, one.error, *one.tells, *one.also.values()) for one in abouts)
    shapes = [ErrorResponse, *(shape for some in given for shape in some if shape is not None)]
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
    made["responses"] = _responses(door, method, known)
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


def _header(name: str) -> dict[str, Any]:
    kind, told = _TOLD_HEADERS[name]
    return {"description": told, "required": name == "x-request-id", "schema": {"type": kind}}


def _headers(status: int, *, keyed: bool) -> dict[str, Any]:
    names = ["x-request-id"]
    if status in {429, 503}:
        names += _LATER
    if status == 401:
        names.append("www-authenticate")
    if keyed and (status < 300 or status == 429):
        names += _RATES
    return {name: {"$ref": _HEADER.format(name=name)} for name in names}


def _event(carried: Sequence[Any], last: str) -> dict[str, Any]:
    """Describe each event of a stream, as OpenAPI 3.2 does; 3.1 does not say what the schema of a stream is of."""
    text = {"type": "string"}
    one = carried[0] if len(carried) == 1 else {"anyOf": list(carried)}
    data: dict[str, Any] = {**text, "contentMediaType": "application/json", "contentSchema": one}
    if last:
        data = {"anyOf": [data, {"const": last}]}
    return {
        "type": "object",
        "description": "Each event",
        "properties": {"data": data, "event": text, "id": text},
        "required": ["data"],
    }


def _responses(door: Door, method: str, known: _Known) -> dict[str, Any]:
    about = _about(door, method)
    made: dict[int, dict[str, Any]] = {
        status: {"description": _WHY.get(status, "Done"), "headers": _headers(status, keyed=bool(door.wants))}
        | ({"content": content} if content else {})
        for status, content in _contents(about, known).items()
    }
    for status in _failing(door, method, about) - made.keys():
        error = ErrorResponse if status == _HEADERS_TOO_LARGE else about.error
        made[status] = known.problem(error, status)
    return {str(status): made[status] for status in sorted(made)}


def _contents(about: Operation, known: _Known) -> dict[int, dict[str, Any]]:
    """Give what is in the answers that are no errors, by status and media type."""
    made: dict[int, dict[str, Any]] = {}
    if about.gives is not None:
        made[about.status] = {media: {"schema": known.of(about.gives)} for media in about.media}
    if about.streams:
        carried = [known.of(one) for one in about.tells]
        made.setdefault(200, {})["text/event-stream"] = {"schema": _event(carried, about.last)}
    for status, shape in about.also.items():
        made[status] = {} if shape is None else {media: {"schema": known.of(shape)} for media in about.media}
    return made or {about.status: {}}


def _failing(door: Door, method: str, about: Operation) -> set[int]:
    """Give the statuses of a route's errors."""
    found = {*_ALWAYS, *about.fails}
    if door.wants:
        found |= {401, 403, 429}
    if method in WITH_BODY:
        found |= {400, 408, 413}
    if about.query is not None:
        found.add(400)
    if "{" in door.path:
        found.add(404)
    if isinstance(door, Workplace):
        found |= {429, 503}
    return found
