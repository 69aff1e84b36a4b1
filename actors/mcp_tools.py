"""Tools of servers that speak the Model Context Protocol, as a toolset: through the official SDK, the extra `mcp`.

A server is reached when its tools are first asked for, once for each process, and again after it went away. What it
wants of a person in the course of a call (an elicitation) suspends the run, and the answer goes back to it.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from actors.errors import BadArguments, DefinitionError, InDoubt, NoService, ToolError
from actors.tools import Approval, Tool, ToolContext, ToolOutput, check_name
from actors.toolsets import Surroundings, distinct
from schemas import codec
from schemas.context import TRACE
from schemas.profiles import ToolEffect

_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST_NAME: Final = 64
_ROUNDS: Final = 10
"""Times that a server may ask back in one call."""
_PAGES: Final = 100
_CLOSED: Final = -32000
"""The SDK's code of a connection that is closed."""

EffectOf = Mapping[str, ToolEffect] | Callable[[str], ToolEffect]
"""By a tool's name at its server, what a second execution would do."""


@dataclass(frozen=True)
class McpTools:
    """The tools of an MCP server: at a URL (streamable HTTP), or a command that is started here.

    What a server says of its tools' effects are hints of a stranger: a tool is `once`, and never executed a second
    time after a crash, unless `effects` says otherwise.

    Raises:
        DefinitionError: neither or both of `url` and `command` are given, or the extra is not installed.
    """

    url: str = ""
    command: Sequence[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Of requests to the URL, such as `authorization`: never logged."""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Of the command: never logged."""
    prefix: str = ""
    """Before the names that the model is told."""
    only: Sequence[str] = ()
    """The tools that there are, by their names at the server; empty is all."""
    effects: EffectOf = field(default_factory=dict)
    needs_approval: Approval = False
    timeout_s: float = 60.0
    """How long a call may take."""
    start_s: float = 30.0
    """How long it may take to reach the server."""
    _links: dict[asyncio.AbstractEventLoop, _Link] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.url) == bool(self.command):
            raise DefinitionError("McpTools: give `url`, or `command` with its arguments")
        if isinstance(self.command, str):
            raise DefinitionError(f"McpTools: command={self.command!r}: give a list, such as {self.command.split()}")
        if importlib.util.find_spec("mcp") is None:
            raise DefinitionError("McpTools: the SDK is not installed: pip install 'ostinato[mcp]'")

    async def tools(self, around: Surroundings) -> tuple[Tool, ...]:
        """List them, as the server does now.

        Raises:
            NoService: it cannot be reached.
            DefinitionError: two of its tools go by one name here.
        """
        listed = await self._listing()
        wanted = [one for one in listed if not self.only or one.name in self.only]
        if missing := sorted(set(self.only) - {one.name for one in wanted}):
            raise NoService(f"{self._where}: it has no tool {missing[0]!r}")
        return distinct([self._tool(one) for one in wanted])

    async def _listing(self) -> list[Any]:
        """Ask the server what it has; one that went away since it was last asked is reached again.

        Raises:
            NoService: it cannot be reached, or does not answer.
        """
        try:
            link = self._link()
            known = link.reached
            try:
                listed: list[Any] = await link.ask(_listed, self.start_s)
            except NoService:
                if not known:
                    raise
                listed = await self._link().ask(_listed, self.start_s)
        except TimeoutError as error:
            raise NoService(f"{self._where}: it did not list its tools within {self.start_s:g} s") from error
        return listed

    async def call(self, name: str, arguments: dict[str, Any], context: ToolContext) -> ToolOutput:
        """Call a tool by its name at the server.

        Raises:
            ToolError: it says that something is wrong.
            NoService: it is not there.
            InDoubt: it went away, or did not answer in time.
            Suspend: it wants something of a person.
        """

        async def called(client: Any) -> Any:
            return await _rounds(client, name, arguments, context)

        try:
            answer = await self._link().ask(called, self.timeout_s)
        except TimeoutError as error:
            raise InDoubt(f"{self._where}: it did not answer within {self.timeout_s:g} s") from error
        told = "\n".join(_shown(block) for block in answer.content)
        if answer.is_error:
            raise ToolError(told or "the server says that it failed, and not why")
        if answer.structured_content is None:
            return ToolOutput(told)
        return ToolOutput(told or codec.encode(answer.structured_content).decode(), answer.structured_content)

    @property
    def _where(self) -> str:
        return f"MCP server {self.url or self.command[0]}"

    def _tool(self, one: Any) -> Tool:
        name = _NOT_IN_NAMES.sub("_", self.prefix + one.name)[:_LONGEST_NAME]
        check_name(name)
        effect = self.effects(one.name) if callable(self.effects) else self.effects.get(one.name, "once")
        schema = {"type": "object", "properties": {}, **one.input_schema}
        about = (name, one.description or one.title or one.name, effect, schema, _called_elsewhere)
        return _McpTool(*about, approval=self.needs_approval, timeout_s=self.timeout_s, remote=one.name, server=self)

    def _link(self) -> _Link:
        """Give the connection of this loop; a toolset may be asked in several."""
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is None or link.over:
            link = self._links[loop] = _Link(self._client, self._where, self.start_s)
        return link

    def _client(self, stack: Any) -> Any:
        """Make a client of the SDK; what it stands on is entered on the stack."""
        mcp = importlib.import_module("mcp")
        if self.command:
            start = mcp.StdioServerParameters(
                command=self.command[0], args=list(self.command[1:]), env=dict(self.env) or None
            )
            return mcp.Client(start)
        http = importlib.import_module("httpx2").AsyncClient(headers=dict(self.headers), timeout=self.timeout_s)
        stack.push_async_exit(http)
        transport = importlib.import_module("mcp.client.streamable_http").streamable_http_client
        return mcp.Client(transport(self.url, http_client=http))


