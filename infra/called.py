"""A run as a call: heard until it is over, or until it waits for somebody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from infra.client import Client
from infra.running import Running, Waiting
from schemas import codec
from schemas.live import Committed, Delta, Frame, Outcome
from schemas.runs import Problem, RunFailed, RunFinished

_SILENCE_S, _LONGEST_S = 0.3, 5.0
"""Of silence, before it is looked whether somebody is waited for."""

Say = Callable[[str], Awaitable[None]]
"""Takes what the model says, as it comes."""
Note = Callable[[Frame], Awaitable[None]]
"""Takes all that is heard of a run."""


async def unnoted(frame: Frame) -> None:
    """Heed nothing else."""


@dataclass(frozen=True, slots=True)
class Came:
    """How far a run came."""

    thread: str
    run: str
    ended: RunFinished | None = None
    problem: Problem | None = None
    """Why there is no answer."""
    waits: tuple[Waiting, ...] = ()
    """What it waits for."""

    def plain(self) -> dict[str, Any]:
        """Tell it as a program reads it."""
        status = "finished" if self.ended else "failed" if self.problem else "waiting"
        told: dict[str, Any] = {"thread": self.thread, "run": self.run, "status": status}
        if self.ended is not None:
            told |= {"text": self.ended.text, "steps": self.ended.steps, "cost": self.ended.cost}
        if self.problem is not None:
            told["problem"] = self.problem.message
        if self.waits:
            told["waits"] = [_wait(one) for one in self.waits]
        return told

    def text(self) -> str:
        """Tell it as a model reads it."""
        if self.ended is not None:
            return self.ended.text
        if self.problem is not None:
            return self.problem.message
        told = ((one.kind, one.call.name, one.call.arguments, one.effect) for one in self.waits)
        asked = "\n".join(f"- {kind}: {tool} {arguments} (effect {effect})" for kind, tool, arguments, effect in told)
        return (
            f"The run waits for somebody to answer:\n{asked}\nAsk the person, then call `answer_wait` with thread "
            f"{self.thread!r}, run {self.run!r}, the effect, and what they said."
        )


def _wait(one: Waiting) -> dict[str, Any]:
    told = {"kind": one.kind, "thread": one.thread, "effect": one.effect}
    told |= {"tool": one.call.name, "arguments": one.call.arguments}
    if one.payload is not None:
        told["payload"] = one.payload
    return told if one.schema is None else {**told, "schema": dict(one.schema)}


def asked(client: Client, agent: str, text: str, thread: str | None, **wanted: Any) -> Running:
    """Ask an agent, as soon as it is heard; `wanted` is as of `Client.stream`.

    Raises:
        BadSubject: the thread cannot be one.
    """
    return client.stream(agent, text, thread=thread, on_wait=_nobody, **wanted)


async def heard(client: Client, running: Running, say: Say, note: Note = unnoted) -> Came:
    """Hear of what was asked.

    Raises:
        BusError: the bus cannot be reached.
    """
    return await _heard(client, aiter(running), running.thread, running.run, say, (), note=note)


async def gone_on(
    client: Client,
    thread: str,
    run: str,
    answered: Sequence[str],
    say: Say,
    *,
    note: Note = unnoted,
    longest_s: float = _LONGEST_S,
) -> Came:
    """Go on hearing of a run, some of whose waits were just answered; in a silence it is looked at so often at least.

    Raises:
        BusError: the bus cannot be reached.
        TimeoutError: it did not end within a day.
    """
    return await _heard(client, client.attend(thread, run), thread, run, say, answered, note=note, longest_s=longest_s)


async def _nobody(wait: Waiting) -> None:
    """Leave it to whoever called."""


async def _heard(
    client: Client,
    frames: AsyncIterator[Frame],
    thread: str,
    run: str,
    say: Say,
    answered: Sequence[str],
    *,
    note: Note,
    longest_s: float = _LONGEST_S,
) -> Came:
    coming = asyncio.ensure_future(_next(frames))
    silence = _SILENCE_S
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=silence)
            if not done:
                silence = min(2 * silence, longest_s)
                waits = tuple(one for one in await client.waiting(thread) if one.effect not in answered)
                if waits:
                    return Came(thread, run, waits=waits)
                continue
            silence = _SILENCE_S
            frame = coming.result()
            if frame is not None:
                await note(frame)
            ended = _end(thread, run, frame)
            if ended is not None:
                return ended
            if isinstance(frame, Delta) and frame.text:
                await say(frame.text)
            coming = asyncio.ensure_future(_next(frames))
    finally:
        coming.cancel()


async def _next(frames: AsyncIterator[Frame]) -> Frame | None:
    return await anext(frames, None)


def _end(thread: str, run: str, frame: Frame | None) -> Came | None:
    match frame:
        case None:
            return Came(thread, run, problem=Problem(kind="engine", message="the run ended without an answer"))
        case Outcome(problem=problem) if problem is not None:
            return Came(thread, run, problem=problem)
        case Committed(type="run.finished", data=data):
            return Came(thread, run, ended=codec.decode(data, RunFinished))
        case Committed(type="run.failed", data=data):
            failed: RunFailed = codec.decode(data, RunFailed)
            return Came(thread, run, problem=failed.problem)
        case Committed(type="run.joined"):
            message = "the run under way took the message along: read its answer there"
            return Came(thread, run, problem=Problem(kind="aborted", message=message))
        case _:
            return None
