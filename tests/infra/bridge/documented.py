"""Answers, held against the document of all routes: their status, media type, headers and every field of theirs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import httpx
import httpx2
import jsonschema_rs
from starlette.applications import Starlette

from infra.bridge.about import VERSION
from infra.bridge.app import Bridge
from infra.bridge.doors import Door
from infra.bridge.openapi import document

_OPEN: Final = {"InputItemTold", "TokenizerTold"}
"""Shapes that may have more than they name: what others have written is in them."""
_NAMED: Final = re.compile(r"{(\w+)}")
_GONE: Final = 499
"""Nobody reads an answer of this status."""


class Documented:
    """A document, as what answers are to be like: no field may be in them that is not in it."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        components = dict(told["components"])
        components["schemas"] = {
            name: shape if name in _OPEN else _closed(shape) for name, shape in components["schemas"].items()
        }
        self._told = {**told, "components": components}
        # a path without parameters is looked for before one that it would fit
        self._paths = [(_pattern(path), path) for path in sorted(told["paths"], key=lambda path: path.count("{"))]
        self._validators: dict[str, jsonschema_rs.Draft202012Validator] = {}

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        """Find what is said of a route; None where it is not in the document."""
        bare = path.partition("?")[0]
        found = next((one for pattern, one in self._paths if pattern.fullmatch(bare)), None)
        return None if found is None else self._told["paths"][found].get(method.lower())

    def hold(self, method: str, path: str, answer: httpx.Response | httpx2.Response) -> None:
        """See that an answer is what is said of it; one of a route that is not in the document may be anything."""
        operation = self.operation(method, path)
        if operation is None or answer.status_code == _GONE:
            return
        about = f"{method} {path}: {answer.status_code}"
        assert str(answer.status_code) in operation["responses"], f"{about} is not in the document: {answer.text}"
        said = self._resolved(operation["responses"][str(answer.status_code)])
        for name, reference in said["headers"].items():
            assert not self._resolved(reference)["required"] or name in answer.headers, f"{about} lacks {name}"
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if not answer.content and "content" not in said:
            return
        assert kind in said.get("content", {}), f"{about} has {kind!r}, the document {sorted(said.get('content', {}))}"
        schema = said["content"][kind]["schema"]
        if kind == "application/json":
            self._check(schema, answer.json(), about)
        elif kind == "text/event-stream":
            last, carried = _carried(schema)
            for data in _events(answer.text):
                if data != last:
                    self._check(carried, json.loads(data), about)

    def hold_event(self, method: str, path: str, data: Any) -> None:
        """See that what an event of a stream carries is what is said of it."""
        operation = self.operation(method, path)
        assert operation is not None
        schema = operation["responses"]["200"]["content"]["text/event-stream"]["schema"]
        self._check(_carried(schema)[1], data, f"{method} {path}")

    def _check(self, schema: Any, value: Any, about: str) -> None:
        name = json.dumps(schema)
        if name not in self._validators:
            whole = {**_closed(schema), "components": self._told["components"]}
            self._validators[name] = jsonschema_rs.Draft202012Validator(whole)
        problems = [f"{one.instance_path}: {one.message}" for one in self._validators[name].iter_errors(value)]
        assert not problems, f"{about} is otherwise than in the document: {problems} in {json.dumps(value)[:2000]}"

    def _resolved(self, said: dict[str, Any]) -> dict[str, Any]:
        if "$ref" not in said:
            return said
        found: Any = self._told
        for step in said["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        return found  # type: ignore[no-any-return]


def _pattern(path: str) -> re.Pattern[str]:
    parts = _NAMED.split(path)
    names = [".+" if name == "model" else "[^/]+" for name in parts[1::2]]  # names of models have slashes
    return re.compile("".join(map("".join, zip(map(re.escape, parts[::2]), [*names, ""], strict=True))))


def _closed(shape: Any) -> Any:
    """Have a schema allow no further fields, wherever it says which there are."""
    if isinstance(shape, list):
        return [_closed(one) for one in shape]
    if not isinstance(shape, dict):
        return shape
    closed = {name: _closed(one) for name, one in shape.items()}
    if isinstance(shape.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed


def _carried(schema: dict[str, Any]) -> tuple[str | None, Any]:
    """Give what the last event of a stream carries where that is no JSON, and the schema of what the others do."""
    data = schema["properties"]["data"]
    one, last = data.get("anyOf", (data, {}))
    return last.get("const"), one["contentSchema"]


def _events(text: str) -> Iterator[str]:
    """Read what the events of a stream carry."""
    for event in text.split("\n\n"):
        data = "\n".join(line.removeprefix("data: ") for line in event.split("\n") if line.startswith("data: "))
        if data:
            yield data


def untyped(told: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Name the routes of a document that do not say what they answer with."""
    found = set()
    for route, operation in _routes(told):
        good = {status: answer for status, answer in operation["responses"].items() if status < "300"}
        shapes = [one["schema"] for answer in good.values() for one in answer.get("content", {}).values()]
        shapes += [_carried(one)[1] for one in shapes if "data" in one.get("properties", {})]
        if not all(shapes) or (not shapes and set(good) != {"204"}):
            found.add(route)
    return found


def _routes(told: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    for path, methods in told["paths"].items():
        yield from (((method.upper(), path), operation) for method, operation in methods.items())


_KNOWN: Final[dict[frozenset[tuple[str, str]], Documented]] = {}


def documented(application: Starlette) -> Documented:
    """Give the document of an application; those with the same routes have the same."""
    doors = [route for route in application.routes if isinstance(route, Door)]
    routes = frozenset((method, door.path) for door in doors for method in door.methods or ())
    if routes not in _KNOWN:
        _KNOWN[routes] = Documented(document(doors, VERSION))
    return _KNOWN[routes]


class Checked(httpx.ASGITransport):
    """Ends requests in an application, and holds what it answers against its document."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        answer = await super().handle_async_request(request)
        await answer.aread()
        _hold(self.app, request.method, request.url.raw_path, answer)
        return answer


class Checked2(httpx2.ASGITransport):
    """The same, for clients that want this one."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a request."""
        answer = await super().handle_async_request(request)
        await answer.aread()
        _hold(self.app, request.method, request.url.raw_path, answer)
        return answer


def _hold(app: Any, method: str, path: bytes, answer: httpx.Response | httpx2.Response) -> None:
    assert isinstance(app, Starlette)
    documented(app).hold(method, path.decode("ascii"), answer)


def holding(client: httpx.Client) -> httpx.Client:
    """Have all that a running stack answers a client held against the document that it gives it; but for streams,
    which their readers may leave before the end.
    """

    @cache
    def held() -> Documented:
        return Documented(httpx.get(client.base_url.join("/openapi.json"), headers=client.headers, timeout=30).json())

    def hold(answer: httpx.Response) -> None:
        if "text/event-stream" not in answer.headers.get("content-type", ""):
            answer.read()
            held().hold(answer.request.method, answer.request.url.raw_path.decode("ascii"), answer)

    client.event_hooks = {"response": [hold]}
    return client


@cache
def every_route() -> Documented:
    """Give the document of a bridge, of whatever it may be."""
    nothing: Any = None
    about = dict.fromkeys(("connection", "read_back", "ids", "chance", "state"), nothing)
    bridge = Bridge(clock=_Still(), models=("m",), agents=("demo",), tenant="acme", **about)
    return documented(bridge.application())


class _Still:
    """Time that stands still."""

    def now(self) -> int:
        return 0
