"""Executes the plans of one scheduler on one device.

The tokens sampled in a step are kept here, so a plan may name the position after a token that the scheduler has not
seen yet: plans can be sent one ahead. A request that has come to its end meanwhile is computed all the same, and the
scheduler drops what it did not need.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from torch import Tensor

from engine.config import SchedulerConfig
from engine.core.tables import tables_within
from engine.errors import CheckpointError, NotEnoughMemory
from engine.kernels.batch import Integers
from engine.kernels.weights import Quantization
from engine.logits import Wanted, adjust
from engine.logprobs import LogprobsMode, MeasuredPrompt, measure, measure_search
from engine.models.config import ModelConfig
from engine.models.decoder import Decoder, Trunk
from engine.models.registry import load_model
from engine.models.weights import LoadFormat, find_checkpoint
from engine.platforms import Dtype, Platform
from engine.processors import Processors
from engine.progress import UseTqdm
from engine.runner.constraints import NO_TOKEN, Constraints, Followed
from engine.runner.draws import draw_for, unsound_for
from engine.runner.flat import FlatBatch
from engine.runner.graphs import layers_for
from engine.runner.inputs import RequestTable
from engine.runner.kv_cache import KV_MEND, KvCache, block_bytes, blocks_that_fit
from engine.sampling import Choices, drawn_from
from engine.structured.compiler import Grammars
from engine.structured.grammar import GrammarError, Vocabulary
from engine.structured.registry import BUILT_IN, backend
from engine.text.tokenizer import Tokenizer
from schemas.generation import TokenLogprobs
from schemas.steps import Prepare, StepPlan, StepResult

_NOT_FINITE: Final = "the model computed a number that is not finite"
_JUDGED: Final = 64
"""Positions of a prompt whose logits are held at once."""


@dataclass(frozen=True, slots=True)
class _Made:
    """What came of a batch."""

    tokens: list[tuple[str, int]] = field(default_factory=list)
    logprobs: list[tuple[str, TokenLogprobs]] = field(default_factory=list)
    prompts: list[tuple[str, int, tuple[TokenLogprobs, ...]]] = field(default_factory=list)
    whole: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


class RunnerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told when it is made."""

    model: str
    """A checkpoint folder, or the id of a hub model."""
    dtype: Dtype = "auto"
    load_format: LoadFormat = "auto"
    """`dummy` makes weights up, so that a folder with a config.json is enough."""
    quantization: Quantization = "none"
    """`int8` computes products in 8 bits on both sides, weights rounded as they are loaded."""
    block_size: int = 16
    """Tokens per KV block: the scheduler's."""
    blocks: int | None = None
    """KV blocks to hold; as many as `memory_share` gives if `None`."""
    memory_share: float | None = None
    """Part of the memory free after loading that KV blocks may fill; by kind of device if `None`."""
    context_length: int | None = None
    """Positions that are served at most; the model's own if `None`. LongRoPE turns by it."""
    most_contexts: int = 256
    """But no more blocks than so many requests of full context length could fill."""
    threads: int | None = None
    """Processor threads for one operation, in the whole process; torch's choice if `None`. Small models want 1."""
    grammar_backend: str = BUILT_IN
    """Who compiles grammars: `llguidance`, or an entry point of the group `ostinato.grammars`."""
    logprobs_mode: LogprobsMode = "raw_logprobs"
    """What `logprobs` are: see `engine.logprobs`."""
    batch_invariant: bool = False
    """Whether a request's tokens must not depend on the batch on an accelerator; on a processor they never do."""


