"""An MCP server: each agent is a tool, threads are resources, and a person's answers go back to runs that wait.

Model Context Protocol 2026-07-28, and the revisions before it, through the official SDK (the extra `mcp`). Nothing is
kept between requests: whichever process one comes to finds all in the log.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import mcp_types as types
import msgspec
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from bus import subjects
from bus.errors import BadSubject, BusError
from infra.called import Came, Note, Say, asked, gone_on, heard, unnoted
from infra.client import Client
from infra.errors import SettlementRefused
from infra.mcp.calls import Call, Calls, Context
from infra.mcp.offer import Offer
from infra.mcp.opened import AGENT, NAMED
from infra.mcp.shapes import (
    ASK,
    TOOL,
    AnswerWait,
    Ask,
    CancelRun,
    always,
    asking,
    called_result,
    calling,
    questions,
    result,
    settled,
    settling,
    told,
    wrong,
)
from infra.running import Waiting
from schemas import codec
from schemas.faults import fault
from schemas.live import Committed, Frame, Progress
from schemas.rest import AgentOffered, ToolOffered
from schemas.runs import ToolResult

log = logging.getLogger(__name__)

_INSTRUCTIONS: Final = (
    "Each `ask_` tool asks an agent, each `tool_` tool does one thing by itself. Cancel the call to end its run, or "
    "call `cancel_run`."
)
_THREADS: Final = "ostinato://threads/"
_MOST_THREADS: Final = 50
_MOST_MESSAGES: Final = 1000
_MODERN: Final = "2026-07-28"
"""From here on a call may be answered with questions, and is made again with the answers."""
_NOT_FOUND: Final = -32002


@dataclass(frozen=True)
class AgentServer:
    """What requests of MCP clients come to."""

    offer: Offer
    calls: Calls
    opened: Callable[[], Awaitable[Sequence[ToolOffered]]]
    """Lists the tools that are called by themselves."""

    @property
    def offered(self) -> Sequence[AgentOffered]:
        """The agents that there are now."""
        return self.offer.agents

    def server(self) -> Server[Any]:
        """Make the SDK's server."""
        server: Server[Any] = Server(
            "ostinato",
            version=importlib.metadata.version("ostinato"),
            title="Ostinato",
            instructions=_INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
            on_subscriptions_listen=self.offer.listen,
        )
        server.middleware.append(_soundly)
        server.add_notification_handler("notifications/cancelled", types.CancelledNotificationParams, self._cancelled)
        return server

    async def _cancelled(self, context: Context, params: types.CancelledNotificationParams) -> None:
        self.calls.cancel(context, params.request_id)

    async def _list_tools(self, context: Context, params: Any) -> types.ListToolsResult:
        self.offer.listed(context)
        tools = [*map(asking, self.offered), *map(calling, await self.opened()), *always()]
        return types.ListToolsResult(tools=tools)

    async def _call_tool(self, context: Context, params: types.CallToolRequestParams) -> Any:
        try:
            with self.calls.entered(context) as call:
                return await self._called(context, params, call)
        except msgspec.ValidationError as error:
            return wrong(f"{params.name}: {error}")
        except SettlementRefused as refused:
            return wrong(refused.problem.message)
        except BadSubject as error:
            return wrong(str(error))
        except (BusError, TimeoutError):
            return wrong("the stack does not answer: try again")

    async def _called(self, context: Context, params: types.CallToolRequestParams, call: Call) -> Any:
        client, given, say = call.client, params.arguments or {}, _progress(context)
        if params.name == "cancel_run":
            ending = msgspec.convert(given, CancelRun)
            await client.abort(ending.thread, ending.run, ending.reason or "an MCP client cancelled it")
            return told("the run ends", {"ok": True})
        if params.name == "answer_wait":
            answer = msgspec.convert(given, AnswerWait)
            wait = await _waiting(client, answer.thread, answer.effect)
            await _check_begun(client, answer.thread, answer.run)
            call.about(answer.thread, answer.run)
            await client.settle(wait.thread, settled(answer, wait.kind))
            return result(await gone_on(client, answer.thread, answer.run, (answer.effect,), say))
        if params.name.startswith(TOOL):
            return await self._called_tool(context, params, call)
        agent = params.name.removeprefix(ASK)
        if params.name == agent or agent not in {one.name for one in self.offered}:
            return await self._unknown(params.name)
        wanted = msgspec.convert(given, Ask)
        if params.request_state is not None:
            came = await _answered(call, params, say, unnoted)
        else:
            running = asked(client, agent, wanted.text, wanted.thread or None)
            call.about(running.thread, running.run)
            came = await heard(client, running, say)
        return questions(came) if came.waits and _can_ask(context) else result(came)

    async def _called_tool(self, context: Context, params: types.CallToolRequestParams, call: Call) -> Any:
        """Have one tool called, as a run of its own: in the log before it happens."""
        tool, heeding = params.name.removeprefix(TOOL), Heeding(context)
        if tool not in {one.name for one in await self.opened()}:
            return await self._unknown(params.name)
        if params.request_state is not None:
            came = await _answered(call, params, _unsaid, heeding.note)
        else:
            arguments = codec.encode(params.arguments or {}).decode()
            running = asked(call.client, AGENT, arguments, None, context={NAMED: tool})
            call.about(running.thread, running.run)
            came = await heard(call.client, running, _unsaid, heeding.note)
        return questions(came) if came.waits and _can_ask(context) else called_result(came, heeding.returned)

    async def _unknown(self, name: str) -> types.CallToolResult:
        there = [*(ASK + one.name for one in self.offered), *(TOOL + one.name for one in await self.opened())]
        return wrong(f"there is no tool {name!r}: there are {', '.join(there)}, answer_wait and cancel_run")

    async def _list_resources(self, context: Context, params: Any) -> types.ListResourcesResult:
        threads = await self.calls.origin.client_of(context).memory.threads(limit=_MOST_THREADS)
        return types.ListResourcesResult(
            resources=[
                types.Resource(
                    uri=_THREADS + one.thread,
                    name=one.thread,
                    title=one.title or None,
                    description=f"A conversation with {one.agent}" if one.agent else None,
                    mime_type="application/json",
                )
                for one in threads
                if one.agent != AGENT
            ]
        )

    async def _list_templates(self, context: Context, params: Any) -> types.ListResourceTemplatesResult:
        template = types.ResourceTemplate(
            uri_template=_THREADS + "{thread}",
            name="thread",
            title="What was said in a thread",
            mime_type="application/json",
        )
        return types.ListResourceTemplatesResult(resource_templates=[template])

    async def _read_resource(self, context: Context, params: types.ReadResourceRequestParams) -> Any:
        uri = str(params.uri)
        if not uri.startswith(_THREADS):
            raise MCPError(_NOT_FOUND, f"there is no resource {uri!r}: there are {_THREADS}THREAD")
        try:
            memory = self.calls.origin.client_of(context).memory
            found = await memory.messages(uri.removeprefix(_THREADS), 0, _MOST_MESSAGES)
        except SettlementRefused as refused:
            raise MCPError(_NOT_FOUND, refused.problem.message) from refused
        text = codec.encode(found).decode()
        contents = types.TextResourceContents(uri=params.uri, mime_type="application/json", text=text)
        return types.ReadResourceResult(contents=[contents])


