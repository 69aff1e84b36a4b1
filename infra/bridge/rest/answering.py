"""What all routes of the REST API have in common: whose client it is, what is asked, and what is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from bus import subjects
from bus.errors import BadSubject, BusError, Refused
from infra.bridge.callers import caller_of
from infra.bridge.desk import Desk
from infra.bridge.doors import ANSWERING, Door, Operation, Workplace
from infra.bridge.late import caught_up, lately
from infra.bridge.openai import BadRequest, decoded, refusal
from infra.bridge.ownership import keep_to_own
from infra.client import Client
from infra.errors import ForkUnfit, NothingRecorded, ScheduleUnfit, SettlementRefused, ThreadUnfit
from schemas import codec
from schemas.runs import Problem

T = TypeVar("T")

_GONE = {
    "thread": (404, "thread_not_found"),
    "schedule": (404, "schedule_not_found"),
    "effect": (409, "not_waiting"),
    "run": (409, "not_under_way"),
    "task": (409, "not_under_way"),
    "goal": (409, "goal_unfit"),
}
"""By the field that a problem names."""

_FORKING = {"--at": "at", "ID": "thread"}
"""What the command line calls fields of a fork."""

Answer = Callable[[Request], Awaitable[object]]


@dataclass(frozen=True)
class Rest:
    """Some routes."""

    desk: Desk

    def client(self, request: Request) -> Client:
        """Reach the stack as the tenant of whoever asks."""
        desk = self.desk
        return Client(desk.connection, desk.read_back, desk.store, caller_of(request).tenant, "http")

    def door(self, path: str, answer: Answer, operation: Operation, method: str = "GET") -> Door:
        """Make a route of what answers it."""

        async def answered(request: Request) -> object:
            if "thread" in request.path_params:
                await keep_to_own(self.desk, request, named(request, "thread"))
            return await self._lately(answer, request)

        operation = operation._replace(fails=(*operation.fails, *self._fails(method)))
        return Door(path, _answering(answered, operation), "agents", methods=(method,), operation=operation)

    def workplace(self, path: str, answer: Answer, operation: Operation) -> Door:
        """Make a route behind which models are asked: only so many at once, and nothing that is too long for them."""
        operation = operation._replace(fails=ANSWERING)
        return Workplace(path, _answering(answer, operation), "agents", methods=("POST",), operation=operation)

    def _fails(self, method: str) -> tuple[int, ...]:
        """Give the statuses of errors of routes that reach the record, or change something."""
        return (503,) if method == "GET" else (404, 409, 503)

    async def thread(self, request: Request) -> str:
        """Read the id of a thread out of the path, that there is.

        Raises:
            BadRequest: there is none: 404.
        """
        thread, tenant = named(request, "thread"), caller_of(request).tenant

        async def look() -> str | None:
            events = await self.desk.read_back(tenant, thread, "thread", thread, 0)
            # who was refused something in a thread has not begun it
            return thread if any(event.type != "command.refused" for event in events) else None

        if await lately(self.desk, look) is None:
            raise missing("thread", thread)
        return thread

    async def _lately(self, answer: Answer, request: Request) -> object:
        """Answer; who reads of a thread that is not there is told so when it is known not to be on its way either."""
        try:
            return await answer(request)
        except (NothingRecorded, SettlementRefused) as nothing:
            if request.method != "GET" or not _of_thread(nothing):
                raise
        await caught_up(self.desk)
        return await answer(request)


def _of_thread(nothing: NothingRecorded | SettlementRefused) -> bool:
    return isinstance(nothing, NothingRecorded) or nothing.problem.field == "thread"


def _answering(answer: Answer, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
    async def answered(request: Request) -> Response:
        told = await _told(answer(request))
        if isinstance(told, Response):
            return told
        return Response(codec.encode(told), operation.status, media_type="application/json")

    return answered


async def _told(answer: Awaitable[object]) -> object:
    """Wait for an answer; what there is none for is told as HTTP does.

    Raises:
        BadRequest: why there is none.
    """
    try:
        return await answer
    except SettlementRefused as refused:
        raise _refused(refused.problem) from refused
    except NothingRecorded as nothing:
        raise missing("thread", nothing.identity) from nothing
    except ForkUnfit as unfit:
        field = _FORKING.get(unfit.field)
        message = str(unfit) if field is None else f"{field}: {unfit.problem}"
        raise BadRequest(400, message, field, "invalid_value") from unfit
    except (BadSubject, ScheduleUnfit, ThreadUnfit) as unfit:
        raise BadRequest(400, str(unfit), None, "invalid_value") from unfit
    except Refused as refused:
        message = f"the server takes no more requests: {refused.description}"
        raise BadRequest(503, message, None, "overloaded") from refused
    except (BusError, TimeoutError) as error:
        raise BadRequest(503, "the event bus or the record does not answer: try again", None, "unavailable") from error


def _refused(problem: Problem) -> BadRequest:
    """Turn a problem from the bus into an answer: what is not there is 404, what is over by now 409."""
    if problem.kind in {"invalid", "unknown_thread"} and problem.field in _GONE:
        status, code = _GONE[problem.field]
        return BadRequest(status, problem.message, problem.field, code)
    return refusal(problem)


async def body_of(request: Request, shape: type[T]) -> T:
    """Read what is asked; no body is an empty one.

    Raises:
        BadRequest: names the field and what it should be.
    """
    return decoded(await request.body() or b"{}", shape)


def query_of(request: Request, shape: type[T]) -> T:
    """Read what stands behind the `?`.

    Raises:
        BadRequest: names the parameter and what it should be.
    """
    given: dict[str, Any] = dict(request.query_params)
    known = {field.encode_name for field in msgspec.structs.fields(shape)}  # type: ignore[arg-type]
    if strange := sorted(given.keys() - known):
        message = f"{strange[0]}: there is no such parameter, there are {', '.join(sorted(known)) or 'none'}"
        raise BadRequest(400, message, strange[0], "invalid_value")
    if spoilt := next((name for name, value in given.items() if "\0" in value), None):
        raise BadRequest(400, f"{spoilt}: there is no character 0 in a text", spoilt, "invalid_value")
    try:
        return msgspec.convert(given, shape, strict=False)
    except msgspec.ValidationError as error:
        name = str(error).partition("$.")[2].strip("`") or None
        raise BadRequest(400, f"{name}: {error}", name, "invalid_value") from error


def named(request: Request, what: str) -> str:
    """Read an id out of the path.

    Raises:
        BadRequest: nothing has such an id: 404.
    """
    identity: str = request.path_params[what]
    try:
        return subjects.checked(identity, what)
    except BadSubject as error:
        raise missing(what, identity) from error


def missing(what: str, identity: str) -> BadRequest:
    """Say that there is no such thing."""
    return BadRequest(404, f"{what} {identity[:100]!r}: there is none", what, f"{what}_not_found")