class ModelRunner:
    """A model, its KV cache, and what is known of each request."""

    def __init__(
        self,
        model: Decoder,
        cache: KvCache,
        worker: str,
        grammars: Grammars | None = None,
        logprobs_mode: LogprobsMode = "raw_logprobs",
    ) -> None:
        """Make a runner without requests; `worker` is the id that its results carry."""
        self._told_as: LogprobsMode = logprobs_mode
        self._model = model
        self._cache = cache
        self._worker = worker
        self._processors = Processors()
        self._requests = RequestTable(
            cache.blocks, cache.block_size, model.device, model.config.vocabulary, cache.groups
        )
        self._constraints = Constraints(grammars)
        self._draw, self._unsound = draw_for(model.ops), unsound_for(model.ops)
        self._layers = layers_for(model, cache.layers, cache.block_size)

    @property
    def trunk(self) -> Trunk:
        """The model without its head: whole texts can be read with it, beside the requests."""
        return self._model

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        return self._model.config

    @property
    def blocks(self) -> int:
        """KV blocks there is memory for."""
        return self._cache.blocks

    @property
    def worker(self) -> str:
        """The id that its results carry."""
        return self._worker

    @property
    def block_size(self) -> int:
        """Tokens per block."""
        return self._cache.block_size

    @property
    def limits(self) -> SchedulerConfig:
        """What a scheduler of its own may do with it: a context is no longer than what its memory lets through."""
        length, groups = self.config.context_length, self.config.groups
        limits = SchedulerConfig(
            blocks=self.blocks,
            context_length=length,
            block_size=self.block_size,
            window=groups.window,
            groups=groups.count,
            windowed=max(groups.windowed, 1),
        )
        longest = tables_within(limits).longest(self.blocks, length)
        return msgspec.structs.replace(limits, context_length=max(longest, 1))

    def describe(self) -> str:
        """Return one line for the log: the model, and what its KV cache holds."""
        model, groups = self._model, self._model.config.groups
        tokens = self.blocks // groups.count * self.block_size
        size = self.blocks * block_bytes(model.config, self.block_size, model.dtype) / 2**20
        context = self.limits.context_length
        products = ", products in 8 bits" if model.quantization == "int8" else ""
        kinds = f" ({groups.full} for {self.block_size} tokens, and {groups.windowed} while a window sees them)"
        return (
            f"{model.config.architecture}, {model.config.parameters / 1e6:,.1f} million parameters in "
            f"{str(model.dtype).removeprefix('torch.')}{products}, context {context:,} tokens, "
            f"KV memory {size:,.0f} MiB for {tokens:,} tokens in {self.blocks:,} blocks"
            f"{kinds if groups.full and groups.windowed else ''}"
        )

    def reset(self) -> None:
        """Forget every request. The content of KV blocks stays: a full plan may name them as a cached prefix."""
        self._requests.clear()
        self._constraints.clear()

    def prepare(self, prepare: Prepare) -> str:
        """Compile a grammar, in any thread, beside the steps; say what is wrong with it, or nothing."""
        return self._constraints.prepare(prepare)

    def execute(self, plan: StepPlan) -> StepResult:
        """Apply a plan's changes, compute its slices, sample where it asks.

        What cannot be computed for one request (not finite, or a plan that does not fit what is known here) becomes
        an entry of `errors`, now and for every later slice of that request, and leaves the others as they are.
        """
        began = time.perf_counter()
        if plan.full:
            self.reset()
        self._requests.forget(plan.gone)
        self._constraints.forget(plan.gone)
        for arrival in plan.arrivals:
            self._requests.admit(arrival)
            self._constraints.admit(arrival)
        batch, errors = self._requests.gather(plan.slices)
        made = _Made() if batch is None else self._compute(batch, errors)
        spent = time.perf_counter() - began
        return StepResult(
            n=plan.n,
            epoch=plan.epoch,
            worker=self._worker,
            tokens=tuple(made.tokens),
            errors=tuple(errors),
            compute_us=round(spent * 1e6),
            logprobs=tuple(made.logprobs),
            prompt_logprobs=tuple(made.prompts),
            whole=made.whole,
            refused=made.refused,
            closed=made.closed,
        )

    @torch.inference_mode()
    def _compute(self, batch: FlatBatch, errors: list[tuple[str, str]]) -> _Made:
        """Run the model over a batch; return what came of it in the plan's order, append to `errors`."""
        hidden = self._layers(batch.tokens, batch.positions, batch.paged)
        # what is not finite shows in the logits, where those of all tokens are wanted
        unsound = None if len(batch.heads) == len(hidden) else self._unsound(hidden)
        problems: dict[int, str] = {}
        followed = Followed((), (), {})
        tokens, told = np.empty(0, np.int64), list[tuple[int, TokenLogprobs]]()
        if not batch.sampled.any():
            broken = self._broken(batch, unsound, None)
        else:
            logits = self._model.logits(hidden.index_select(0, batch.heads))
            unfit = self._unsound(logits)
            before = [logits[one.row].clone() for one in batch.measured]
            stuck = self._adjust(logits, batch) if batch.wanted else {}
            problems = self._constraints.restrict(logits, batch, stuck)
            searched = self._searched(batch, before, logits)
            if batch.measured and self._told_as.startswith("processed"):
                before = [_processed(logits, batch.choices, one.row) for one in batch.measured]
            tokens = self._draw(logits, batch.choices).cpu().numpy()
            for row, token in batch.forced:
                tokens[row] = token
            broken = self._broken(batch, unsound, unfit)
            followed = self._constraints.take(tokens, batch, {*problems, *broken})
            problems |= followed.problems
            told = [*self._measured(batch, before, tokens), *searched]
        self._requests.record(batch, tokens)
        refused = tuple(batch.slices[index].request for index in problems if index not in broken)
        problems |= dict.fromkeys(broken, _NOT_FINITE)
        for index, problem in problems.items():
            self._fail(batch, index, problem)
            errors.append((batch.slices[index].request, problem))
        failed = {batch.slices[index].request for index in problems}
        prompts = [self._judge(hidden, one) for one in batch.prompts if one.request not in failed]
        names = [piece.request for piece in batch.slices if piece.sample]
        return _Made(
            [pair for pair in zip(names, tokens.tolist(), strict=True) if pair[0] not in failed],
            [(names[row], one) for row, one in told if names[row] not in failed],
            prompts,
            followed.whole,
            followed.closed,
            refused,
        )

    def _adjust(self, logits: Tensor, batch: FlatBatch) -> dict[int, str]:
        """Change logits as requests want them; say which slices cannot go on, and why."""
        theirs: dict[int, str] = {}

        def by_plugins(logits: Tensor, wanted: Sequence[Wanted]) -> None:
            theirs.update(self._processors.apply(logits, wanted))

        problems = dict.fromkeys(adjust(logits, batch.wanted, by_plugins), NO_TOKEN) | theirs
        places = np.flatnonzero(batch.sampled).tolist()
        return {places[row]: problem for row, problem in problems.items()}

    def _judge(self, hidden: Tensor, one: MeasuredPrompt) -> tuple[str, int, tuple[TokenLogprobs, ...]]:
        """Tell what the model makes of some tokens of a prompt, few at a time: logits are wide."""
        told: list[TokenLogprobs] = []
        for at in range(0, len(one.tokens), _JUDGED):
            tokens = one.tokens[at : at + _JUDGED].tolist()
            first = one.first + at
            logits = self._model.logits(hidden[first : first + len(tokens)])
            told += measure(logits, tokens, one.best, one.ids[at : at + _JUDGED], self._told_as)
        return one.request, one.position, tuple(told)

    def _measured(
        self, batch: FlatBatch, before: Sequence[Tensor], tokens: Integers
    ) -> list[tuple[int, TokenLogprobs]]:
        """Describe those sampled rows of which something is to be told; `before` are their logits, [vocabulary]."""
        return [
            (one.row, measure(logits[None], [int(tokens[one.row])], one.best, [one.ids], self._told_as)[0])
            for one, logits in zip(batch.measured, before, strict=True)
            if not one.searching
        ]

    def _searched(self, batch: FlatBatch, before: Sequence[Tensor], logits: Tensor) -> list[tuple[int, TokenLogprobs]]:
        """Describe what could come at steps of searches, before anything is drawn."""
        names = [piece.request for piece in batch.slices if piece.sample]
        told = []
        for one, raw in zip(batch.measured, before, strict=True):
            if one.searching:
                row, (possible, certain) = logits[one.row], self._constraints.leading_on(names[one.row])
                told.append((one.row, measure_search(raw, row, int(row.argmax()), one.best, possible, certain)))
        return told

    def _broken(self, batch: FlatBatch, unsound: Tensor | None, unfit: Tensor | None) -> list[int]:
        """Return the indices of slices with a hidden state [tokens] or logits [sampled] that are not finite."""
        if not any(rows is not None and rows.any() for rows in (unsound, unfit)):
            return []
        bad: Integers = np.empty(0, np.int64) if unsound is None else np.flatnonzero(unsound.cpu().numpy())
        heads = np.zeros(len(batch.slices), np.bool_)
        if unfit is not None:
            heads[batch.sampled] = unfit.cpu().numpy()
        counts = [piece.count for piece in batch.slices]
        return [
            index
            for index, (last, count) in enumerate(zip(batch.last.tolist(), counts, strict=True))
            if heads[index] or ((bad > last - count) & (bad <= last)).any()
        ]

    def _fail(self, batch: FlatBatch, index: int, problem: str) -> None:
        """Drop a request that went wrong, and what it wrote: nobody may read numbers that are not finite."""
        last, count = int(batch.last[index]), batch.slices[index].count
        for paged in batch.paged:
            self._cache.clear(paged.slots[last - count + 1 : last + 1])
        self._requests.fail(batch, index, problem)


