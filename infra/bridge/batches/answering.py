"""Answers the lines of batches: each is the request that it would be over HTTP, under a name that is always the same.

So a line that is asked again, by whoever owns its batch then, finds the generation that it began, and its answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from actors.batches.actor import LineAsked
from actors.batches.lines import LineAnswer
from actors.runtime.context import SystemChance, SystemIds
from bus.commands import send_command
from bus.connection import Connection
from bus.errors import BusError, Refused
from infra.bridge.bodies import refuse_deep
from infra.bridge.chat import chat_encoder
from infra.bridge.completions import CompletionEncoder, generations, read_completion
from infra.bridge.exchange import Exchange, failure, merged
from infra.bridge.openai import AGENT_PREFIX, BadRequest, command_data, read_request
from infra.bridge.pooling.calls import PoolerCalls
from infra.bridge.responses.asking import chat_request, read_responses
from infra.bridge.responses.events import ResponseEncoder
from infra.bridge.responses.noting import noted
from infra.errors import PictureRefused
from infra.follow import ReadBack
from infra.pictures import follow_pictured
from schemas import codec
from schemas.commands import AbortRun, Command, Generate
from schemas.context import Clock
from schemas.faults import fault
from schemas.live import Frame
from schemas.messages import Usage
from schemas.times import rfc3339

log = logging.getLogger(__name__)

LAST: Final = (1 << 31) - 1
"""The priority that everybody else goes before."""
_SLACK_S: Final = 60.0
_RETRY_S: Final = (0.25, 15.0)
"""The first and the longest pause before a line that found no room is asked again."""
_MOST_BROKEN: Final = 2
"""How often a line is asked again whose engine broke: it may have been killed."""
_WRONG: Final = {"stream": "the lines of a batch are answered whole: leave it out"}


@dataclass(frozen=True)
class Answering:
    """The `Answerer` of a stack."""

    connection: Connection
    read_back: ReadBack
    clock: Clock
    poolers: PoolerCalls
    nesting: int
    """Objects and lists within one another in a request."""
    _going: defaultdict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    """By tenant and name, the generations that are under way."""

    async def answer(self, asked: LineAsked) -> tuple[LineAnswer, Usage]:
        """Answer a line; one that finds no room is asked again until its time is over."""
        pause, broken = _RETRY_S[0], 0
        for attempt in range(1 << 30):
            try:
                return await self._once(asked, attempt)
            except BadRequest as error:
                busy = error.status in {429, 503} and error.body.error.code != "insufficient_quota"
                broken += error.body.error.code == "engine_error"
                again = busy or (error.body.error.code == "engine_error" and broken <= _MOST_BROKEN)
                if not again or self._left_s(asked) <= 0:
                    return _failed(error)
            except PictureRefused as error:
                return _failed(BadRequest(400, str(error), error.field, "invalid_value"))
            except Refused as error:
                if error.too_large:
                    return _failed(BadRequest(413, f"the request is too large: {error.description}", None, "too_large"))
                log.warning("line %s: %s", asked.name, error)
            except TimeoutError as error:
                log.warning("line %s: %s", asked.name, error)
            except BusError:
                raise
            except Exception as error:  # noqa: BLE001  one that breaks the code must not stop its batch
                log.error("line %s: %s", asked.name, fault(error))  # noqa: TRY400
                return _failed(BadRequest(500, "internal error: see the server's log", None, "internal"))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _RETRY_S[1])
        raise AssertionError("a line was asked too often")

    async def abort(self, tenant: str, name: str) -> None:
        """End the generations of a line."""
        for identity in sorted(self._going.pop((tenant, name), set())):
            data = AbortRun(reason="its batch is over")
            time = rfc3339(self.clock.now())
            command = Command(f"{identity}-a", tenant, "generation", identity, "abort", data, "batch", time)
            try:
                await send_command(self.connection, command)
            except (BusError, TimeoutError) as error:
                log.warning("generation %s is not aborted: %s", identity, error)

    async def _once(self, asked: LineAsked, attempt: int) -> tuple[LineAnswer, Usage]:
        _refuse(asked.body)
        body = codec.encode(asked.body)
        refuse_deep(body, self.nesting)
        if asked.endpoint == "/v1/embeddings":
            told = await self.poolers.embeddings(body, asked.tenant)
            return LineAnswer(200, codec.encode(told)), Usage(prompt_tokens=told.usage.prompt_tokens)
        exchange = _READERS[asked.endpoint](_Line(asked, attempt, self.clock.now()), body)
        chunks: list[dict[str, Any]] = []
        where = (asked.tenant, asked.name)
        self._going[where] = {command.id for command in exchange.commands}
        followed = [self._followed(asked, command) for command in exchange.commands]
        async with aclosing(merged(exchange, followed)) as together:
            async for index, frames in together:
                chunks += [chunk for frame in frames for chunk in exchange.encoder.feed(frame, index)]
                if exchange.encoder.problem is not None and len(exchange.commands) > 1:
                    break
        self._going.pop(where, None)
        if exchange.encoder.problem is not None:
            raise failure(exchange)
        return _whole(exchange.encoder.whole(chunks))

    async def _followed(self, asked: LineAsked, command: Command) -> AsyncIterator[Sequence[Frame]]:
        left_s = max(0.0, self._left_s(asked)) + _SLACK_S
        about = (self.connection, self.read_back, command, SystemChance(), SystemIds())
        async for frame in follow_pictured(*about, left_s):
            yield (frame,)

    def _left_s(self, asked: LineAsked) -> float:
        return (asked.deadline - self.clock.now()) / 1e6


@dataclass(frozen=True, slots=True)
class _Line:
    asked: LineAsked
    attempt: int
    now: int

    def command(self, data: object, timeout_s: float | None, part: int = 0) -> Command:
        """Make a command of what a line asks for; the same, whenever it is made."""
        assert isinstance(data, Generate)  # agents were refused before
        late = self.now + int(1e6 * timeout_s) if timeout_s is not None else self.asked.deadline
        data = msgspec.structs.replace(data, priority=LAST, deadline=min(late, self.asked.deadline))
        identity = f"{self.asked.name}-{self.attempt}" + (f"-{part}" if part else "")
        time = rfc3339(self.now)
        return Command(identity, self.asked.tenant, "generation", identity, "generate", data, "batch", time)

    @property
    def seconds(self) -> int:
        """What time it is."""
        return self.now // 1_000_000


def _chat(line: _Line, body: bytes) -> Exchange:
    asked = read_request(body)
    command = line.command(command_data(asked, None), asked.timeout_s)
    return Exchange([command], chat_encoder(asked, command, line.seconds), stream=False, with_usage=False)


def _completion(line: _Line, body: bytes) -> Exchange:
    asked = read_completion(body)
    commands = [line.command(data, asked.timeout_s, part) for part, data in enumerate(generations(asked))]
    encoder = CompletionEncoder(commands[0].id, asked, line.seconds)
    return Exchange(commands, encoder, stream=False, with_usage=False)


def _response(line: _Line, body: bytes) -> Exchange:
    asked = read_responses(body)
    for name in ("previous_response_id", "background"):
        if getattr(asked, name):
            raise BadRequest(400, f"{name}: not served in batches: leave it out", name, "invalid_value")
    chat = chat_request(asked)
    command = noted(line.command(command_data(chat, None), chat.timeout_s), asked, line.seconds)
    return Exchange([command], ResponseEncoder(command), stream=False, with_usage=False)


_READERS: Mapping[str, Callable[[_Line, bytes], Exchange]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/responses": _response,
}


def _refuse(body: Mapping[str, Any]) -> None:
    """See that a line asks for nothing that no batch has.

    Raises:
        BadRequest: it does.
    """
    for name, mend in _WRONG.items():
        if body.get(name):
            raise BadRequest(400, f"{name}: {mend}", name, "invalid_value")
    model = body.get("model")
    if isinstance(model, str) and model.startswith(AGENT_PREFIX):
        raise BadRequest(400, "model: agents are not asked in batches: give a model", "model", "invalid_value")


def _failed(problem: BadRequest) -> tuple[LineAnswer, Usage]:
    return LineAnswer(problem.status, codec.encode(problem.body)), Usage()


def _whole(answer: dict[str, Any]) -> tuple[LineAnswer, Usage]:
    return LineAnswer(200, codec.encode(answer)), _used(msgspec.to_builtins(answer.get("usage")) or {})


def _used(told: Mapping[str, Any]) -> Usage:
    """Read token counts, by whichever names."""

    def count(*names: str) -> int:
        return next((told[name] for name in names if name in told), 0)

    def detail(names: Sequence[str], name: str) -> int:
        found: int = next((told[one].get(name, 0) for one in names if told.get(one)), 0)
        return found

    return Usage(
        prompt_tokens=count("prompt_tokens", "input_tokens"),
        completion_tokens=count("completion_tokens", "output_tokens"),
        cached_tokens=detail(("prompt_tokens_details", "input_tokens_details"), "cached_tokens"),
        reasoning_tokens=detail(("completion_tokens_details", "output_tokens_details"), "reasoning_tokens"),
    )
