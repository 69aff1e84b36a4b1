"""Calls of MCP clients that are under way: a client that cancels one ends the run that the call hears of.

How a client says so depends on how it came. On standard input and output it is a notification, and the SDK ends the
call at the same time. From the revision of 2026-07-28 on, HTTP clients close the answer's stream. Before it they send
a notification in a request of its own, which finds the call by the session that the server gave the client; a
connection that breaks says nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bus.errors import BusError
from infra.client import Client
from infra.errors import SettlementRefused
from schemas.context import TRACE, traced
from schemas.tracing import trace_context, within

log = logging.getLogger(__name__)

Context = Any
"""The SDK's, of a request."""
_Name = tuple[Hashable, str]
_MOST_BROKEN = 1000
_REASON = "an MCP client cancelled the call"


@dataclass(slots=True, eq=False)
class Call:
    """A call, and the run that it hears of, once that is known."""

    client: Client
    thread: str = ""
    run: str = ""

    def about(self, thread: str, run: str) -> None:
        """Note which run it is."""
        self.thread, self.run = thread, run


@dataclass(frozen=True, slots=True)
class Origin:
    """Where requests come from."""

    client_of: Callable[[Context], Client]
    """Reaches the stack as whoever sent a request."""
    session_of: Callable[[Context], Hashable | None]
    """Names what a client's requests have in common, and no other client's; None where nothing does."""
    left: Callable[[Context], bool]
    """Whether a client cancelled its call by going away."""


@dataclass(frozen=True, slots=True)
class Calls:
    """Those that are under way, by their client's session and the name that it gave them."""

    origin: Origin
    _named: dict[_Name, Call] = field(default_factory=dict)
    _broken: OrderedDict[_Name, Call] = field(default_factory=OrderedDict)
    """Calls that ended before they came to anything: why, the client may still say."""
    _ending: set[asyncio.Task[None]] = field(default_factory=set)

    @contextmanager
    def entered(self, context: Context) -> Iterator[Call]:
        """Note a call for as long as it is under way, and work on it within the trace that its client named."""
        call = Call(self.origin.client_of(context))
        session = self.origin.session_of(context)
        name = None if session is None else (session, str(context.request_id))
        if name is not None:
            self._named[name] = call
        try:
            with traced(trace_in(context.meta) or TRACE.get()):
                yield call
        except asyncio.CancelledError:
            if self.origin.left(context):
                self._end(call)
            elif name is not None:
                self._broken[name] = call
                if len(self._broken) > _MOST_BROKEN:
                    self._broken.popitem(last=False)
            raise
        finally:
            if name is not None and self._named.get(name) is call:
                del self._named[name]

    def cancel(self, context: Context, request: object) -> None:
        """End what a call of the same client is about; one that is over by now is nothing to be ended."""
        name = (self.origin.session_of(context), str(request))
        call = self._named.get(name) or self._broken.pop(name, None)
        if call is not None:
            self._end(call)

    def _end(self, call: Call) -> None:
        if not call.run:
            return
        # in a task of its own: the call is being cancelled, and so would be whatever it waits for
        task = asyncio.create_task(_ended(call), name=f"mcp cancel {call.run}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def trace_in(meta: Mapping[str, Any] | None) -> str:
    """Read the trace context that an MCP client wrote into a message's `_meta`; empty where there is none."""
    given = (meta or {}).get("traceparent")
    found = trace_context(given if isinstance(given, str) else "", "", "")
    return within(given, found.parent) if isinstance(given, str) and found.parent else ""


async def _ended(call: Call) -> None:
    try:
        await call.client.abort(call.thread, call.run, _REASON)
    except SettlementRefused as refused:
        log.info("run %s was over before it was cancelled: %s", call.run, refused)
    except (BusError, TimeoutError) as error:
        log.warning("run %s may go on, though it was cancelled: %s", call.run, error)
