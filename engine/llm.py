"""Offline use: a checkpoint in this process, prompts in, completions, vectors, labels and scores out."""

from __future__ import annotations

from collections import Counter, abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec

from engine.beam import BeamSearch, Found, Scored
from engine.errors import BadRequest, UnsupportedModel
from engine.generator import NAME, Completion, Generator, Run
from engine.models.families import FAMILIES
from engine.models.pooled import SUPPORTED, Pooled, load_pooled, pooled_trunk, read_architecture
from engine.models.sentence import Pooling, is_sentence_model
from engine.models.weights import find_checkpoint
from engine.platforms import detect
from engine.pooling import Pooler, Ranked, Vector, known_pooling
from engine.progress import Bar, Rates, UseTqdm
from engine.requests import raw_tokens
from engine.runner.loading import RunnerConfig, load_runner
from engine.streamed import OutputKind, Streamed, streamed
from engine.text.framed import Text, TooLong, listed
from engine.text.parsers import NOTHING
from engine.text.prompts import Customs
from schemas.generation import FinishReason, Sampling
from schemas.messages import Calling, Message, Rendering, ToolSpec
from schemas.structured import Structured

_GREEDY = Sampling()
_AS_THE_MODEL = Customs()
_AS_ALWAYS = Rendering()
_AS_IT_LIKES = Calling()


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


