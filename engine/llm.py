"""Offline use: a checkpoint in this process, prompts in, completions out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from engine.beam import BeamSearch, Found, Scored
from engine.core.scheduler import Scheduler
from engine.engine import Engine
from engine.errors import BadRequest
from engine.models.weights import find_checkpoint
from engine.platforms import detect
from engine.pooling import Pooler, Vector
from engine.requests import raw_tokens, settled, truncated
from engine.runner.executor import InlineExecutor
from engine.runner.model_runner import RunnerConfig, load_runner
from engine.text.answers import AnswerReader
from engine.text.parsers import NOTHING, Wanted
from engine.text.prompts import Customs, Prompter
from schemas.generation import FinishReason, Refused, Sampling, Submit, TokenLogprobs
from schemas.messages import Calling, Message, Rendering, ToolCall, ToolSpec, Usage
from schemas.steps import RequestEvent

_NAME = "inline"
_GREEDY = Sampling()
_AS_THE_MODEL = Customs()
_AS_ALWAYS = Rendering()
_AS_IT_LIKES = Calling()

Progress = Callable[[int, int], None]
"""Told (prompts done, of how many)."""


def _quiet(done: int, total: int) -> None:
    """Tell nobody."""


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
    """Of each token of the prompt but the first, where `Sampling.prompt_logprobs` asks for it."""
    reasoning: str = ""
    """What it thought before it answered."""


@dataclass(frozen=True, slots=True)
class Likely:
    """One of the likeliest continuations of a prompt."""

    text: str
    tokens: tuple[int, ...]
    """The one that ended it included."""
    finish: FinishReason
    logprob: float
    """Natural logarithm of the chance of all its tokens together."""
    score: float
    """What it is ranked by: the logarithm divided by a power of the length."""


class Uptime:
    """A `Clock` for work that nobody dates: it tells how long the machine has been up, and never goes back."""

    def now(self) -> int:
        """Return microseconds since the machine started."""
        return time.monotonic_ns() // 1000


@dataclass(slots=True)
class _Run:
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

    def add(self, event: RequestEvent) -> None:
        """Take in what a step brought."""
        self.tokens.extend(event.tokens)
        self.logprobs.extend(event.logprobs)
        self.prompt_logprobs = event.prompt_logprobs or self.prompt_logprobs
        self.cached = event.cached
        self.preemptions, self.recomputed = event.preemptions, event.recomputed
        self.answer.read(event.tokens)
        self.finish = event.finish
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


class LLM:
    """A model with its scheduler, run in the calling thread."""

    def __init__(
        self,
        path_or_id: str,
        *,
        device: str = "auto",
        runner: RunnerConfig | None = None,
        customs: Customs = _AS_THE_MODEL,
    ) -> None:
        """Load a checkpoint folder or hub model; `runner` overrides how, its `model` included, `customs` its parsers.

        Raises:
            CheckpointError: The checkpoint is not there or not whole.
            TemplateError: Its chat template is not valid Jinja.
            UnknownParser: `customs` names one that there is not.
            UnsupportedModel: Its architecture is not one of ours.
            NotEnoughMemory: The weights or the KV cache do not fit.
            PlatformUnavailable: The device is not there.
        """
        config = runner or RunnerConfig(model="")
        folder = find_checkpoint(path_or_id, config.load_format)
        config = msgspec.structs.replace(config, model=str(folder))
        loaded = load_runner(config, detect(device), _NAME)
        self._folder, self._device, self._dtype = folder, device, config.dtype
        self._prompter = Prompter.load(folder, customs)
        self._tokenizer = self._prompter.tokenizer
        self._context_length = loaded.config.context_length
        self._stops = loaded.config.stop_tokens
        self._engine = Engine(Scheduler(loaded.limits, _NAME), InlineExecutor(loaded), Uptime())
        self._asked = 0

    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        sampling: Sampling = _GREEDY,
        stop: tuple[str, ...] = (),
        bad_words: Sequence[str] = (),
        n: int = 1,
        on_progress: Progress = _quiet,
    ) -> list[Completion]:
        """Complete every prompt, batched as the scheduler sees fit; answers are in the order of the prompts.

        Args:
            prompts: Texts or token ids as the model is to see them, without a chat template.
            sampling: How tokens are chosen; the model's own stop tokens are added.
            stop: Texts that end a completion and are not part of it.
            bad_words: Texts that must not come up in one.
            n: How many completions of each prompt, which follow one another; each has a seed of its own, the first
                that of `sampling`, the next one more.
            on_progress: Told whenever a prompt is done.

        Raises:
            BadRequest: A prompt is empty or longer than the model's context, or `sampling` names tokens that the model
                has not, or a grammar that is none.
        """
        sampling = settled(sampling, self._tokenizer, bad_words, self._stops)
        seeds = [msgspec.structs.replace(sampling, seed=sampling.seed + index) for index in range(n)]
        encoded = [raw_tokens(prompt, self._tokenizer) for prompt in prompts]
        runs = (self._ask(prompt, NOTHING, one, stop) for prompt in encoded for one in seeds)
        return self._completed(runs, on_progress)

    def _completed(self, runs: Iterable[_Run], on_progress: Progress = _quiet) -> list[Completion]:
        """Run requests to their ends."""
        waiting = deque(runs)
        asked = {run.submit.request: run for run in waiting}
        open_ = set(asked)
        try:
            while open_:
                self._admit(waiting)
                for event in self._engine.step():
                    if event.problem and event.request in open_:
                        structured = asked[event.request].submit.sampling.structured
                        raise BadRequest("sampling" if structured is None else structured.field, event.problem)
                    if event.request in open_ and self._hear(asked[event.request], event):
                        open_.remove(event.request)
                        on_progress(len(asked) - len(open_), len(asked))
        finally:
            for request in open_:
                self._engine.abort(request)
        return [run.completion() for run in asked.values()]

    def beam_search(
        self,
        prompts: Sequence[str | Sequence[int]],
        width: int = 4,
        max_tokens: int = 16,
        length_penalty: float = 1.0,
        *,
        stop_token_ids: Sequence[int] = (),
        ignore_eos: bool = False,
    ) -> list[list[Likely]]:
        """Find the likeliest continuations of every prompt, best first, `width` of each; nothing is left to chance.

        Args:
            prompts: Texts or token ids as the model is to see them, without a chat template.
            width: How many continuations are gone on with at every step.
            max_tokens: Tokens after which they are over.
            length_penalty: The power of their length by which logarithms of chances are divided; more favours longer.
            stop_token_ids: Tokens that end one, beside those that the model ends its answers with.
            ignore_eos: Whether the model's own do not end them.

        Raises:
            BadRequest: A prompt is empty or longer than the model's context, or a width or length is below 1.
        """
        for name, value in {"width": width, "max_tokens": max_tokens}.items():
            if value < 1:
                raise BadRequest(name, f"{value} is less than 1")
        given = Sampling(stop_tokens=tuple(stop_token_ids), ignore_eos=ignore_eos)
        stops = settled(given, self._tokenizer, (), self._stops).stop_tokens
        asked = [raw_tokens(prompt, self._tokenizer) for prompt in prompts]
        searches = [
            BeamSearch(width, max(1, min(max_tokens, self._context_length - len(prompt))), stops, length_penalty)
            for prompt in asked
        ]
        while going := [pair for pair in zip(asked, searches, strict=True) if pair[1].live]:
            grown = [(*prompt, *beam.tokens) for prompt, search in going for beam in search.live]
            wanted = Sampling(max_tokens=1, logprobs=searches[0].candidates, ignore_eos=True)
            told = iter(self.generate(grown, wanted))
            for _, search in going:
                search.take([_likeliest(next(told)) for _ in search.live])
        return [[self._likely(found) for found in search.best()] for search in searches]

    def _likely(self, found: Found) -> Likely:
        said = found.tokens[:-1] if found.finish == "stop" else found.tokens
        text = self._tokenizer.decode(said)
        return Likely(text, found.tokens, found.finish, found.logprob, found.score)

    def chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling = _GREEDY,
        tools: Sequence[ToolSpec] = (),
        rendering: Rendering = _AS_ALWAYS,
        stop: tuple[str, ...] = (),
        calling: Calling = _AS_IT_LIKES,
    ) -> Completion:
        """Answer a conversation through the checkpoint's chat template.

        Args:
            messages: From first to last.
            sampling: How tokens are chosen; the model's own stop tokens are added.
            tools: What the model may call.
            rendering: What the template is told beside the messages.
            stop: Texts that end what is said and are not part of it.
            calling: Whether tools may, or must, be called.

        Raises:
            BadRequest: The conversation is longer than the model's context, `rendering` does not fit it, or the
                checkpoint has no chat template.
            TemplateError: The template refuses these messages.
            CallMissing: `calling` wants a call, and the model wrote none.
        """
        prompt = self._prompter.prompt(messages, tools, rendering, calling)
        sampling = settled(prompt.bound(sampling), self._tokenizer, (), self._stops)
        run = self._ask(prompt.tokens, prompt.wanted, sampling, stop)
        (answer,) = self._completed([run])
        prompt.check(run.answer.calls, answer.finish)
        return answer

    def embed(self, texts: Sequence[str], on_progress: Progress = _quiet) -> list[Vector]:
        """Return a vector of length one for each text: see `engine.pooling.Pooler`, which knows more of it.

        The first call loads the weights once more. Models that only embed, classify or score are the Pooler's alone.

        Raises:
            BadRequest: A text is empty.
            CheckpointError: The checkpoint pools in a way that we have not.
            NotEnoughMemory: The weights do not fit twice.
        """
        return self._pooler.embed(texts, on_progress=on_progress)

    def score(self, pairs: Sequence[tuple[str, str]], on_progress: Progress = _quiet) -> list[float]:
        """Return how near the texts of each pair are to each other, by the cosine of their vectors.

        Raises:
            BadRequest: A text is empty.
            CheckpointError: The checkpoint pools in a way that we have not.
            NotEnoughMemory: The weights do not fit twice.
        """
        return self._pooler.score(pairs, on_progress=on_progress)

    @cached_property
    def _pooler(self) -> Pooler:
        return Pooler(str(self._folder), device=self._device, dtype=self._dtype)

    @property
    def vocabulary(self) -> int:
        """One more than the largest token id."""
        return self._tokenizer.size

    def _ask(self, prompt: Sequence[int], wanted: Wanted, sampling: Sampling, stop: tuple[str, ...]) -> _Run:
        """Make a request of a prompt."""
        self._asked += 1
        submit = Submit(
            request=f"{_NAME}-{self._asked}",
            prompt=truncated(prompt, sampling, self._context_length),
            sampling=sampling,
            frontend=_NAME,
            tenant=_NAME,
        )
        return _Run(submit, AnswerReader(self._tokenizer, wanted, stop, sampling))

    def _admit(self, waiting: deque[_Run]) -> None:
        """Hand requests to the engine until it has enough."""
        while waiting:
            answer = self._engine.add(waiting[0].submit)
            if isinstance(answer, Refused):
                if answer.reason == "overloaded":
                    return
                raise BadRequest("prompt", answer.message)
            waiting.popleft()

    def _hear(self, run: _Run, event: RequestEvent) -> bool:
        """Add what a step brought to a request; return whether it is over."""
        run.add(event)
        if run.finish is None and run.answer.stopped:
            self._engine.abort(event.request)
            run.finish = "stop" if event.closed is None else "length"
        return run.finish is not None


def _likeliest(completion: Completion) -> list[Scored]:
    """List what could have come instead of a completion's only token, the likeliest first.

    Raises:
        BadRequest: The model could not compute it.
    """
    if not completion.logprobs:
        raise BadRequest("prompts", f"the model could not go on with one of them ({completion.finish})")
    (told,) = completion.logprobs
    return list(zip(told.tokens, told.logprobs, strict=True))[1:]
