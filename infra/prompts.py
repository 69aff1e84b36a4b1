"""The stack's agents, offered to whoever speaks the NATS agent protocol: a run for each prompt, its text as it comes.

A call that waits for a person's agreement, or for data, becomes a question to the caller; nobody's answer leaves it to
others (`ostinato waits`).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from actors.agent.definition import Agent
from bus import subjects
from bus.admission import FULL
from bus.connection import Connection
from bus.errors import TOO_LARGE, BadSubject, Refused
from bus.prompting import Cancel, Hosted, Prompt, Replies, Unfit, hosting
from infra.attachments import laid_open
from infra.client import Client
from infra.errors import PictureRefused, SettlementRefused
from infra.running import Running, Settling, Waiting
from schemas import codec
from schemas.context import Clock
from schemas.live import Delta
from schemas.runs import Problem

_CODES = {
    "invalid": 400,
    "too_long": 400,
    "unknown_agent": 404,
    "unknown_thread": 404,
    "aborted": 409,
    "overloaded": 429,
    "budget": 429,
}
"""Kinds of problems to codes; any other is the agent's fault."""
_YES = frozenset({"yes", "y", "approve", "approved", "ok"})


@asynccontextmanager
async def offered(
    connection: Connection, client: Client, agents: Sequence[Agent], version: str, clock: Clock
) -> AsyncIterator[None]:
    """Offer agents for as long as the block runs."""
    async with contextlib.AsyncExitStack() as stack:
        for agent in agents:
            offer = _Offer(client, agent.name)
            about = (agent.name, client.tenant, agent.description[:200], version)
            await stack.enter_async_context(hosting(connection, Hosted(*about, offer.answer, offer.stop), clock))
        yield


class _Offer:
    """Runs one agent for callers."""

    def __init__(self, client: Client, agent: str) -> None:
        self._client = client
        self._agent = agent

    async def answer(self, prompt: Prompt, replies: Replies) -> None:
        """Run the agent, and send what it says."""

        async def asked(waits: Waiting) -> Settling | None:
            return await _asked(waits, replies)

        text, pictures = laid_open(prompt.prompt, prompt.attachments or ())
        try:
            running = self._client.stream(self._agent, text, thread=prompt.thread, on_wait=asked, images=pictures)
            await replies.chunk("thread", {"thread": running.thread, "run": running.run})
            await _said(running, replies)
        except (BadSubject, PictureRefused) as error:
            raise Unfit(400, str(error)) from error
        except Refused as error:
            raise Unfit({TOO_LARGE: 400, FULL: 429}.get(error.code, 500), str(error)) from error
        if running.problem is not None:
            raise _unfit(running.problem)

    async def stop(self, cancel: Cancel) -> None:
        """End a run."""
        try:
            thread = subjects.checked(cancel.thread, "thread")
            await self._client.abort(thread, cancel.run, "cancelled by its caller")
        except BadSubject as error:
            raise Unfit(400, str(error)) from error
        except SettlementRefused as refusal:
            raise Unfit(409, str(refusal)) from refusal


async def _said(running: Running, replies: Replies) -> None:
    """Send the text; what was not heard of the last answer is sent with its end."""
    effect, text = "", ""
    async for frame in running:
        if not isinstance(frame, Delta) or not frame.text or frame.choice:
            continue
        text = frame.text if frame.effect != effect else text + frame.text
        effect = frame.effect
        await replies.chunk("response", frame.text)
    finished = running.finished
    if finished is not None and finished.text.startswith(text) and len(finished.text) > len(text):
        await replies.chunk("response", finished.text[len(text) :])
    elif finished is not None and not finished.text.startswith(text) and not text.endswith(finished.text):
        await replies.chunk("response", finished.text)


async def _asked(waits: Waiting, replies: Replies) -> Settling | None:
    """Put what a run waits for to its caller."""
    if waits.kind == "caller":
        return None
    if waits.kind == "data":
        wanted = f"{codec.encode(waits.payload).decode()} (JSON, of schema {codec.encode(waits.schema).decode()})"
        given = await replies.ask(waits.effect, f"{waits.problem + ': ' if waits.problem else ''}{wanted}")
        return None if given is None else waits.resume(_read(given))
    call = waits.call
    given = await replies.ask(waits.effect, f"May {call.name!r} be called with {call.arguments}? (yes, or why not)")
    if given is None:
        return None
    return waits.approve() if given.strip().lower() in _YES else waits.deny(given.strip())


def _read(given: str) -> object:
    try:
        return msgspec.json.decode(given)
    except msgspec.DecodeError:
        return given


def _unfit(problem: Problem) -> Unfit:
    return Unfit(_CODES.get(problem.kind, 500), problem.message)
