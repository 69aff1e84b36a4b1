"""What A2A clients ask, answered from the log: any process can take the next request, and a restart loses no task."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from a2a.helpers.proto_helpers import get_message_text
from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.request_handler import RequestHandler, validate_request_params
from a2a.server.routes.common import ServerCallContextBuilder
from a2a.types.a2a_pb2 import (
    AgentCard,
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    ListTasksResponse,
    Message,
    SendMessageRequest,
    SubscribeToTaskRequest,
    Task,
    TaskState,
)
from a2a.utils.errors import (
    A2AError,
    InternalError,
    InvalidParamsError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from a2a.utils.task import validate_page_size
from msgspec.structs import replace
from starlette.requests import Request

from bus import subjects
from bus.errors import BadSubject, BusError
from bus.under_way import RunsWanted, runs_of
from infra.bridge.a2a.pushes import Pushes
from infra.bridge.a2a.shapes import (
    Unnamed,
    answers,
    history,
    place_of,
    state_of,
    status,
    task_id,
    task_of,
    task_shown,
    updated,
    working,
    written,
)
from infra.bridge.callers import caller_of
from infra.bridge.late import lately
from infra.bridge.rest.told import run_of
from infra.called import Came, Say, asked, gone_on, heard
from infra.client import Client
from infra.errors import SettlementRefused
from schemas import codec
from schemas.faults import fault
from schemas.live import Committed

log = logging.getLogger(__name__)

Params = TypeVar("Params")
Result = TypeVar("Result")
Method = Callable[[Any, Params, ServerCallContext], Coroutine[Any, Any, Result]]
ClientOf = Callable[[ServerCallContext], Client]
Event = Any
Place = tuple[str, str]
"""A thread and a run."""
Call = Callable[[Say], Awaitable[Came]]

_RECORD_S, _LATE_LOOKS = 0.05, 20
_MOST_TASKS = 100
_MOST_MESSAGES = 1000
_MOST_ENDED = 1000
_MOST_GOING_ON = 256
_LONGEST_TOKEN = 18
_ENDED = frozenset({TaskState.TASK_STATE_COMPLETED, TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_CANCELED})


def _soundly(method: Method[Params, Result]) -> Method[Params, Result]:
    """Tell no client how something broke: that is for the server's log."""

    @functools.wraps(method)
    async def sound(handler: Any, params: Params, context: ServerCallContext) -> Result:
        try:
            return await method(handler, params, context)
        except (BusError, TimeoutError) as error:
            raise InternalError("the stack does not answer: ask for the task later") from error
        except A2AError:
            raise
        except Exception as error:
            log.error("A2A %s: %s", method.__name__, fault(error))  # noqa: TRY400
            raise InternalError("internal error: see the server's log") from error

    return sound


class ContextBuilder(ServerCallContextBuilder):
    """Says whose a request is."""

    def build(self, request: Request) -> ServerCallContext:
        """Take what the guard found out."""
        return ServerCallContext(state={"tenant": caller_of(request).tenant, "headers": dict(request.headers)})


