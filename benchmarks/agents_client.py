"""Programs against a server that speaks OpenAI's API: open between programs, closed within one.

Prompts are token ids, and each is the true history: what the server answered, and what the tool is said to have found.
A turn is asked for when its tool has taken its time, however late the turn before ended.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

import httpx
import msgspec

from benchmarks.agents_outcome import Outcome, Served
from benchmarks.agents_programs import SYSTEM_TOKENS, Row, tokens

_TIMEOUT_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Server:
    """Who is asked, and how."""

    name: str
    url: str
    model: str
    cap: int = 0
    """Programs that the client lets go on at once; 0 is all of them."""
    hints: bool = True
    """Whether requests say which program they are of, and the client what tools are called and which are over."""
    by_age: bool = False
    """Whether requests have the arrival of their program as their priority."""


@dataclass(slots=True)
class _Run:
    server: Server
    seed: int
    client: httpx.AsyncClient
    outcome: Outcome
    started: float
    systems: set[int] = field(default_factory=set)
    """System prompts that were computed."""
    digests: dict[int, str] = field(default_factory=dict)


async def serve(server: Server, rows: list[Row], seed: int) -> Outcome:
    """Run all programs; say what came of them."""
    outcome = Outcome(server.name)
    # servers close what was idle for 5 s, and one that does so as it is asked would end the run
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0)
    headers = {"Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=server.url, timeout=_TIMEOUT_S, limits=limits, headers=headers) as client:
        run = _Run(server, seed, client, outcome, time.perf_counter())
        gate = asyncio.Semaphore(server.cap or len(rows))
        async with asyncio.TaskGroup() as group:
            for row in rows:
                group.create_task(_program(run, row, gate))
        outcome.span_s = time.perf_counter() - run.started
    told = "".join(run.digests[row.program] for row in rows)
    outcome.digest = blake2b(told.encode(), digest_size=8).hexdigest()
    return outcome


async def _program(run: _Run, row: Row, gate: asyncio.Semaphore) -> None:
    await asyncio.sleep(max(0.0, run.started + row.arrival_s - time.perf_counter()))
    served = Served(row)
    async with gate:
        history = tokens(run.seed, 10_000_000 + row.system, count=SYSTEM_TOKENS)
        history += tokens(run.seed, row.program, 1_000, count=row.user_tokens)
        said = list[int]()
        seen = 0
        for number, out in enumerate(row.outputs):
            answer, cached = await _turn(run, row, history, out, served)
            fresh = len(history) - max(seen, SYSTEM_TOKENS if row.system in run.systems else 0)
            run.systems.add(row.system)
            computed = len(history) - (cached or 0)
            run.outcome.prefilled += computed
            run.outcome.recomputed += max(computed - fresh, 0)
            run.outcome.counted = run.outcome.counted and cached is not None
            run.outcome.output_tokens += len(answer)
            history += answer
            said += answer
            seen = len(history)
            if number < len(row.turns):
                turn = row.turns[number]
                waiting = asyncio.create_task(_note(run, row, event="tool_began", call=f"{number}", tool=turn.tool))
                await asyncio.sleep(turn.tool_s)
                await waiting
                history += tokens(run.seed, row.program, number, count=turn.observed)
    served.completion_s = time.perf_counter() - run.started - row.arrival_s
    await _note(run, row, event="ended")
    run.digests[row.program] = blake2b(repr(said).encode(), digest_size=8).hexdigest()
    run.outcome.programs.append(served)


async def _note(run: _Run, row: Row, **about: str) -> None:
    """Say what goes on between two requests. That a tool has returned needs no saying: the next request follows."""
    if run.server.hints:
        note = {"session_id": f"{run.seed}-{row.name}", **about}
        answer = await run.client.post("/v1/sessions/notes", content=msgspec.json.encode(note))
        answer.raise_for_status()


async def _turn(run: _Run, row: Row, history: list[int], out: int, served: Served) -> tuple[list[int], int | None]:
    """Ask once; return the answer's tokens, and how many of the prompt's were in the cache, if the server says so."""
    body: dict[str, Any] = {
        "model": run.server.model,
        "prompt": history,
        "max_tokens": out,
        "min_tokens": out,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if run.server.hints:
        body["session_id"] = f"{run.seed}-{row.name}"
    if run.server.by_age:
        body["priority"] = row.program
    asked, said = time.perf_counter(), list[int]()
    cached: int | None = None
    async with run.client.stream("POST", "/v1/completions", content=msgspec.json.encode(body)) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{run.server.name}: status {response.status_code}: {(await response.aread())[:300]!r}")
        async for line in response.aiter_lines():
            if not line.startswith("data:") or line == "data: [DONE]":
                continue
            event = msgspec.json.decode(line[5:])
            if "error" in event:
                raise RuntimeError(f"{run.server.name}: {event['error']}")
            for choice in event.get("choices", ()):
                if not said and choice.get("token_ids"):
                    served.first_token_s.append(time.perf_counter() - asked)
                said += choice.get("token_ids") or ()
            details = (event.get("usage") or {}).get("prompt_tokens_details") or {}
            cached = details.get("cached_tokens", cached)
    if len(said) != out:
        raise RuntimeError(f"{run.server.name}: {len(said)} of {out} tokens came of {row.name}")
    return said, cached
