"""Asks an engine what a workload says, through HTTP or a pipe, and keeps the tokens and times of every turn."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from benchmarks.peers_workloads import Tokens, Turn, Workload
from infra.bench.client import Failed, Target, events


@dataclass(frozen=True, slots=True)
class Answer:
    """One turn as its client saw it; times in seconds."""

    asked: float
    first: float
    """When the first token came."""
    last: float
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Ran:
    """A program from its first request to its last token."""

    turns: tuple[Answer, ...]

    @property
    def seconds(self) -> float:
        """How long it took, tools included."""
        return self.turns[-1].last - self.turns[0].asked


class Door(Protocol):
    """The way into an engine."""

    def ask(self, prompt: Tokens, count: int) -> AsyncIterator[Sequence[int]]:
        """Yield the tokens of an answer as they come."""


class EngineFailed(Exception):
    """An engine did not start, went away, or answered something else than it was asked for."""


async def run(workload: Workload, door: Door) -> tuple[tuple[Ran, ...], float]:
    """Run all programs; give what came of each, and the seconds that all took.

    Raises:
        EngineFailed: Some answer is not whole.
    """
    began = time.perf_counter()
    try:
        if workload.together:
            ran = await asyncio.gather(*(_program(program, door) for program in workload.programs))
        else:
            ran = [await _program(program, door) for program in workload.programs]
    except (Failed, OSError, EOFError, ValueError) as failure:
        raise EngineFailed(f"{workload.name}: {failure!r}") from failure
    return tuple(ran), time.perf_counter() - began


async def _program(program: Sequence[Turn], door: Door) -> Ran:
    context: Tokens = ()
    answers: list[Answer] = []
    for turn in program:
        if turn.wait_s:
            await asyncio.sleep(turn.wait_s)
        context += turn.new
        answer = await _turn(context, turn.count, door)
        answers.append(answer)
        context += answer.tokens
    return Ran(tuple(answers))


async def _turn(prompt: Tokens, count: int, door: Door) -> Answer:
    tokens: list[int] = []
    asked = time.perf_counter()
    first = last = asked
    async for new in door.ask(prompt, count):
        last = time.perf_counter()
        if not tokens:
            first = last
        tokens += new
    if len(tokens) != count:
        raise EngineFailed(f"{len(tokens)} tokens came where {count} were asked for")
    return Answer(asked, first, last, tuple(tokens))


class OpenAI:
    """Completions as OpenAI's API has them, with the fields that vLLM added: ours and vLLM's."""

    def __init__(self, url: str, model: str) -> None:
        self._target = Target(f"{url}/v1/completions", "openai", model, {})
        self._fixed: Mapping[str, Any] = {
            "model": model,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "return_token_ids": True,
        }

    async def ask(self, prompt: Tokens, count: int) -> AsyncIterator[Sequence[int]]:
        """Ask by HTTP."""
        body = msgspec.json.encode({**self._fixed, "prompt": prompt, "max_tokens": count})
        async for event in events(self._target, body):
            _refuse(event)
            for choice in event.get("choices", ()):
                if tokens := choice.get("token_ids"):
                    yield tokens


class LlamaServer:
    """llama-server's own endpoint, which tells the tokens of its answers."""

    def __init__(self, url: str) -> None:
        self._target = Target(f"{url}/completion", "openai", "", {})
        self._fixed: Mapping[str, Any] = {
            "temperature": 0,
            "samplers": ["temperature"],
            "ignore_eos": True,
            "cache_prompt": True,
            "stream": True,
            "return_tokens": True,
        }

    async def ask(self, prompt: Tokens, count: int) -> AsyncIterator[Sequence[int]]:
        """Ask by HTTP."""
        body = msgspec.json.encode({**self._fixed, "prompt": prompt, "n_predict": count})
        async for event in events(self._target, body):
            _refuse(event)
            if tokens := event.get("tokens"):
                yield tokens


def _refuse(event: Mapping[str, Any]) -> None:
    if told := event.get("error"):
        raise EngineFailed(str(told))


class Piped:
    """An engine behind `peers_pipe`: every answer's tokens are handed to whoever waits for them."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._names = itertools.count()
        self._open: dict[int, asyncio.Queue[tuple[list[int], bool] | None]] = {}
        self._listening = asyncio.create_task(self._listen())

    async def ask(self, prompt: Tokens, count: int) -> AsyncIterator[Sequence[int]]:
        """Ask by a line."""
        assert self._process.stdin is not None
        name = next(self._names)
        heard = self._open[name] = asyncio.Queue()
        self._process.stdin.write(json.dumps([name, prompt, count]).encode() + b"\n")
        while (told := await heard.get()) is not None:
            tokens, done = told
            if tokens:
                yield tokens
            if done:
                del self._open[name]
                return
        raise EngineFailed("the engine went away")

    async def close(self) -> None:
        """Let it end by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._listening

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            for name, tokens, done in msgspec.json.decode(line):
                self._open[name].put_nowait((tokens, done))
        for waiting in self._open.values():
            waiting.put_nowait(None)
