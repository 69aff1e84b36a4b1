"""The worker's memory of its requests: plans are diffs to it, and a step's flat batch is gathered from it.

Everything lies in arrays with a row per request, so that a step costs one dictionary look-up per request and a few
array operations in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.core.numbers import candidates
from engine.kernels.batch import Integers, PagedBatch, on_device
from engine.logits import Wanted, changes_logits
from engine.logprobs import Measured, MeasuredPrompt, measures
from engine.sampling import Choices
from schemas.generation import Sampling
from schemas.steps import Arrival, Slice

_SEED_BITS: Final = (1 << 64) - 1

_STATE: Final = np.dtype(
    [
        ("known", np.int64),  # tokens known
        ("computed", np.int64),  # of these, with keys and values in the cache
        ("held", np.int64),  # KV blocks, of all groups
        ("prompt", np.int64),  # tokens of the prompt
        ("temperature", np.float32),
        ("top_k", np.int64),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("seed", np.int64),
    ]
)


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """One step, ready for the device. Arrays over slices are in the plan's order."""

    slices: tuple[Slice, ...]
    """Those that can be computed."""
    rows: Integers
    """[slices]: each request's row in the table."""
    ends: Integers
    """[slices]: position after the last one computed: where a sampled token goes."""
    last: Integers
    """[slices]: index of each slice's last token in the flat batch."""
    sampled: npt.NDArray[np.bool_]
    """[slices]: whether a token is sampled."""
    tokens: Tensor
    positions: Tensor
    """int64 [tokens]."""
    heads: Tensor
    """int64 [sampled slices]: indices into the flat batch of the tokens whose logits are wanted."""
    paged: tuple[PagedBatch, ...]
    """For each group of layers."""
    choices: Choices
    """Over the sampled slices."""
    wanted: tuple[Wanted, ...]
    """Those of the sampled slices whose logits are to be changed."""
    measured: tuple[Measured, ...]
    """Those whose logits are to be told of."""
    prompts: tuple[MeasuredPrompt, ...]
    forced: tuple[tuple[int, int], ...] = ()
    """(index among the sampled slices, token) where the answer's tokens are given."""


