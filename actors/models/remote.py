"""A model of a provider elsewhere, asked over HTTP in the provider's own wire format."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from actors.errors import CallFailed, ProviderFailed
from actors.models.forms import formed, is_of_form, is_read, worded
from actors.models.keys import scrubbed
from actors.models.provider import ModelAnswer, ModelCall, OnText, Piece
from actors.models.registry import Provider, Reached, reach
from actors.models.sight import Show, as_it_is, with_pictures
from actors.models.signing import Signer
from actors.models.transport import Answered, Lost, Slow, Transport
from actors.models.wires.failures import broken, late, refused, unheeded, unreachable
from actors.models.wires.formats import WIRES
from actors.models.wires.wire import Reader
from schemas.context import Clock
from schemas.programs import ProgramNote
from schemas.runs import Problem

log = logging.getLogger(__name__)

_STREAMS: Final = ("text/event-stream", "application/vnd.amazon.eventstream")
UNREADABLE: Final = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError, msgspec.MsgspecError)
"""What a reader raises where a stream has another form than its format."""
_MOST_REFUSED: Final = 1000
_AFTER_END_S: Final = 1.0
"""How long a connection may stay open when all is said; one that is closed in time is used again."""
AfterCrash = Literal["repeat", "fail"]


@dataclass(frozen=True)
class Outside:
    """What all models elsewhere share."""

    transport: Callable[[], Awaitable[Transport]]
    """Made when it is first needed: most processes ask nobody elsewhere."""
    environment: Mapping[str, str]
    """Where keys are."""
    clock: Clock
    first_s: float = 60.0
    """Seconds until the first word of an answer must have come."""
    after_crash: AfterCrash = "repeat"
    """What becomes of a call that an ended process may have made already: no provider can be asked for its answer."""
    show: Show = as_it_is
    """Gives pictures whole."""
    signer: Signer = field(default_factory=Signer, repr=False)
    silence_s: float = 120.0
    """Seconds for which an answer may not go on, though its provider says that it is still there."""


class RemoteModel:
    """The `ModelProvider` of one model elsewhere."""

    def __init__(self, name: str, provider: Provider, model: str, outside: Outside) -> None:
        self._name = name
        self._provider = provider
        self._model = model
        self._outside = outside
        self._open: dict[str, asyncio.Timeout] = {}
        self._refused: dict[str, str] = {}
        """By the schema, why the provider binds no answer to it."""

    @property
    def under_way(self) -> int:
        """How many calls are under way."""
        return len(self._open)

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Ask; no problem that it raises holds a key.

        Raises:
            ProviderFailed: the provider did not answer.
            CallFailed: the key is missing, the call is over, or is not to be made again.
        """
        reached = reach(self._name, self._provider, self._model, self._outside.environment, call.headers)
        if call.again and self._outside.after_crash == "fail":
            message = f"{reached.name}: its process ended while it was asked, and `models.after_crash` is `fail`"
            raise CallFailed(Problem(kind="engine", message=message))
        try:
            return await self._within(call, reached, on_text)
        except CallFailed as failure:
            raise discreet(failure, reached, self._outside.signer) from None

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        """Refuse: it takes the model's own chances.

        Raises:
            ProviderFailed: always.
        """
        raise unheeded(f"{self._name}/{self._model}", "use_beam_search", "cannot be searched: use an engine here")

    async def note(self, note: ProgramNote) -> None:
        """Nothing: a provider elsewhere does not want to know."""

    async def abort(self, request: str) -> None:
        """Close the connection of a call that is under way."""
        scope = self._open.get(request)
        if scope is not None:
            scope.reschedule(asyncio.get_running_loop().time())

    async def _within(self, call: ModelCall, reached: Reached, on_text: OnText) -> ModelAnswer:
        """Ask until the call's deadline, or until it is aborted."""
        left = (call.deadline - self._outside.clock.now()) / 1e6 if call.deadline else None
        scope = asyncio.timeout(left)
        self._open[call.request] = scope
        try:
            async with scope:
                return await self._ask(call, reached, on_text)
        except TimeoutError:
            if not scope.expired():
                raise late(reached.name, "the connection timed out") from None
            if left is not None and self._outside.clock.now() >= call.deadline:
                raise CallFailed(Problem(kind="timeout", message=f"{reached.name}: the deadline has passed")) from None
            raise CallFailed(Problem(kind="aborted", message=f"{reached.name}: the call was aborted")) from None
        finally:
            if self._open.get(call.request) is scope:
                del self._open[call.request]

    async def _ask(self, call: ModelCall, reached: Reached, on_text: OnText) -> ModelAnswer:
        """Ask; a form that the provider refuses is asked for in words, where whoever calls has the answer mended."""
        call = formed(await with_pictures(call, self._outside.show), reached.provider)
        if not is_read(call):
            return await self._asked(call, reached, on_text)
        schema = hashlib.sha256(msgspec.json.encode(call.sampling.structured)).hexdigest()
        why, attempt = self._refused.get(schema, ""), _Attempt(on_text)
        if not why:
            try:
                return await self._asked(call, reached, attempt)
            except ProviderFailed as failure:
                if attempt.heard or not is_of_form(failure.problem):
                    raise
                why = scrubbed(failure.problem.message, self._outside.signer.secrets(reached))
        answer = await self._asked(worded(call), reached, on_text, "words")
        if len(self._refused) < _MOST_REFUSED:
            self._refused[schema] = why  # it was the form, indeed
        return replace(answer, worded=why)

    async def _asked(self, call: ModelCall, reached: Reached, on_text: OnText, way: str = "") -> ModelAnswer:
        wire = WIRES[reached.provider.speaks(reached.model)]
        try:
            request = wire.request(call, reached)
        except msgspec.MsgspecError as error:
            raise unheeded(reached.name, "messages", f"cannot be sent this: {error}") from error
        headers = {"accept": _STREAMS[0], **reached.headers, **request.headers}
        if reached.provider.idempotency:
            headers[reached.provider.idempotency] = hashlib.sha256((call.request + way).encode()).hexdigest()[:32]
        headers |= await self._outside.signer.headers(reached, request)
        transport = await self._outside.transport()
        first = asyncio.timeout(self._outside.first_s or None)
        try:
            async with first, transport.post(request.url, headers, request.body) as answered:
                await self._stream_or_raise(answered, reached)
                reading = _Reading(wire.reader(call, reached), reached, on_text, first, self._outside.silence_s)
                return await reading.whole(answered)
        except TimeoutError:
            if not first.expired():
                raise
            raise late(reached.name, f"no word came within {self._outside.first_s:g} s") from None
        except Slow as slow:
            raise late(reached.name, str(slow)) from None
        except Lost as lost:
            raise unreachable(reached.name, str(lost)) from None

    async def _stream_or_raise(self, answered: Answered, reached: Reached) -> None:
        """See that what comes is an answer's stream."""
        kind = answered.headers.get("content-type", "")
        if answered.status == 200 and kind.startswith(_STREAMS):
            return
        body = await answered.whole()
        if answered.status < 400:
            told = f"it answered {answered.status} with {kind or 'nothing'} in place of a stream: see its `url`"
            raise broken(reached.name, told)
        raise refused(reached.name, answered.status, answered.headers, body, self._outside.clock.now())