class AgentHandler(RequestHandler):
    """One agent's tasks."""

    def __init__(self, agent: str, client_of: ClientOf, card: AgentCard, pushes: Pushes) -> None:
        self._agent = agent
        self._pushes = pushes
        self._client_of = client_of
        self._card = card
        self._ended: OrderedDict[Place, None] = OrderedDict()
        """Runs whose end was told here: whoever heard it is not to read that they go on, though the record is late."""
        self._going_on: dict[asyncio.Task[Came], None] = {}
        """Calls that nobody waits for, the oldest first; their runs go on without them."""

    @_soundly
    @validate_request_params
    async def on_message_send(self, params: SendMessageRequest, context: ServerCallContext) -> Task:
        """Ask the agent, or answer what a task waits for; return when it is over, or waits again."""
        client = self._client_of(context)
        place, call = await self._call(params, client)
        if not params.configuration.return_immediately:
            return task_of(self._over(await _sound(call(_unheard))))
        going_on = asyncio.create_task(_sound(call(_unheard)), name=f"a2a {place[1]}")
        self._going_on[going_on] = None
        going_on.add_done_callback(lambda done: self._going_on.pop(done, None))
        if len(self._going_on) > _MOST_GOING_ON:
            next(iter(self._going_on)).cancel()
        return working(*place)

    @validate_request_params
    async def on_message_send_stream(
        self, params: SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event]:
        """The same, told of as it goes on."""
        async for event in self._told(*await _sound(self._call(params, self._client_of(context)))):
            yield event

    async def _call(self, params: SendMessageRequest, client: Client) -> tuple[Place, Call]:
        """Make of a message what its task is to be heard by, and where that is; have told of it whom its sender named.

        Raises:
            A2AError: nothing can be made of it.
        """
        target = await self._pushes.wanted(params.configuration)
        place, call = await self._called(params.message, client)
        if target is not None:
            await self._pushes.subscribe(client, *place, target)
        return place, call

    async def _called(self, message: Message, client: Client) -> tuple[Place, Call]:
        if message.task_id:
            return await self._answered(message, client)
        text = get_message_text(message)
        if not text:
            raise InvalidParamsError("message.parts: there is no text in it")
        try:
            thread = subjects.checked(message.context_id, "contextId") if message.context_id else None
        except BadSubject as error:
            raise InvalidParamsError(str(error)) from error
        running = asked(client, self._agent, text, thread)
        return (running.thread, running.run), lambda say: heard(client, running, say)

    async def _answered(self, message: Message, client: Client) -> tuple[Place, Call]:
        thread, run = await self._found(client, message.task_id)
        stands = await self._stands(client, thread, run)
        needs = stands.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        waits = await client.waiting(thread) if needs else ()  # another run of the thread may wait for somebody
        if not waits:
            raise UnsupportedOperationError(f"task {message.task_id!r} waits for nothing: leave taskId out")
        try:
            given = answers(waits, message)
            if given is None:
                return (thread, run), lambda say: _waiting_still(Came(thread, run, waits=waits))
            for one, settled in given:
                await client.settle(one.thread, settled)
        except SettlementRefused as refused:
            raise InvalidParamsError(refused.problem.message) from refused
        except Unnamed as unnamed:
            raise InvalidParamsError(str(unnamed)) from unnamed
        effects = tuple(one.effect for one, _ in given)
        return (thread, run), lambda say: gone_on(client, thread, run, effects, say)

    @_soundly
    @validate_request_params
    async def on_get_task(self, params: GetTaskRequest, context: ServerCallContext) -> Task:
        """Tell how a task stands."""
        client = self._client_of(context)
        thread, run = await self._found(client, params.id)
        task = await self._stands(client, thread, run)
        if params.HasField("history_length") and params.history_length > 0:
            found = await client.memory.messages(thread, 0, _MOST_MESSAGES)
            task.history.extend(history(found.messages, thread, run)[-params.history_length :])
        return task

    @_soundly
    @validate_request_params
    async def on_list_tasks(self, params: ListTasksRequest, context: ServerCallContext) -> ListTasksResponse:
        """List the agent's tasks, the latest first."""
        client = self._client_of(context)
        try:
            context_id = subjects.checked(params.context_id, "contextId") if params.context_id else None
        except BadSubject as error:
            raise InvalidParamsError(str(error)) from error
        before = _page(params)
        size = min(params.page_size or _MOST_TASKS, _MOST_TASKS)
        wanted = RunsWanted(context_id, self._agent, None, before)
        rows = await runs_of(await client.store(), client.tenant, wanted, size)
        tasks = [
            Task(
                id=task_id(row.thread, row.run),
                context_id=row.thread,
                status=status(state_of(row.status), row.thread, row.run),
            )
            for row in rows
            if not params.status or state_of(row.status) == params.status
        ]
        token = str(rows[-1].asked) if len(rows) == size else ""
        return ListTasksResponse(tasks=tasks, next_page_token=token, page_size=size, total_size=len(tasks))

    @_soundly
    @validate_request_params
    async def on_cancel_task(self, params: CancelTaskRequest, context: ServerCallContext) -> Task:
        """End a task, whatever it is doing."""
        client = self._client_of(context)
        thread, run = await self._found(client, params.id)
        try:
            await client.abort(thread, run, "an A2A client cancelled it")
        except SettlementRefused as refused:
            raise TaskNotCancelableError(refused.problem.message) from refused
        for _ in range(_LATE_LOOKS):
            task = await self._stands(client, thread, run)
            if task.status.state in _ENDED:
                break
            await asyncio.sleep(_RECORD_S)
        return task

    @validate_request_params
    async def on_subscribe_to_task(
        self, params: SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event]:
        """Tell of a task that somebody began: all that its agent has said, and what it says from now on."""
        client = self._client_of(context)
        thread, run = await _sound(self._found(client, params.id))
        if (await _sound(self._stands(client, thread, run))).status.state in _ENDED:
            raise UnsupportedOperationError(f"task {params.id!r} is over: get it")
        async for event in self._told((thread, run), lambda say: gone_on(client, thread, run, (), say)):
            yield event

    @_soundly
    @validate_request_params
    async def on_create_task_push_notification_config(self, params: Any, context: ServerCallContext) -> Any:
        """Have somebody told of a task."""
        client = self._client_of(context)
        place = await self._found(client, params.task_id)
        return await self._pushes.subscribe(client, *place, await self._pushes.target(params))

    @_soundly
    @validate_request_params
    async def on_get_task_push_notification_config(self, params: Any, context: ServerCallContext) -> Any:
        """Tell who is told of a task."""
        client = self._client_of(context)
        return await self._pushes.get(client, *await self._found(client, params.task_id), params.id)

    @_soundly
    @validate_request_params
    async def on_list_task_push_notification_configs(self, params: Any, context: ServerCallContext) -> Any:
        """List who is told of a task."""
        client = self._client_of(context)
        return await self._pushes.listed(client, *await self._found(client, params.task_id))

    @_soundly
    @validate_request_params
    async def on_delete_task_push_notification_config(self, params: Any, context: ServerCallContext) -> None:
        """Have somebody told no more of a task."""
        client = self._client_of(context)
        await self._pushes.delete(client, *await self._found(client, params.task_id), params.id)

    async def on_get_extended_agent_card(self, params: Any, context: ServerCallContext) -> AgentCard:
        """Describe the agent: there is no more to tell than the card does."""
        return self._card

    def _over(self, came: Came) -> Came:
        """Note that a run is over."""
        if not came.waits:
            self._ended[came.thread, came.run] = None
            if len(self._ended) > _MOST_ENDED:
                self._ended.popitem(last=False)
        return came

    async def _told(self, place: Place, call: Call) -> AsyncGenerator[Event]:
        """Tell of a call as it goes on: the task, pieces of its answer, and how it stands at the end."""
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        async def say(text: str) -> None:
            pieces.put_nowait(text)

        asking = asyncio.ensure_future(_sound(call(say)))
        asking.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            yield working(*place)
            said = 0
            while (piece := await pieces.get()) is not None:
                yield written(*place, piece, append=said > 0)
                said += 1
            came = self._over(asking.result())
            if came.ended is not None and not said:
                yield written(*place, came.ended.text, append=False)
            yield updated(*place, task_of(came).status)
        finally:
            asking.cancel()

    async def _found(self, client: Client, identity: str) -> tuple[str, str]:
        """Find a task's thread and run; what was begun a moment ago is not recorded at once.

        Raises:
            TaskNotFoundError: the tenant has none like that, or it is another agent's.
        """
        place = place_of(identity)
        if place is None or not all(part.isascii() and "*" not in part and " " not in part for part in place):
            raise TaskNotFoundError

        async def look() -> list[Committed] | None:
            return await client.read_back(client.tenant, place[0], "run", place[1], 0) or None

        events = await lately(client, look) or []
        if not events or any(codec.is_erased(event.data) for event in events):
            raise TaskNotFoundError
        if run_of(place[1], place[0], events).agent != self._agent:
            raise TaskNotFoundError
        return place

    async def _stands(self, client: Client, thread: str, run: str) -> Task:
        for _ in range(_LATE_LOOKS):
            events = await client.read_back(client.tenant, thread, "run", run, 0)
            if any(codec.is_erased(event.data) for event in events):
                raise TaskNotFoundError  # its thread is being deleted
            shown = run_of(run, thread, events)
            if shown.ended is not None or (thread, run) not in self._ended:
                break
            await asyncio.sleep(_RECORD_S)
        if shown.status not in {"waiting", "running"}:
            return task_shown(shown, ())
        waits = await client.waiting(thread)  # of one that runs: what the agents wait for that it has asked
        return task_shown(replace(shown, status="waiting") if waits else shown, waits)


def _page(params: ListTasksRequest) -> int | None:
    """Read where a page begins.

    Raises:
        InvalidParamsError: the token is none that we gave, or the size no size.
    """
    if params.HasField("page_size"):
        validate_page_size(params.page_size)
    token = params.page_token
    if not token:
        return None
    if not (token.isascii() and token.isdigit() and len(token) <= _LONGEST_TOKEN):
        raise InvalidParamsError("pageToken: give the nextPageToken of the page before, or leave it out")
    return int(token)


async def _unheard(text: str) -> None:
    """Tell nobody."""


async def _waiting_still(came: Came) -> Came:
    """Say that nothing was answered."""
    return came


async def _sound(coming: Awaitable[Result]) -> Result:
    """Wait for something of the stack.

    Raises:
        InternalError: the stack does not answer.
    """
    try:
        return await coming
    except (BusError, TimeoutError) as error:
        raise InternalError("the stack does not answer: ask for the task later") from error