class RequestTable:
    """Tokens, block tables and sampling parameters of every request that the worker knows.

    A request's table is in rows, as in plans: a block of each group of layers for the same few tokens.

    A request with which something is wrong stays known as failed until it is forgotten, and has no row.
    """

    def __init__(self, blocks: int, block_size: int, device: torch.device, vocabulary: int, groups: int = 1) -> None:
        self._blocks = blocks
        self._block_size = block_size
        self._groups = groups
        self._device = device
        self._vocabulary = vocabulary
        self._failed: dict[str, str] = {}
        self._tainted: set[int] = set()
        """Blocks whose content a failed request left unwritten."""
        self._rows: dict[str, int] = {}
        self._changing: dict[int, Sampling] = {}
        """Rows whose requests want their logits changed."""
        self._measuring: dict[int, Sampling] = {}
        """Rows whose requests want to be told of them."""
        self._forced: dict[int, Sampling] = {}
        """Rows whose requests are given the tokens of their answers."""
        self._free: list[int] = []
        self._state = np.zeros(0, _STATE)
        self._tokens: npt.NDArray[np.int32] = np.zeros((0, 0), np.int32)
        self._tables: Integers = np.zeros((0, 0), np.int64)

    def clear(self) -> None:
        """Forget every request."""
        self.forget(tuple(self._rows))
        self._failed.clear()

    def forget(self, requests: Iterable[str]) -> None:
        """Forget some requests; unknown ones are ignored."""
        for request in requests:
            self._failed.pop(request, None)
            row = self._rows.pop(request, None)
            if row is not None:
                self._free.append(row)
                self._changing.pop(row, None)
                self._measuring.pop(row, None)
                self._forced.pop(row, None)

    def admit(self, arrival: Arrival) -> None:
        """Take a request in, afresh if it is known. One that cannot be computed is remembered as failed."""
        self.forget((arrival.request,))
        problem = self._problem(arrival)
        if problem is not None:
            self._failed[arrival.request] = problem
            return
        row = self._take_row(len(arrival.tokens))
        self._rows[arrival.request] = row
        sampling = arrival.sampling
        seed = np.uint64(sampling.seed & _SEED_BITS).astype(np.int64)
        self._state[row] = (
            *(len(arrival.tokens), arrival.computed, 0, arrival.prompt_tokens),
            *(sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, seed),
        )
        self._tokens[row, : len(arrival.tokens)] = arrival.tokens
        if changes_logits(sampling):
            self._changing[row] = sampling
        if measures(sampling):
            self._measuring[row] = sampling
        if sampling.trace_decode_token_ids:
            self._forced[row] = sampling
        self._hold(row, arrival.blocks, fresh=arrival.blocks[self._entries(arrival.computed) :])

    def fail(self, flat: FlatBatch, index: int, message: str) -> None:
        """Remember that slice `index` of a batch could not be computed: its request has failed."""
        piece, row = flat.slices[index], flat.rows[index]
        first, last = piece.start // self._block_size * self._groups, self._entries(piece.start + piece.count)
        self._tainted.update(self._tables[row, first:last].tolist())
        self.forget((piece.request,))
        self._failed[piece.request] = message

    def record(self, flat: FlatBatch, tokens: Integers) -> None:
        """Note that a batch was computed, and the tokens [sampled slices] that came of it."""
        self._state["computed"][flat.rows] = flat.ends
        rows, ends = flat.rows[flat.sampled], flat.ends[flat.sampled]
        new = self._state["known"][rows] == ends
        rows, ends = rows[new], ends[new]
        if rows.size:
            self._widen(int(ends.max()) + 1)
            self._tokens[rows, ends] = tokens[new]
            self._state["known"][rows] = ends + 1

    def gather(self, slices: Sequence[Slice]) -> tuple[FlatBatch | None, list[tuple[str, str]]]:
        """Return the batch of those slices that can be computed, if any, and (request, message) for the others."""
        good, errors = self._check(slices)
        return (self._flatten(good) if good else None), errors

    def _check(self, slices: Sequence[Slice]) -> tuple[list[Slice], list[tuple[str, str]]]:
        """Hand newly held blocks to their requests, and part the slices that can be computed from the others."""
        good, errors = [], []
        for piece in slices:
            row = self._rows.get(piece.request)
            if row is None:
                errors.append((piece.request, self._failed.get(piece.request, "the worker does not know this request")))
                continue
            if piece.blocks and all(0 <= block < self._blocks for block in piece.blocks):
                self._hold(row, piece.blocks, fresh=piece.blocks)
            end = piece.start + piece.count
            known, computed, held = self._state[row].item()[:3]
            if piece.count > 0 and piece.start == computed and end <= known and self._entries(end) <= held:
                good.append(piece)
                continue
            have = f"{computed} are computed and {known} known, with {held} blocks of {self._block_size}"
            errors.append((piece.request, f"the plan wants tokens {piece.start} to {end}, but {have}"))
        return good, errors

    def _flatten(self, slices: list[Slice]) -> FlatBatch:
        """Lay the tokens of all slices one after the other, as `PagedBatch` wants them."""
        size = self._block_size
        rows = np.array([self._rows[piece.request] for piece in slices])
        starts = np.array([piece.start for piece in slices])
        counts = np.array([piece.count for piece in slices])
        sampled = np.array([piece.sample for piece in slices])
        ends = starts + counts
        order = np.lexsort((ends, counts != 1))
        edges = np.cumsum(counts[order])
        last = np.empty_like(edges)
        last[order] = edges - 1
        flat_rows = np.repeat(rows[order], counts[order])
        positions = np.arange(edges[-1]) + np.repeat(ends[order] - edges, counts[order])
        columns = (positions // size * self._groups + group for group in range(self._groups))
        slots = [self._tables[flat_rows, column] * size + positions % size for column in columns]
        # one transfer for all that is as long as the batch
        parts = (self._tokens[flat_rows, positions], positions, last[sampled], *slots)
        moved = on_device(np.concatenate(parts), self._device)
        tokens, where, heads, *targets = moved.split_with_sizes([part.size for part in parts])
        tables, shared = self._by_group(rows[order], int(ends.max())), dict[Any, Any]()
        paged = tuple([
            PagedBatch(target, table, counts[order], ends[order], size, shared)
            for target, table in zip(targets, tables, strict=True)
        ])  # fmt: skip
        choices = self._choices(rows[sampled], ends[sampled])
        wanted = self._wanted(rows[sampled], ends[sampled]) if self._changing else ()
        told = (self._measured(rows[sampled]), self._prompts(slices, rows, last)) if self._measuring else ((), ())
        forced = self._given(rows[sampled], ends[sampled]) if self._forced else ()
        flat = (tuple(slices), rows, ends, last, sampled, tokens, where, heads, paged, choices, wanted)
        return FlatBatch(*flat, *told, forced)

    def _by_group(self, rows: Integers, end: int) -> Tensor:
        """Give the tables of some rows up to position `end`, [groups, rows, widest]."""
        tables = self._tables[rows, : self._entries(end)].reshape(len(rows), -1, self._groups)
        return on_device(tables.transpose(2, 0, 1), self._device)

    def _entries(self, tokens: int) -> int:
        """How many blocks of a table so many tokens fill."""
        return -(-tokens // self._block_size) * self._groups

    def _wanted(self, rows: Integers, ends: Integers) -> tuple[Wanted, ...]:
        """Collect what is to be changed about the logits of some rows."""
        wanted = []
        for index, (row, end) in enumerate(zip(rows.tolist(), ends.tolist(), strict=True)):
            sampling = self._changing.get(row)
            if sampling is not None:
                prompt = int(self._state["prompt"][row])
                tokens = self._tokens[row]
                wanted.append(Wanted(index, sampling, tokens[:prompt], tokens[prompt:end]))
        return tuple(wanted)

    def _given(self, rows: Integers, ends: Integers) -> tuple[tuple[int, int], ...]:
        """Name the tokens that are not drawn."""
        found = []
        for at, (row, end) in enumerate(zip(rows.tolist(), ends.tolist(), strict=True)):
            given = self._forced[row].trace_decode_token_ids if row in self._forced else ()
            index = end - int(self._state["prompt"][row])
            if index < len(given):
                found.append((at, given[index]))
        return tuple(found)

    def _measured(self, rows: Integers) -> tuple[Measured, ...]:
        """Name the sampled rows of which something is to be told."""
        found = [(at, self._measuring.get(row)) for at, row in enumerate(rows.tolist())]
        return tuple([
            Measured(at, sampling.logprobs, sampling.logprob_token_ids, sampling.searching)
            for at, sampling in found
            if sampling is not None and sampling.logprobs is not None
        ])  # fmt: skip

    def _prompts(self, slices: Sequence[Slice], rows: Integers, last: Integers) -> tuple[MeasuredPrompt, ...]:
        """Name the prompt tokens that can be judged in this step, unless there was output: then they were before."""
        told = []
        for piece, row, at in zip(slices, rows.tolist(), last.tolist(), strict=True):
            sampling = self._measuring.get(row)
            known, _, _, prompt = self._state[row].item()[:4]
            if sampling is None or sampling.prompt_logprobs is None or known > prompt:
                continue
            first = max(piece.start, sampling.prompt_logprob_start)
            tokens = self._tokens[row, first + 1 : min(piece.start + piece.count + 1, prompt)].copy()
            if tokens.size:
                ids = tuple(candidates(sampling, first + 1 + index) for index in range(tokens.size))
                place = at - piece.count + 1 + first - piece.start
                told.append(MeasuredPrompt(piece.request, first + 1, place, tokens, sampling.prompt_logprobs, ids))
        return tuple(told)

    def _choices(self, rows: Integers, ends: Integers) -> Choices:
        """Collect the sampling parameters of some rows."""
        state = self._state[rows]
        return Choices(
            temperature=state["temperature"],
            top_k=state["top_k"],
            top_p=state["top_p"],
            min_p=state["min_p"],
            seed=state["seed"],
            index=ends - state["prompt"],
        )

    def _problem(self, arrival: Arrival) -> str | None:
        """Say why an arrival cannot be computed."""
        if not all(0 <= block < self._blocks for block in arrival.blocks):
            return f"the plan names KV blocks that are not among the worker's {self._blocks}"
        largest = max((*arrival.tokens, *arrival.sampling.trace_decode_token_ids), default=0)
        if largest >= self._vocabulary:
            return f"token {largest} is none that the model knows, 0 to {self._vocabulary - 1}"
        if len(arrival.blocks) % self._groups:
            return f"{len(arrival.blocks)} KV blocks are no whole rows for layers in {self._groups} groups"
        cached = arrival.blocks[: self._entries(arrival.computed)]
        if self._entries(arrival.computed) > len(cached):
            return f"{arrival.computed} tokens cannot be cached in {len(cached)} blocks"
        if not self._tainted.isdisjoint(cached):
            return "its cached prefix belongs to a request that failed"
        return None

    def _hold(self, row: int, blocks: Sequence[int], fresh: Iterable[int]) -> None:
        """Append to a request's block table; the `fresh` ones will be written before they are read."""
        held = int(self._state["held"][row])
        wanted = held + len(blocks)
        if wanted > self._tables.shape[1]:
            self._tables = _grown(self._tables, (self._tables.shape[0], 2 * wanted))
        self._tables[row, held:wanted] = blocks
        self._state["held"][row] = wanted
        if self._tainted:
            self._tainted.difference_update(fresh)

    def _take_row(self, tokens: int) -> int:
        """Return a free row with room for a request's tokens."""
        if not self._free:
            old = len(self._state)
            new = max(8, 2 * old)
            self._state = _grown(self._state, (new,))
            self._tokens = _grown(self._tokens, (new, self._tokens.shape[1]))
            self._tables = _grown(self._tables, (new, self._tables.shape[1]))
            self._free.extend(range(new - 1, old - 1, -1))
        self._widen(tokens + 1)
        return self._free.pop()

    def _widen(self, tokens: int) -> None:
        """Make room for so many tokens in every row."""
        if tokens > self._tokens.shape[1]:
            self._tokens = _grown(self._tokens, (self._tokens.shape[0], tokens + tokens // 4 + 64))


def _grown(old: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return a larger array with the old one in its first corner and zeros elsewhere."""
    new = np.zeros(shape, old.dtype)
    new[tuple(slice(0, length) for length in old.shape)] = old
    return new