@dataclass(frozen=True, slots=True, kw_only=True)
class _McpTool(Tool):
    """A tool that a server runs."""

    remote: str
    server: McpTools

    async def call(self, arguments: str, context: ToolContext) -> ToolOutput:
        """Call it there, with the model's JSON arguments: the server checks them."""
        try:
            given = msgspec.json.decode(arguments or "{}", type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise BadArguments(f"arguments of {self.name!r} are no JSON object: {error}") from error
        return await self.server.call(self.remote, given, context)


def _called_elsewhere() -> None:
    """Stand for what a server does."""


class _Link:
    """One connection to a server, held by a task of its own: what an SDK's client enters it must leave there too."""

    def __init__(self, client_of: Callable[[Any], Any], where: str, start_s: float) -> None:
        self._client_of = client_of
        self._where = where
        self._ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._task = asyncio.create_task(self._hold(start_s), name=where)

    @property
    def over(self) -> bool:
        """Whether it cannot be used any more."""
        return self._task.done() or self._leave.is_set()

    @property
    def reached(self) -> bool:
        """Whether the server has answered."""
        return self._ready.done()

    async def ask(self, question: Callable[[Any], Awaitable[Any]], within_s: float) -> Any:
        """Ask the server something.

        Raises:
            NoService: it cannot be reached.
            InDoubt: it goes away before it has answered.
            ToolError: it answers with an error.
        """
        client = await asyncio.shield(self._ready)
        mcp_error: type[Exception] = importlib.import_module("mcp").MCPError
        asked = asyncio.ensure_future(question(client))
        try:
            async with asyncio.timeout(within_s):
                await asyncio.wait({asked, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                raise self._gone()
            return asked.result()
        except mcp_error as error:
            if error.code != _CLOSED:  # type: ignore[attr-defined]
                raise ToolError(f"{self._where}: {error}") from error
            self._leave.set()
            raise self._gone() from error
        except (OSError, EOFError) as error:
            self._leave.set()
            raise InDoubt(f"{self._where}: {error}") from error
        finally:
            asked.cancel()

    def _gone(self) -> InDoubt:
        return InDoubt(f"{self._where} went away before it answered")

    async def _hold(self, start_s: float) -> None:
        contextlib = importlib.import_module("contextlib")
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(start_s) as limit:
                    # it takes a second, and leases live two
                    await asyncio.to_thread(importlib.import_module, "mcp")
                    client = await stack.enter_async_context(self._client_of(stack))
                    limit.reschedule(None)
                self._ready.set_result(client)
                await self._leave.wait()
        except (Exception, asyncio.CancelledError) as error:
            if self._ready.done():
                return
            why = f"it did not answer within {start_s:g} s" if isinstance(error, TimeoutError) else _innermost(error)
            self._ready.set_exception(NoService(f"{self._where} cannot be reached: {why}"))
            if isinstance(error, asyncio.CancelledError):
                raise


def _innermost(error: BaseException) -> str:
    """Say what a group of errors is about."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return str(error) or type(error).__name__


async def _listed(client: Any) -> list[Any]:
    """List a server's tools as they are now, page for page: a run begins with what there is, whatever was said before
    of how long that stays so, and whether or not anybody heard that it has changed."""
    found: list[Any] = []
    cursor = None
    for _ in range(_PAGES):
        page = await client.list_tools(cursor=cursor, cache_mode="refresh")
        found += page.tools
        cursor = page.next_cursor
        if not cursor:
            break
    return found


async def _rounds(client: Any, name: str, arguments: dict[str, Any], context: ToolContext) -> Any:
    """Call a tool; what its server wants of a person meanwhile is asked by suspending the call."""

    async def progress(value: float, total: float | None, message: str | None) -> None:
        context.progress({"progress": value, "total": total, "message": message})

    answers: dict[str, Any] | None = None
    state: str | None = None
    meta = {"traceparent": trace} if (trace := TRACE.get()) else None
    for _ in range(_ROUNDS):
        answer = await client.session.call_tool(
            name,
            arguments,
            progress_callback=progress,
            input_responses=answers,
            request_state=state,
            allow_input_required=True,
            meta=meta,
        )
        if answer.result_type == "complete":
            return answer
        state = answer.request_state
        answers = {key: _asked(request, context) for key, request in (answer.input_requests or {}).items()}
    raise ToolError(f"{name!r} asked back more than {_ROUNDS} times")


def _asked(request: Any, context: ToolContext) -> Any:
    """Ask a person what a server wants to know.

    Raises:
        Suspend: there is no answer yet.
        ToolError: it is nothing that a person could be asked.
    """
    types = importlib.import_module("mcp_types")
    if request.method != "elicitation/create" or getattr(request.params, "mode", "form") != "form":
        raise ToolError(f"the server asks for {request.method}, which is not given to it")
    given = context.suspend({"message": request.params.message}, dict(request.params.requested_schema))
    if given is None or given is False:
        return types.ElicitResult(action="decline")
    return types.ElicitResult(action="accept", content=given if isinstance(given, dict) else {})


def _shown(block: Any) -> str:
    """Tell a model of a block of an answer; of what it cannot read, what it is."""
    match block.type:
        case "text":
            return str(block.text)
        case "image" | "audio":
            return f"[{block.type}: {block.mime_type}, {len(block.data) * 3 // 4} bytes]"
        case "resource":
            return str(getattr(block.resource, "text", "") or f"[resource: {block.resource.uri}]")
        case "resource_link":
            return f"[resource: {block.uri}]"
        case other:
            return f"[{other}]"