@dataclass
class _Attempt:
    """Notes whether anything was heard of an answer: then it is not asked for in another way."""

    on_text: OnText
    heard: bool = False

    async def __call__(self, piece: Piece, /) -> None:
        self.heard = True
        await self.on_text(piece)


@dataclass(frozen=True)
class _Reading:
    """Reads one answer; what cannot be read is the provider's fault."""

    reader: Reader
    reached: Reached
    on_text: OnText
    first: asyncio.Timeout
    """Until when the answer must have begun."""
    silence_s: float

    async def whole(self, answered: Answered) -> ModelAnswer:
        """Read a stream to its end; one that broke off after the answer's own end is whole."""
        heard, quiet = self.reader.heard, asyncio.timeout(None)
        try:
            async with quiet:
                await self._follow(answered, quiet)
        except TimeoutError:
            if not quiet.expired():
                raise
            if heard.finish is None:
                raise late(self.reached.name, f"it did not go on for {self.silence_s:g} s") from None
        except (Lost, Slow):
            if heard.finish is None:
                raise
        try:
            answer = self.reader.end()
            # what another type slipped into could be written to the log, and not be read again
            msgspec.json.decode(msgspec.json.encode(answer), type=ModelAnswer)
        except UNREADABLE as error:
            raise _garbled(self.reached, error) from None
        return answer

    async def _follow(self, answered: Answered, quiet: asyncio.Timeout) -> None:
        heard, clock = self.reader.heard, asyncio.get_running_loop().time
        quiet.reschedule(clock() + self.silence_s)
        async for data in answered.body:
            events, over, last = heard.events, heard.over, quiet.when()
            quiet.reschedule(None)  # whoever listens may take their time
            for piece in self._fed(data):
                await self.on_text(piece)
            if heard.begun:
                self.first.reschedule(None)
            if heard.over and not over:
                last = clock() + _AFTER_END_S
            elif heard.events > events:
                last = clock() + self.silence_s
            quiet.reschedule(last)

    def _fed(self, data: bytes) -> list[Piece]:
        try:
            return self.reader.feed(data)
        except UNREADABLE as error:
            raise _garbled(self.reached, error) from None


def _garbled(reached: Reached, error: Exception) -> ProviderFailed:
    return broken(reached.name, f"its stream holds what is no part of an answer ({type(error).__name__})")


def discreet(failure: CallFailed, reached: Reached, signer: Signer) -> CallFailed:
    """Take the key out of what is told, and name the variable that holds it where that is what is wrong."""
    problem = failure.problem
    message = scrubbed(problem.message, signer.secrets(reached))
    if problem.kind == "key" and reached.key is not None:
        message += f" (the key is in {reached.key.variable})"
        problem = replace(problem, field=reached.key.variable)
    told = replace(problem, message=message)
    return ProviderFailed(told, failure.elsewhere) if isinstance(failure, ProviderFailed) else CallFailed(told)
