"""The frontend: chat template and tokens in, tokens to text and tool calls out. Stateless but for calls under way.

Tokens come back over core NATS, so some may be lost: every output says how many came before it, and a gap, a new
scheduler, a reconnection or a long silence makes the frontend ask again from where it stands. A scheduler that
knows the request sends what is missing; one that does not gets the request anew with the tokens so far, and draws
the same further tokens, because chance is a function of seed and position.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

import msgspec
from msgspec.structs import replace

from actors.errors import CallFailed
from actors.models.provider import ModelAnswer, ModelCall, OnText
from actors.serving.beams import search
from actors.serving.cutting import Cutter, call_id
from actors.serving.open_call import OpenCall
from actors.serving.told import told_prompt
from bus import subjects
from bus.connection import Connection, Message
from bus.errors import BusError
from engine.core.transcript import sampled
from engine.errors import BadRequest, CallMissing, TemplateError
from engine.requests import check_adapter, raw_tokens, settled, truncated
from engine.text.answers import AnswerReader
from engine.text.parsers import NOTHING
from engine.text.prompts import Customs, Prompt, Prompter
from schemas import codec
from schemas.commands import RawPrompt
from schemas.context import traced
from schemas.generation import (
    BROKEN_OFF,
    Abort,
    Accepted,
    Announce,
    Answer,
    Attach,
    FinishReason,
    Output,
    Outputs,
    Refused,
    Submit,
    TokenLogprobs,
)
from schemas.messages import ToolCall, Usage
from schemas.programs import ProgramNote
from schemas.runs import ErrorKind, Problem

log = logging.getLogger(__name__)

_AS_THE_MODEL: Final = Customs()

_SCHEDULER_S = 15.0
"""How long a call waits for a scheduler to be there, seconds: one that ended is back sooner, and agents ask again."""
_RETRY_S = 0.2
_ENDLESS = 1 << 62

_FAILED: Final = "the model could not compute this request: see the worker's log"

_NOTHING_FOUND: Final = "max_tokens: no answer comes to its end in so many tokens"

_PROBLEMS: dict[str, ErrorKind] = {
    "too_long": "too_long",
    "overloaded": "overloaded",
    "draining": "overloaded",
    "invalid": "invalid",
    "unknown": "engine",
}


class Frontend:
    """The `ModelProvider` of one engine on the bus."""

    def __init__(
        self,
        connection: Connection,
        engine: str,
        checkpoint: Path,
        name: str,
        context_length: int = _ENDLESS,
        customs: Customs = _AS_THE_MODEL,
        adapters: frozenset[str] = frozenset(),
    ) -> None:
        """Read the checkpoint's tokenizer, and chat template if it has one; `context_length` and `adapters` are the
        engine's.

        Raises:
            CheckpointError: they cannot be read, or there is no tokenizer.
            TemplateError: the template is not valid Jinja.
            UnknownParser: `customs` names none that there is.
        """
        self._connection = connection
        self._engine = engine
        self._name = name
        self._context_length = context_length
        self._adapters = adapters
        self._prompter = Prompter.load(checkpoint, customs)
        self._open: dict[str, OpenCall] = {}

    @property
    def prompter(self) -> Prompter:
        """What makes prompts."""
        return self._prompter

    async def start(self) -> None:
        """Listen for tokens and for schedulers that start."""
        await self._connection.subscribe(subjects.outputs(self._engine, self._name), self._hear)
        await self._connection.subscribe(subjects.announcements(self._engine), self._heed)
        self._connection.on_reconnect(self._ask_for_all)

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Generate, reporting text and reasoning as they come.

        Raises:
            CallFailed: the prompt does not fit, the engine is overloaded or gone, or the model failed.
        """
        submit, prompt = self._submission(call)
        with self._under_way(self._opened(call, submit, prompt)) as opened:
            await self._submit(submit, call.prompt)
            return await self._read(call, opened, on_text)

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        """Find the likeliest answers, best first; they are told when they are found.

        Raises:
            CallFailed: the prompt does not fit, the engine is overloaded or gone, or the model failed.
        """
        submit, prompt = self._submission(call)
        cached: list[int] = []

        async def ask(one: Submit) -> TokenLogprobs:
            opened = self._opened(call, one, prompt)
            opened.tokens.extend(one.output)
            opened.logprobs.extend(one.logprobs)
            with self._under_way(opened):
                await self._submit(one, call.prompt)
                finish = None
                while finish is None:
                    _, finish = await self._next(opened)
            if opened.problem:
                self._refuse(opened)
            if finish in BROKEN_OFF or len(opened.logprobs) == len(one.logprobs):
                kind: ErrorKind = "timeout" if finish == "timeout" else "engine"
                raise CallFailed(Problem(kind=kind, message=f"the search was broken off ({finish})"))
            cached.append(opened.cached)
            return opened.logprobs[-1]

        assert call.length_penalty is not None
        answers = []
        likely = await search(submit, call.n, call.length_penalty, self._context_length, ask)
        if not likely:
            raise CallFailed(
                Problem(kind="invalid", message="max_tokens: no answer comes to its end in so many tokens")
            )
        for index, found in enumerate(likely):
            opened = self._opened(call, submit, prompt)
            opened.tokens.extend(found.tokens)
            opened.cached = cached[0]
            reader = AnswerReader(self._prompter.tokenizer, prompt.wanted, (), submit.sampling)
            reader.read(found.tokens)
            reader.finish()
            answers.append(self._answer(replace(call, choice=index), opened, reader, found.finish))
        return answers

    @contextmanager
    def _under_way(self, opened: OpenCall) -> Iterator[OpenCall]:
        """Hear what comes for a call."""
        request = opened.submit.request
        self._open[request] = opened
        opened.look()
        try:
            yield opened
        finally:
            self._open.pop(request, None)
            if opened.looking is not None:
                opened.looking.cancel()

    @property
    def under_way(self) -> int:
        """How many calls wait for tokens."""
        return len(self._open)

    async def abort(self, request: str) -> None:
        """Have the scheduler stop a generation; it does not matter whether it knows one."""
        await self._connection.publish(subjects.abort(self._engine), codec.encode(Abort(request=request)))

    async def note(self, note: ProgramNote) -> None:
        """Tell the scheduler of a program between its calls."""
        try:
            await self._connection.publish(subjects.note(self._engine), codec.encode(note))
        except (BusError, TimeoutError) as error:
            log.info("program %s: the scheduler is not told: %s", note.program, error)

    def _submission(self, call: ModelCall) -> tuple[Submit, Prompt]:
        prompter = self._prompter
        try:
            if call.prompt is not None:
                prompt = Prompt(tuple(raw_tokens(call.prompt, prompter.tokenizer)), NOTHING)
            else:
                prompt = prompter.prompt(call.messages, call.tools, call.rendering, call.calling)
            sampling = settled(prompt.bound(call.sampling), prompter.tokenizer, call.bad_words)
            check_adapter(sampling, self._adapters)
            tokens = truncated(prompt.tokens, sampling, self._context_length)
        except TemplateError as error:
            raise CallFailed(Problem(kind="invalid", message=str(error), field="messages")) from error
        except BadRequest as error:
            raise CallFailed(Problem(kind="invalid", message=str(error), field=error.field)) from error
        submit = Submit(
            request=call.request,
            prompt=tokens,
            sampling=sampling,
            frontend=self._name,
            tenant=call.tenant,
            traceparent=call.traceparent,
            priority=call.priority,
            deadline=call.deadline,
            cache_salt=call.cache_salt,
            read_cache=call.read_cache,
            program=call.program,
            agent=call.agent,
        )
        return submit, prompt

    def _opened(self, call: ModelCall, submit: Submit, prompt: Prompt) -> OpenCall:
        return OpenCall(submit, prompt, self._prompter.tokenizer, call.return_token_ids)

    async def _read(self, call: ModelCall, opened: OpenCall, on_text: OnText) -> ModelAnswer:
        answer = AnswerReader(self._prompter.tokenizer, opened.prompt.wanted, call.stop, opened.submit.sampling)
        cutter = Cutter(call.stream_interval, opened.telling, _named(call))
        while True:
            tokens, finish = await self._next(opened)
            for token in tokens:
                cutter.take(answer.read((token,)), answer.shown)
            if over := finish is not None or answer.stopped:
                cutter.take(answer.finish(), answer.shown)
            for piece in cutter.rest() if over else cutter.cut(answer.count):
                await on_text(piece)
            if answer.stopped and finish is None:
                await self.abort(opened.submit.request)
            if answer.stopped and finish in {None, "length"}:
                finish = "length" if opened.closed_within(answer.count) else "stop"
            if finish is not None:
                return self._answer(call, opened, answer, finish)

    def _answer(self, call: ModelCall, opened: OpenCall, answer: AnswerReader, finish: FinishReason) -> ModelAnswer:
        if finish == "error" and opened.problem:
            self._refuse(opened)
        if finish == "error":
            raise CallFailed(Problem(kind="engine", message=_FAILED))
        try:
            opened.prompt.check(answer.calls, finish)
        except CallMissing as error:
            raise CallFailed(Problem(kind="tool", message=str(error), field="tool_choice")) from error
        calls = tuple(
            ToolCall(id=call_id(_named(call), index), name=wanted.name, arguments=wanted.arguments)
            for index, wanted in enumerate(answer.calls)
        )
        # others may have come behind the text that ended it
        logprobs, token_ids = opened.telling.between(0, answer.count)
        # a call that had to be brought to its end is one, and those of an answer that was cut off are not carried out
        kept = finish == "stop" or (finish == "length" and opened.closed_within(answer.count))
        return ModelAnswer(
            text=answer.text,
            finish_reason="tool_calls" if calls and finish == "stop" else finish,
            usage=Usage(
                prompt_tokens=len(opened.submit.prompt),
                completion_tokens=answer.count,
                cached_tokens=opened.cached,
                preemptions=opened.preemptions,
                recomputed_tokens=opened.recomputed,
                reasoning_tokens=answer.reasoning_tokens,
            ),
            tool_calls=calls if kept else (),
            engine=self._engine,
            reasoning=answer.reasoning,
            logprobs=logprobs,
            prompt_logprobs=()
            if opened.submit.sampling.prompt_logprobs is None
            else told_prompt(opened.submit.prompt, opened.prompt_logprobs, self._prompter.tokenizer),
            token_ids=token_ids,
            prompt_token_ids=opened.submit.prompt if call.return_token_ids else (),
            sampled=sampled(opened.submit.prompt, opened.tokens[: answer.count]),
            cut_off=() if kept else calls,
            stopped_at=answer.met if finish == "stop" else "",
        )

    def _refuse(self, opened: OpenCall) -> NoReturn:
        """Say what of a call could not be computed."""
        structured = opened.submit.sampling.structured
        field_name = None if structured is None else structured.field
        message = opened.problem if field_name is None else f"{field_name}: {opened.problem}"
        raise CallFailed(Problem(kind="invalid", message=message, field=field_name))

    async def _next(self, opened: OpenCall) -> tuple[tuple[int, ...], FinishReason | None]:
        """Wait for tokens; ask after the request whenever it is quiet for long."""
        while (said := await opened.outputs.get()) is None:
            await self._ask(opened)
        return said

    async def _hear(self, message: Message) -> None:
        outputs: Outputs = codec.decode(message.data, Outputs)
        for output in outputs.outputs:
            opened = self._open.get(output.request)
            if opened is not None:
                await self._take(opened, output)

    async def _take(self, opened: OpenCall, output: Output) -> None:
        opened.heard = time.monotonic()
        have = len(opened.tokens)
        if output.start > have:
            with traced(opened.submit.traceparent):
                log.info("request %s: tokens %s to %s are missing", output.request, have, output.start)
            await self._ask(opened)
            return
        fresh = output.tokens[have - output.start :]
        opened.tokens.extend(fresh)
        opened.logprobs.extend(output.logprobs[have - output.start :])
        opened.prompt_logprobs = output.prompt_logprobs or opened.prompt_logprobs
        opened.cached = max(opened.cached, output.cached)
        opened.preemptions, opened.recomputed = output.preemptions, output.recomputed
        opened.problem = output.problem
        opened.closed = output.closed if opened.closed is None else opened.closed
        if fresh or output.finish is not None:
            opened.outputs.put_nowait((fresh, output.finish))

    async def _heed(self, message: Message) -> None:
        announce: Announce = codec.decode(message.data, Announce)
        if announce.ready:
            await self._ask_for_all()

    async def _ask_for_all(self) -> None:
        for opened in list(self._open.values()):
            await self._ask(opened)

    async def _ask(self, opened: OpenCall) -> None:
        """Ask for what is missing; a scheduler that does not know the request gets it anew, with what there is."""
        request = opened.submit.request
        attach = Attach(request=request, frontend=self._name, start=len(opened.tokens))
        try:
            reply = await self._connection.request(subjects.attach(self._engine), codec.encode(attach), 1.0)
            answer: Answer = codec.decode(reply.data, Answer)
            if isinstance(answer, Refused):
                known = {"logprobs": tuple(opened.logprobs), "prompt_logprobs": opened.prompt_logprobs}
                output = {"output": tuple(opened.tokens), "closed": opened.closed}
                again = msgspec.structs.replace(opened.submit, **output, **known)
                await self._connection.request(subjects.submit(self._engine), codec.encode(again), 1.0)
        except (BusError, TimeoutError) as error:
            with traced(opened.submit.traceparent):
                log.info("request %s: the scheduler does not answer: %s", request, error)

    async def _submit(self, submit: Submit, raw: RawPrompt | None) -> None:
        """Hand the request in, waiting for a scheduler if there is none.

        Raises:
            CallFailed: it is refused, or no scheduler came.
        """
        deadline = asyncio.get_running_loop().time() + _SCHEDULER_S
        data = codec.encode(submit)
        while True:
            try:
                reply = await self._connection.request(subjects.submit(self._engine), data, 2.0)
                answer: Answer = codec.decode(reply.data, Answer)
                stops = isinstance(answer, Refused) and answer.reason == "draining"
                if not stops or asyncio.get_running_loop().time() > deadline:
                    break
                await asyncio.sleep(_RETRY_S)  # there will be another
            except (BusError, TimeoutError) as error:
                if asyncio.get_running_loop().time() > deadline:
                    # one that only was slow has what was handed in, and nobody waits for it any more
                    await self.abort(submit.request)
                    message = f"no scheduler of {self._engine!r} answers: {error}"
                    raise CallFailed(Problem(kind="engine", message=message, retry_after_ms=1000)) from error
                await asyncio.sleep(_RETRY_S)
        if not isinstance(answer, Accepted):
            given = "messages" if raw is None else "prompt"
            field_name = given if answer.reason == "too_long" else None
            raise CallFailed(
                Problem(
                    kind=_PROBLEMS[answer.reason],
                    message=answer.message,
                    field=field_name,
                    retry_after_ms=answer.retry_after_ms,
                )
            )


def _named(call: ModelCall) -> str:
    """Give what the ids of an answer's tool calls begin with."""
    return f"call_{call.effect}~{call.choice}" if call.choice else f"call_{call.effect}"