def _processed(logits: Tensor, choices: Choices, row: int) -> Tensor:
    """Give what a row's token is drawn from, [vocabulary]."""
    return drawn_from(logits[row][None], choices.among(np.arange(len(logits)) == row))[0]


def load_runner(config: RunnerConfig, platform: Platform, worker: str, use_tqdm: UseTqdm = False) -> ModelRunner:
    """Load a checkpoint and allocate its KV cache; `use_tqdm` shows how far the weights are.

    Raises:
        CheckpointError: The checkpoint is not there or not whole.
        UnsupportedModel: Its architecture is not one of ours.
        NotEnoughMemory: The weights or the KV cache do not fit.
        BadRequest: There is no grammar backend of that name.
        PlatformUnavailable: Its ops depend on the batch, where they must not.
    """
    if config.batch_invariant:
        platform = platform.steady()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    folder = find_checkpoint(config.model, config.load_format, use_tqdm)
    model = load_model(
        folder,
        platform,
        config.dtype,
        context_length=config.context_length,
        load_format=config.load_format,
        quantization=config.quantization,
        use_tqdm=use_tqdm,
    )
    one = block_bytes(model.config, config.block_size, model.dtype)
    blocks = config.blocks
    if blocks is None:
        row = model.config.groups.count
        useful = config.most_contexts * -(-model.config.context_length // config.block_size) * row
        blocks = min(useful, blocks_that_fit(platform, one, config.memory_share, row))
    elif (available := platform.free_memory()) < blocks * one:
        raise NotEnoughMemory("the KV cache", blocks * one, available, KV_MEND)
    grammars = Grammars(backend(config.grammar_backend), lambda: vocabulary(folder, model.config))
    return ModelRunner(model, KvCache(model, blocks, config.block_size), worker, grammars, config.logprobs_mode)


def vocabulary(folder: Path, config: ModelConfig) -> Vocabulary:
    """Read the tokens of a checkpoint, as grammars need them.

    Raises:
        GrammarError: It has no tokenizer, or no token that ends an answer.
    """
    try:
        ends = {*config.stop_tokens, *Tokenizer.load(folder).stop_tokens}
    except CheckpointError as error:
        raise GrammarError(f"no grammars: {error}") from error
    ends = {token for token in ends if token < config.vocabulary}
    if not ends:
        raise GrammarError("this model has no token that ends an answer, so none can keep to a grammar")
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    return Vocabulary(text, config.vocabulary, tuple(sorted(ends)))