class LLM:
    """A model, run in the calling thread: one that writes, or one of whole texts, or both with the same weights."""

    def __init__(
        self,
        path_or_id: str,
        *,
        device: str = "auto",
        runner: RunnerConfig | None = None,
        customs: Customs = _AS_THE_MODEL,
        pooling: Pooling | None = None,
        use_tqdm: UseTqdm = None,
    ) -> None:
        """Load a checkpoint folder or hub model.

        Args:
            path_or_id: Of a model that writes, of an encoder, a classifier or a cross-encoder; one that is laid out as
                sentence-transformers does it writes nothing.
            device: `auto` for the best there is.
            runner: Overrides how it is loaded, its `model` included; of a model that does not write
                the `dtype`, `quantization` and `batch_invariant`.
            customs: Overrides a chat model's parsers.
            pooling: Overrides how states of tokens become a vector.
            use_tqdm: Whether a bar shows how far download and weights are.

        Raises:
            CheckpointError: The checkpoint is not there or not whole.
            TemplateError: Its chat template is not valid Jinja.
            UnknownParser: `customs` names one that there is not.
            UnsupportedModel: Its architecture is not one of ours.
            NotEnoughMemory: The weights or the KV cache do not fit.
            PlatformUnavailable: The device is not there.
            BadRequest: `pooling` is no way that we have.
        """
        known_pooling(pooling)
        config = runner or RunnerConfig(model="")
        self._folder = find_checkpoint(path_or_id, config.load_format, use_tqdm)
        config = msgspec.structs.replace(config, model=str(self._folder))
        self._architecture = read_architecture(self._folder)
        self._writer: Generator | None = None
        self._whole: Callable[[], Pooled]
        platform = detect(device)
        if config.batch_invariant:
            platform = platform.steady()
        if self._architecture in FAMILIES and not is_sentence_model(self._folder):
            loaded = load_runner(config, platform, NAME, use_tqdm)
            self._writer = Generator(loaded, self._folder, customs)
            self._whole = lambda: pooled_trunk(self._folder, loaded.trunk, pooling)
        elif self._architecture in SUPPORTED:
            pooled = load_pooled(self._folder, platform, config.dtype, pooling, use_tqdm, config.quantization)
            self._whole = lambda: pooled
        else:
            raise UnsupportedModel(self._architecture, {*FAMILIES, *SUPPORTED})

    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        sampling: Sampling = _GREEDY,
        stop: tuple[str, ...] = (),
        bad_words: Sequence[str] = (),
        n: int = 1,
        use_tqdm: UseTqdm = None,
    ) -> list[Completion]:
        """Complete every prompt, batched as the scheduler sees fit; answers are in the order of the prompts.

        Args:
            prompts: Texts or token ids as the model is to see them, without a chat template.
            sampling: How tokens are chosen; the model's own stop tokens are added.
            stop: Texts that end a completion and are not part of it.
            bad_words: Texts that must not come up in one.
            n: How many completions of each prompt, which follow one another; each has a seed of its own, the first
                that of `sampling`, the next one more.
            use_tqdm: Whether a bar shows how many prompts are done: see `engine.progress.UseTqdm`.

        Raises:
            BadRequest: A prompt is empty or longer than the model's context, or `sampling` names tokens that the model
                has not, or a grammar that is none; or the model does not write.
        """
        return self._completed(self._asked(prompts, sampling, stop, bad_words, n), n, use_tqdm)

    def stream(
        self,
        prompts: Sequence[str | Sequence[int]],
        sampling: Sampling = _GREEDY,
        stop: tuple[str, ...] = (),
        bad_words: Sequence[str] = (),
        n: int = 1,
        *,
        output_kind: OutputKind = "cumulative",
    ) -> abc.Generator[Streamed, None, None]:
        """Complete every prompt, and tell of answers while they are written; whoever closes the iterator ends them.

        Args:
            prompts: As of `generate`, like all that follow.
            sampling: How tokens are chosen.
            stop: Texts that end a completion.
            bad_words: Texts that must not come up in one.
            n: How many completions of each prompt.
            output_kind: What is told: each time all that there is so far, or what is new, or answers that are over.

        Raises:
            BadRequest: As of `generate`; what is wrong with a prompt is told by the iterator.
        """
        return streamed(self._writing, self._asked(prompts, sampling, stop, bad_words, n), n, output_kind)

    def _asked(
        self,
        prompts: Sequence[str | Sequence[int]],
        sampling: Sampling,
        stop: tuple[str, ...],
        bad_words: Sequence[str],
        n: int,
    ) -> list[Run]:
        """Make requests, `n` of each prompt."""
        writer = self._writing
        listed("prompts", prompts)
        if n < 1:
            raise BadRequest("n", f"{n} is less than 1")
        sampling = writer.settled(sampling, bad_words)
        if sampling.trace_decode_token_ids and n > 1:
            raise BadRequest("n", "the answer's tokens are given (`trace_decode_token_ids`): there is only one")
        seeds = [msgspec.structs.replace(sampling, seed=sampling.seed + index) for index in range(n)]
        encoded = [raw_tokens(prompt, writer.tokenizer) for prompt in prompts]
        return [writer.ask(prompt, NOTHING, one, stop) for prompt in encoded for one in seeds]

    def _completed(self, runs: Sequence[Run], n: int, use_tqdm: UseTqdm) -> list[Completion]:
        """Run requests to their ends, `n` of each prompt."""
        prompts = {run.submit.request: at // n for at, run in enumerate(runs)}
        left, heard, rates = Counter(prompts.values()), Counter[str](), Rates()
        with Bar(use_tqdm, "prompts", len(left), unit="prompt") as bar:
            for run in self._writing.run(runs):
                if not bar.shown:
                    continue
                name, prompt = run.submit.request, prompts[run.submit.request]
                begun = name in heard
                rates.add(input=0 if begun else len(run.submit.prompt), output=len(run.tokens) - heard[name])
                heard[name] = len(run.tokens)
                left[prompt] -= run.finish is not None
                bar.add(int(run.finish is not None and not left[prompt]), rates.__str__)
        return [run.completion() for run in runs]

    def beam_search(
        self,
        prompts: Sequence[str | Sequence[int]],
        width: int = 4,
        max_tokens: int = 16,
        length_penalty: float = 1.0,
        *,
        stop_token_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        allowed_token_ids: Sequence[int] = (),
        structured: Structured | None = None,
        use_tqdm: UseTqdm = None,
    ) -> list[list[Likely]]:
        """Find the likeliest continuations of every prompt, best first, `width` of each; nothing is left to chance.

        Args:
            prompts: Texts or token ids as the model is to see them, without a chat template.
            width: How many continuations are gone on with at every step.
            max_tokens: Tokens after which they are over.
            length_penalty: The power of their length by which logarithms of chances are divided; more favours longer.
            stop_token_ids: Tokens that end one, beside those that the model ends its answers with.
            ignore_eos: Whether the model's own do not end them.
            allowed_token_ids: No other tokens, not even to end one; empty allows all.
            structured: What every continuation is to look like; there may be fewer of such than `width`.
            use_tqdm: Whether a bar shows how many tokens are searched for.

        Raises:
            BadRequest: A prompt is empty or longer than the model's context, or a width or length is below 1; or the
                model does not write.
        """
        writer = self._writing
        listed("prompts", prompts)
        for name, value in {"width": width, "max_tokens": max_tokens}.items():
            if value < 1:
                raise BadRequest(name, f"{value} is less than 1")
        given = Sampling(
            max_tokens=max_tokens,
            stop_tokens=tuple(stop_token_ids),
            ignore_eos=ignore_eos,
            allowed_token_ids=tuple(allowed_token_ids),
            structured=structured,
        )
        settled = writer.settled(given)
        asked, room = [raw_tokens(prompt, writer.tokenizer) for prompt in prompts], writer.config.context_length
        searches = [
            BeamSearch(width, max(1, min(max_tokens, room - len(prompt))), settled.stop_tokens, length_penalty)
            for prompt in asked
        ]
        with Bar(use_tqdm, "search", max_tokens, unit="token") as bar:
            while going := [pair for pair in zip(asked, searches, strict=True) if pair[1].live]:
                grown = [
                    writer.go_on(prompt, beam, search.wanted(settled))
                    for prompt, search in going
                    for beam in search.live
                ]
                told = iter(self._completed(grown, 1, use_tqdm=False))
                for _, search in going:
                    search.take([_likeliest(next(told)) for _ in search.live])
                bar.add(1)
            bar.fill()
        return [[self._likely(found) for found in search.best()] for search in searches]

    def _likely(self, found: Found) -> Likely:
        said = found.tokens[:-1] if found.finish == "stop" else found.tokens
        text = self._writing.tokenizer.decode(said)
        return Likely(text, found.tokens, found.finish, found.logprob, found.score)

    def chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling = _GREEDY,
        tools: Sequence[ToolSpec] = (),
        rendering: Rendering = _AS_ALWAYS,
        stop: tuple[str, ...] = (),
        calling: Calling = _AS_IT_LIKES,
        use_tqdm: UseTqdm = None,
    ) -> Completion:
        """Answer a conversation through the checkpoint's chat template.

        Args:
            messages: From first to last.
            sampling: How tokens are chosen; the model's own stop tokens are added.
            tools: What the model may call.
            rendering: What the template is told beside the messages.
            stop: Texts that end what is said and are not part of it.
            calling: Whether tools may, or must, be called.
            use_tqdm: Whether a bar shows how many tokens there are in a second.

        Raises:
            BadRequest: The conversation is longer than the model's context, `rendering` does not fit it, or the
                checkpoint has no chat template; or the model does not write.
            TemplateError: The template refuses these messages.
            CallMissing: `calling` wants a call, and the model wrote none.
        """
        writer = self._writing
        prompt = writer.prompter.prompt(messages, tools, rendering, calling)
        sampling = writer.settled(prompt.bound(sampling))
        if calling.choice == "required" and not sampling.detokenize:
            raise BadRequest("calling", "the answer has no text (`detokenize`): no call can be read in it")
        run = writer.ask(prompt.tokens, prompt.wanted, sampling, stop)
        (answer,) = self._completed([run], 1, use_tqdm)
        prompt.check(run.answer.calls, answer.finish)
        return answer

    def embed(
        self,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        prompt: str | None = None,
        too_long: TooLong = "cut",
        use_tqdm: UseTqdm = None,
    ) -> list[Vector]:
        """Return a vector of length one for each text: see `engine.pooling.Pooler.embed`.

        Of a model that writes it is made of the states before its head.
        """
        return self._pooler.embed(texts, dimensions=dimensions, prompt=prompt, too_long=too_long, use_tqdm=use_tqdm)

    def classify(
        self, texts: Sequence[Text], *, too_long: TooLong = "cut", use_tqdm: UseTqdm = None
    ) -> list[dict[str, float]]:
        """Return the probability of every label for each text or pair: see `engine.pooling.Pooler.classify`."""
        return self._pooler.classify(texts, too_long=too_long, use_tqdm=use_tqdm)

    def score(
        self, pairs: Sequence[tuple[str, str]], *, too_long: TooLong = "cut", use_tqdm: UseTqdm = None
    ) -> list[float]:
        """Return how well the texts of each pair match: see `engine.pooling.Pooler.score`."""
        return self._pooler.score(pairs, too_long=too_long, use_tqdm=use_tqdm)

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        top_n: int | None = None,
        *,
        too_long: TooLong = "cut",
        use_tqdm: UseTqdm = None,
    ) -> list[Ranked]:
        """Return the documents that match a query best, the best one first: see `engine.pooling.Pooler.rerank`."""
        return self._pooler.rerank(query, documents, top_n, too_long=too_long, use_tqdm=use_tqdm)

    @property
    def vocabulary(self) -> int:
        """One more than the largest token id that the tokenizer of a model that writes knows."""
        return self._writing.tokenizer.size

    @property
    def labels(self) -> tuple[str, ...]:
        """What texts are told apart by; empty where the model gives vectors."""
        return self._pooler.labels

    @property
    def _writing(self) -> Generator:
        if self._writer is None:
            does = "`embed`, `score` or `rerank`"
            if self.labels:
                does = "`classify`" if len(self.labels) > 1 else "`score`, `rerank` or `classify`"
            raise BadRequest("model", f"{self._architecture} reads texts and writes none: ask {does}")
        return self._writer

    @cached_property
    def _pooler(self) -> Pooler:
        return Pooler(self._whole(), self._folder)


def _likeliest(completion: Completion) -> list[Scored]:
    """List what could have come instead of a completion's only token, the likeliest first.

    Raises:
        BadRequest: The model could not compute it.
    """
    if not completion.logprobs:
        raise BadRequest("prompts", f"the model could not go on with one of them ({completion.finish})")
    told = completion.logprobs[-1]
    return list(zip(told.tokens, told.logprobs, strict=True))[1:]