async def _soundly(ctx: Context, call_next: Callable[[Context], Awaitable[Any]]) -> Any:
    """Tell no client how something broke: that is for the server's log."""
    try:
        return await call_next(ctx)
    except (MCPError, ValidationError):
        raise
    except (BusError, TimeoutError) as error:
        raise MCPError(types.INTERNAL_ERROR, "the stack does not answer: try again") from error
    except Exception as error:
        log.error("MCP %s: %s", ctx.method, fault(error))  # noqa: TRY400
        raise MCPError(types.INTERNAL_ERROR, "internal error: see the server's log") from error


@dataclass
class Heeding:
    """Heeds what a tool says while it runs, and what it gave."""

    context: Context
    returned: ToolResult | None = None
    _said: int = 0

    async def note(self, frame: Frame) -> None:
        """Heed what is heard of its run."""
        match frame:
            case Progress(data=data):
                self._said += 1
                told = data if isinstance(data, str) else codec.encode(data).decode()
                await self.context.session.report_progress(float(self._said), None, told)
            case Committed(type="tool.returned" | "tool.failed" | "tool.indeterminate", data=data):
                event = codec.decode_event(data)
                self.returned = event if isinstance(event, ToolResult) else None
            case _:
                pass


async def _unsaid(text: str) -> None:
    """Tell nobody: what is said is what the tool gave."""


def _progress(context: Context) -> Say:
    """Tell a client that wants to know what the model says, as it comes."""
    said = 0

    async def say(text: str) -> None:
        nonlocal said
        said += len(text)
        await context.session.report_progress(float(said), None, text)

    return say


def _can_ask(context: Context) -> bool:
    """Say whether a client can put a form to its person, in the course of a call."""
    able = context.session.client_capabilities
    return context.protocol_version >= _MODERN and able is not None and able.elicitation is not None


async def _answered(call: Call, params: types.CallToolRequestParams, say: Say, note: Note) -> Came:
    """Give a run what its client's person answered, and go on hearing of it.

    Raises:
        SettlementRefused: nothing waits for that any more.
    """
    client, (thread, _, run) = call.client, (params.request_state or "").partition(" ")
    await _check_begun(client, thread, run)
    call.about(thread, run)
    given = params.input_responses or {}
    for effect, answer in given.items():
        if isinstance(answer, types.ElicitResult):
            wait = await _waiting(client, thread, effect)
            await client.settle(wait.thread, settling(wait, answer))
    return await gone_on(client, thread, run, tuple(given), say, note=note)


async def _check_begun(client: Client, thread: str, run: str) -> None:
    """See that there is a run: what nobody began never ends.

    Raises:
        BadSubject: a name cannot be one.
        msgspec.ValidationError: there is none.
    """
    names = subjects.checked(thread, "thread"), subjects.checked(run, "run")
    events = await client.read_back(client.tenant, names[0], "run", names[1], 0)
    if not events or any(codec.is_erased(event.data) for event in events):
        raise msgspec.ValidationError(f"run: thread {thread!r} has no run {run!r}")


async def _waiting(client: Client, thread: str, effect: str) -> Waiting:
    """Find what waits.

    Raises:
        BadSubject: the thread cannot be one.
        msgspec.ValidationError: nothing like that does.
    """
    found = await client.waiting(subjects.checked(thread, "thread"))
    for one in found:
        if one.effect == effect:
            return one
    there = ", ".join(one.effect for one in found) or "nothing"
    raise msgspec.ValidationError(f"effect: nothing waits as {effect!r} in thread {thread!r} (waiting: {there})")
