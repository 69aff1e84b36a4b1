"""A model that writes, with its scheduler, run in the calling thread: requests go in, and what comes of them out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from engine.beam import Beam, one_more
from engine.core.scheduler import Scheduler
from engine.engine import Engine
from engine.errors import BadRequest
from engine.requests import check_adapter, settled, truncated
from engine.runner.executor import InlineExecutor
from engine.runner.model_runner import ModelRunner
from engine.text.answers import AnswerReader
from engine.text.framed import listed
from engine.text.parsers import NOTHING, Wanted
from engine.text.prompts import Customs, Prompter
from schemas.generation import FinishReason, Refused, Sampling, Submit, TokenLogprobs
from schemas.messages import ToolCall, Usage
from schemas.steps import RequestEvent

NAME = "inline"
"""What scheduler, worker and frontend are called that are one process."""

_ANY_NUMBER = 1 << 62
"""Of logarithms: no message has to hold them."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered to one prompt."""

    text: str
    tokens: tuple[int, ...]
    """Every sampled token, the one that ended the generation included."""
    finish: FinishReason
    """`error` when the model could not compute the request; its tokens are those from before."""
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of each token, where `Sampling.logprobs` asks for it."""
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    """Of each token of the prompt behind `prompt_logprob_start`, where `Sampling.prompt_logprobs` asks for it."""
    reasoning: str = ""
    """What it thought before it answered."""


class Uptime:
    """A `Clock` for work that nobody dates: it tells how long the machine has been up, and never goes back."""

    def now(self) -> int:
        """Return microseconds since the machine started."""
        return time.monotonic_ns() // 1000


@dataclass(slots=True, eq=False)
class Run:
    """A request on its way."""

    submit: Submit
    answer: AnswerReader
    tokens: list[int] = field(default_factory=list)
    cached: int = 0
    preemptions: int = 0
    recomputed: int = 0
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    finish: FinishReason | None = None
    problem: str = ""
    """What of the request made it end with `error`."""
    heard: deque[Run] = field(default_factory=deque)
    """Where those stand of whom whoever asked has not seen all: one queue for all that were asked for together."""
    fresh: bool = False
    """Whether it stands there."""

    def add(self, event: RequestEvent) -> None:
        """Take in what a step brought."""
        self.tokens.extend(event.tokens)
        self.logprobs.extend(event.logprobs)
        self.prompt_logprobs = event.prompt_logprobs or self.prompt_logprobs
        self.cached = event.cached
        self.preemptions, self.recomputed = event.preemptions, event.recomputed
        self.answer.read(event.tokens)
        self.finish, self.problem = event.finish, event.problem
        if not self.fresh:
            self.fresh = True
            self.heard.append(self)
        if self.finish is not None or self.answer.stopped:
            self.answer.finish()

    def completion(self) -> Completion:
        """Return what it came to."""
        assert self.finish is not None
        calls = tuple(
            ToolCall(id=f"call_{self.submit.request}-{index}", name=call.name, arguments=call.arguments)
            for index, call in enumerate(self.answer.calls)
        )
        usage = Usage(
            prompt_tokens=len(self.submit.prompt),
            completion_tokens=len(self.tokens),
            cached_tokens=self.cached,
            preemptions=self.preemptions,
            recomputed_tokens=self.recomputed,
            reasoning_tokens=self.answer.reasoning_tokens,
        )
        logprobs = (tuple(self.logprobs), self.prompt_logprobs)
        said = (self.answer.text, tuple(self.tokens), self.finish, usage, calls)
        return Completion(*said, *logprobs, self.answer.reasoning)


class Generator:
    """Runs requests to their ends, batched as the scheduler sees fit."""

    def __init__(self, runner: ModelRunner, folder: Path, customs: Customs) -> None:
        """Make one of a model that is loaded.

        Raises:
            CheckpointError: The folder has no tokenizer.
            TemplateError: Its chat template is not valid Jinja.
            UnknownParser: `customs` names one that there is not.
        """
        limits = msgspec.structs.replace(runner.limits, most_numbers=_ANY_NUMBER)
        self.config = runner.config
        self.prompter = Prompter.load(folder, customs)
        self.tokenizer = self.prompter.tokenizer
        self._engine = Engine(Scheduler(limits, NAME), InlineExecutor(runner), Uptime())
        self._adapters = runner.adapters
        self._open: dict[str, Run] = {}
        self._asked = 0

    def settled(self, sampling: Sampling, bad_words: Sequence[str] = ()) -> Sampling:
        """Give parameters as the engine takes them; -1 logarithms are those of the whole vocabulary.

        Raises:
            BadRequest: They are none: see `engine.requests.settled`.
        """
        listed("bad_words", bad_words)
        whole = [name for name in ("logprobs", "prompt_logprobs") if getattr(sampling, name) == -1]
        every = dict.fromkeys(whole, self.config.vocabulary)
        check_adapter(sampling, self._adapters)
        return settled(msgspec.structs.replace(sampling, **every), self.tokenizer, bad_words, self.config.stop_tokens)

    def ask(self, prompt: Sequence[int], wanted: Wanted, sampling: Sampling, stop: tuple[str, ...]) -> Run:
        """Make a request of a prompt; `run` begins it.

        Raises:
            BadRequest: Texts are to end what has none, or whose tokens are given.
        """
        listed("stop", stop)
        for name, unheard in {
            "trace_decode_token_ids": bool(sampling.trace_decode_token_ids),
            "detokenize": not sampling.detokenize,
        }.items():
            if stop and unheard:
                raise BadRequest("stop", f"beside `{name}` no text ends an answer: leave it out")
        self._asked += 1
        submit = Submit(
            request=f"{NAME}-{self._asked}",
            prompt=truncated(prompt, sampling, self.config.context_length),
            sampling=sampling,
            frontend=NAME,
            tenant=NAME,
        )
        return Run(submit, AnswerReader(self.tokenizer, wanted, stop, sampling))

    def go_on(self, prompt: Sequence[int], beam: Beam, sampling: Sampling) -> Run:
        """Make a request for one more token of a beam; `run` begins it."""
        run = self.ask(prompt, NOTHING, sampling, ())
        run.submit = one_more(run.submit, beam, sampling)
        return run

    def run(self, runs: Iterable[Run]) -> Iterator[Run]:
        """Run requests to their ends; each is given whenever something came of it, and for the last time at its end.

        What is left of them is broken off when the iterator is closed. Several may be gone through in turns.

        Raises:
            BadRequest: The scheduler does not take one, or something of it cannot be computed.
        """
        waiting, heard = deque(runs), deque[Run]()
        left = {run.submit.request for run in waiting}
        for run in waiting:
            run.heard = heard
        try:
            while left:
                self._admit(waiting)
                if not heard:
                    self._step()
                while heard:
                    run = heard.popleft()
                    run.fresh = False
                    if run.problem:
                        structured = run.submit.sampling.structured
                        raise BadRequest("sampling" if structured is None else structured.field, run.problem)
                    if run.finish is not None:
                        left.remove(run.submit.request)
                    yield run
        finally:
            for request in left:
                self._open.pop(request, None)
                self._engine.abort(request)

    def _admit(self, waiting: deque[Run]) -> None:
        """Hand requests to the engine until it has enough."""
        while waiting:
            run = waiting[0]
            answer = self._engine.add(run.submit)
            if isinstance(answer, Refused):
                if answer.reason == "overloaded":
                    return
                raise BadRequest("prompt", answer.message)
            self._open[run.submit.request] = run
            waiting.popleft()

    def _step(self) -> None:
        """Have all that are open hear what the next step brings."""
        for event in self._engine.step():
            run = self._open.get(event.request)
            if run is None:
                continue  # it was broken off, or said all that it was to say
            run.add(event)
            if run.answer.stopped and run.finish in {None, "length"}:
                self._engine.abort(event.request)  # it may be over
                run.finish = "stop" if event.closed is None else "length"
            if run.finish is not None:
                del self._open[event.request]
