"""Executes the plans of one scheduler on one device.

The tokens sampled in a step are kept here, so a plan may name the position after a token that the scheduler has not
seen yet: plans can be sent one ahead. A request that has come to its end meanwhile is computed all the same, and the
scheduler drops what it did not need.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np
import torch

from engine.config import SchedulerConfig
from engine.core.tables import tables_within
from engine.kernels.batch import on_device
from engine.logprobs import LogprobsMode
from engine.models.config import ModelConfig
from engine.models.decoder import Decoder, Trunk
from engine.runner.ahead import Ahead
from engine.runner.constraints import Constraints
from engine.runner.current import current
from engine.runner.flat import Expected, FlatBatch
from engine.runner.graphs import layers_for
from engine.runner.inputs import RequestTable
from engine.runner.kv_cache import KvCache, block_bytes
from engine.runner.landing import NOTHING, Here, Landed, Landing, landing_for
from engine.runner.pending import Deferred, Launched, Pending
from engine.runner.sampler import Drawn, Made, Sampler
from engine.runner.warming import warm_up
from engine.structured.compiler import Grammars
from schemas.generation import TokenLogprobs
from schemas.steps import Prepare, StepPlan, StepResult


@dataclass(slots=True)
class _Begun:
    """A step that was launched."""

    plan: StepPlan
    began: float
    errors: list[tuple[str, str]]
    """(request, message) of slices that could not be laid."""
    drawn: Drawn | None = None
    """None if nothing was computed."""
    expected: Expected | None = None
    landed: Landed = NOTHING
    follows: bool = False
    """Whether tokens that it brings may be changed on the host, or decide what may come next."""
    pending: Pending | None = None


class ModelRunner:
    """A model, its KV cache, and what is known of each request."""

    def __init__(
        self,
        model: Decoder,
        cache: KvCache,
        worker: str,
        grammars: Grammars | None = None,
        logprobs_mode: LogprobsMode = "raw_logprobs",
        landing: Landing | None = None,
        adapters: Sequence[str] = (),
        *,
        captured: bool = True,
    ) -> None:
        """Make a runner without requests; `worker` is the id that its results carry.

        `adapters` are names of those that the model has taken on, in its order;
        `landing` is how results come from the device, if not as is best for it.
        """
        self._model = model
        self._cache = cache
        self._worker = worker
        self.adapters = tuple(adapters)
        """Names of the adapters that requests may ask for."""
        self._landing = landing or landing_for(model)
        self._landing_is_apart = self._landing is not Here
        self._ahead = Ahead(cache.blocks, model.device) if self._landing_is_apart else None
        self._requests = RequestTable(
            cache.blocks, cache.block_size, model.device, model.config.vocabulary, cache.groups, self._ahead, adapters
        )
        self._constraints = Constraints(grammars)
        self._sampler = Sampler(model, self._constraints, logprobs_mode)
        self._under_way = deque[_Begun]()
        """Steps that were launched and not taken in."""
        self._changed = frozenset[str]()
        """Requests whose tokens of the last step are not those that were drawn."""
        self._last_end = 0.0
        self._layers = layers_for(model, cache.layers, cache.block_size, captured=captured)

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

    def warm_up(self, requests: int) -> None:
        """Have an accelerator's kernels compiled and its graphs captured for up to so many requests at once.

        Before the first plan: the content of KV blocks is lost.
        """
        if self._landing_is_apart:
            with current(self._model.device):
                warm_up(self._model, self._layers, self._cache, min(requests, self._cache.blocks // self._cache.groups))

    def prepare(self, prepare: Prepare) -> str:
        """Compile a grammar, in any thread, beside the steps; say what is wrong with it, or nothing."""
        return self._constraints.prepare(prepare)

    def launch(self, plan: StepPlan) -> Pending:
        """Begin a step, and return without waiting for it where a device computes by itself.

        Results must be taken in the order of launches, in the same thread; one that another step cannot do without is
        taken by that, and given when it is asked for.
        """
        if not self._landing_is_apart:
            return Deferred(partial(self.execute, plan))
        began = self._begin(plan)
        began.pending = Launched(began.landed, partial(self._ended, began))
        self._under_way.append(began)
        return began.pending

    def execute(self, plan: StepPlan) -> StepResult:
        """Apply a plan's changes, compute its slices, sample where it asks.

        What cannot be computed for one request (not finite, or a plan that does not fit what is known here) becomes
        an entry of `errors`, now and for every later slice of that request, and leaves the others as they are.
        """
        return self._end(self._begin(plan))

    def _begin(self, plan: StepPlan) -> _Begun:
        """Apply a plan's changes and launch its step."""
        with current(self._model.device):
            return self._launched(plan)

    def _launched(self, plan: StepPlan) -> _Begun:
        began = time.perf_counter()
        if plan.full or self._touches_what_is_followed(plan):
            self._catch_up()
        if plan.full:
            self.reset()
        self._requests.forget(plan.gone)
        self._constraints.forget(plan.gone)
        for arrival in plan.arrivals:
            self._requests.admit(arrival)
            self._constraints.admit(arrival)
        batch, errors = self._requests.gather(plan.slices)
        begun = _Begun(plan, began, errors)
        if batch is not None:
            begun.drawn = self._compute(batch)
            begun.landed = self._landing(begun.drawn.sent)
            begun.follows = self._constraints.any and any(
                self._constraints.follows(piece.request) for piece in batch.slices if piece.sample
            )
            begun.expected = self._requests.expect(batch)
        return begun

    @torch.inference_mode()
    def _compute(self, batch: FlatBatch) -> Drawn:
        """Launch the model over a batch, and the drawing of its tokens."""
        hidden = self._layers(batch.tokens, batch.positions, batch.paged, batch.routed)
        if self._under_way and self._must_catch_up(batch):
            changed = self._catch_up()
            if any(piece.request in changed for piece in batch.slices):
                # what was launched went on from other tokens than those that were taken
                tokens = self._requests.tokens_of(batch)
                hidden = self._layers(tokens, batch.positions, batch.paged, batch.routed)
        drawn = self._sampler.launch(batch, hidden)
        if self._ahead is not None and batch.remote is not None and "tokens" in drawn.sent:
            self._ahead.draw(batch.remote.takers, drawn.sent["tokens"])
        return drawn

    def _must_catch_up(self, batch: FlatBatch) -> bool:
        """Say whether a batch's tokens cannot be drawn before those of the steps under way are known."""
        if any(one.follows for one in self._under_way):
            return True
        return bool(batch.wanted) and self._requests.waits(batch, self._sampler.reading(batch))

    def _touches_what_is_followed(self, plan: StepPlan) -> bool:
        """Say whether requests leave or come of which a step under way has still to be taken in."""
        touched = {*plan.gone, *(arrival.request for arrival in plan.arrivals)}
        return any(
            one.follows and not touched.isdisjoint(piece.request for piece in one.plan.slices)
            for one in self._under_way
        )

    def _catch_up(self) -> set[str]:
        """Wait for all that is under way, and take it in; return requests whose tokens are not as they were drawn."""
        changed = set[str]()
        while self._under_way:
            pending = self._under_way[0].pending
            assert pending is not None
            pending.result()
            changed |= self._changed
        return changed

    def _ended(self, begun: _Begun) -> StepResult:
        """End a step that was launched; those before it first."""
        while self._under_way[0] is not begun:
            pending = self._under_way[0].pending
            assert pending is not None
            pending.result()
        self._under_way.popleft()
        return self._end(begun)

    @torch.inference_mode()
    def _end(self, begun: _Begun) -> StepResult:
        """Wait for a step, take in what came of it, and tell."""
        errors, made = begun.errors, Made(np.empty(0, np.int64))
        tokens, logprobs, prompts = list[tuple[str, int]](), list[tuple[str, TokenLogprobs]](), made.prompts
        refused: tuple[str, ...] = ()
        if begun.drawn is not None:
            made, failed = self._finish(begun, errors)
            slices = begun.drawn.batch.slices
            names = [piece.request for piece in slices if piece.sample]
            refused = tuple(slices[index].request for index in made.problems if index not in made.broken)
            tokens = [pair for pair in zip(names, made.tokens.tolist(), strict=True) if pair[0] not in failed]
            logprobs = [(names[row], one) for row, one in made.logprobs if names[row] not in failed]
            prompts = tuple(one for one in made.prompts if one[0] not in failed)
        self._changed = made.changed
        now = time.perf_counter()
        spent, self._last_end = now - max(begun.began, self._last_end), now
        return StepResult(
            n=begun.plan.n,
            epoch=begun.plan.epoch,
            worker=self._worker,
            tokens=tuple(tokens),
            errors=tuple(errors),
            compute_us=round(spent * 1e6),
            logprobs=tuple(logprobs),
            prompt_logprobs=prompts,
            whole=made.whole,
            refused=refused,
            closed=made.closed,
        )

    def _finish(self, begun: _Begun, errors: list[tuple[str, str]]) -> tuple[Made, set[str]]:
        """Take in what came of a step that computed something; append to `errors`, and return who has failed."""
        drawn, expected = begun.drawn, begun.expected
        assert drawn is not None
        assert expected is not None
        batch = drawn.batch
        left = {} if batch.remote is None else self._requests.failed_since(batch)
        made = self._sampler.finish(drawn, begun.landed.read(), {*left})
        self._requests.settle(expected, made.tokens)
        for index, problem in made.problems.items():
            self._fail(batch, index, problem)
        for index, problem in (left | made.problems).items():
            errors.append((batch.slices[index].request, problem))
        return made, {batch.slices[index].request for index in (*left, *made.problems)}

    def _fail(self, batch: FlatBatch, index: int, problem: str) -> None:
        """Drop a request that went wrong, and what it wrote: nobody may read numbers that are not finite."""
        for slots in self._requests.fail(batch, index, problem):
            self._cache.clear(on_device(slots, self._model.device))
