"""The worker's memory of its requests: plans are diffs to it, and a step's flat batch is gathered from it.

Everything lies in arrays with a row per request, so that a step costs one dictionary look-up per request and a few
array operations in all.

Where the device goes ahead of the host (`Ahead`), a step is laid while the tokens of the one before are still on their
way: it reads them where they were drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.kernels.adapters import Routed
from engine.kernels.batch import Integers, PagedBatch, on_device
from engine.runner.ahead import Ahead
from engine.runner.arrivals import Limits
from engine.runner.flat import Expected, FlatBatch, LaidStep
from engine.runner.wishes import NOTHING_ASKED, Asked, Known, Wishes
from engine.sampling import Choices
from schemas.steps import Arrival, Slice

_SEED_BITS: Final = (1 << 64) - 1

_PARAMETERS: Final = np.dtype(
    [
        ("temperature", np.float32),
        ("top_k", np.int64),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("seed", np.int64),
    ]
)


class RequestTable:
    """Tokens, block tables and sampling parameters of every request that the worker knows.

    A request's table is in rows, as in plans: a block of each group of layers for the same few tokens.

    A request with which something is wrong stays known as failed until it is forgotten, and has no row.
    """

    def __init__(
        self,
        blocks: int,
        block_size: int,
        device: torch.device,
        vocabulary: int,
        groups: int = 1,
        ahead: Ahead | None = None,
        adapters: Sequence[str] = (),
    ) -> None:
        """Make an empty one; `ahead` where the device goes ahead of the host, `adapters` as the model counts them."""
        self._limits = Limits(blocks, block_size, groups, vocabulary, frozenset(adapters))
        self._adapters = {name: at for at, name in enumerate(adapters)}
        self._ahead, self._blocks, self._block_size = ahead, blocks, block_size
        self._groups = groups
        self._device = device
        self._failed: dict[str, str] = {}
        self._tainted: dict[int, int] = {}
        """Blocks whose content a failed request left unwritten, and from which place on."""
        self._rows: dict[str, int] = {}
        self._wishes = Wishes()
        self._free: list[int] = []
        self._parameters = np.zeros(0, _PARAMETERS)
        self._known: Integers = np.zeros(0, np.int64)
        """[rows]: tokens known."""
        self._computed: Integers = np.zeros(0, np.int64)
        """[rows]: of these, with keys and values in the cache."""
        self._held: Integers = np.zeros(0, np.int64)
        """[rows]: KV blocks, of all groups."""
        self._prompt: Integers = np.zeros(0, np.int64)
        """[rows]: tokens of the prompt."""
        self._adapted: Integers = np.zeros(0, np.int64)
        """[rows]: the adapter, -1 for none."""
        self._tokens: npt.NDArray[np.int32] = np.zeros((0, 0), np.int32)
        self._tables: Integers = np.zeros((0, 0), np.int64)
        self._laid: LaidStep | None = None
        """The step that was gathered last."""
        self._before: LaidStep | None = None
        """The same once it was computed, as long as its requests are as they were."""

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
                self._laid = self._before = None
                if self._ahead is not None:
                    self._ahead.leave(row)
                self._free.append(row)
                self._wishes.forget(row)

    def admit(self, arrival: Arrival) -> None:
        """Take a request in, afresh if it is known. One that cannot be computed is remembered as failed."""
        self.forget((arrival.request,))
        problem = self._limits.problem(arrival, self._tainted)
        if problem is not None:
            self._failed[arrival.request] = problem
            return
        row = self._take_row(len(arrival.tokens))
        self._laid = self._before = None
        if self._ahead is not None:
            self._ahead.enter(row)
        self._rows[arrival.request] = row
        sampling = arrival.sampling
        seed = np.uint64(sampling.seed & _SEED_BITS).astype(np.int64)
        self._known[row], self._computed[row] = len(arrival.tokens), arrival.computed
        self._held[row], self._prompt[row] = 0, arrival.prompt_tokens
        self._adapted[row] = self._adapters[sampling.adapter] if sampling.adapter else -1
        self._parameters[row] = (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, seed)
        self._tokens[row, : len(arrival.tokens)] = arrival.tokens
        self._wishes.admit(row, sampling)
        self._hold(row, arrival.blocks, fresh=arrival.blocks[self._limits.full(arrival) :])

    def fail(self, flat: FlatBatch, index: int, message: str) -> list[Integers]:
        """Remember that slice `index` of a batch could not be computed: its request has failed.

        Return for each group of layers the slots whose content is not to be read: what it wrote, unless they are
        others' by now.
        """
        piece, row, remote = flat.slices[index], int(flat.rows[index]), flat.remote
        if remote is None:
            positions = np.arange(piece.start, piece.start + piece.count)
            written = self._slots(np.full(piece.count, row), positions)
        else:
            last = int(flat.last[index])
            assert self._ahead is not None
            written = [
                self._ahead.still_written(slots[last - piece.count + 1 : last + 1], self._block_size, remote.turn)
                for slots in remote.slots
            ]
        for slot in (slot for slots in written for slot in slots.tolist()):
            block, place = divmod(slot, self._block_size)
            self._tainted[block] = min(place, self._tainted.get(block, place))
        if remote is None or self._lives_on(flat, index):
            self.forget((piece.request,))
            self._failed[piece.request] = message
        return written

    def _lives_on(self, flat: FlatBatch, index: int) -> bool:
        """Say whether the request of a slice is the one that it was when that was laid."""
        ahead, at = self._ahead, flat.remote
        return ahead is None or at is None or ahead.lives_on(int(flat.rows[index]), int(at.lives[index]))

    def failed_since(self, flat: FlatBatch) -> dict[int, str]:
        """Tell which slices of a batch are of requests that have failed since it was laid, and why."""
        return {
            index: self._failed[piece.request]
            for index, piece in enumerate(flat.slices)
            if piece.request in self._failed and not self._lives_on(flat, index)
        }

    def expect(self, flat: FlatBatch) -> Expected:
        """Note that a batch is being computed; the tokens that it brings are counted as known."""
        self._before = self._laid if self._laid is not None and self._laid.flat is flat else None
        self._computed[flat.rows] = flat.ends
        rows, ends, lives = flat.rows, flat.ends, None if flat.remote is None else flat.remote.lives
        if not flat.sampled.all():
            rows, ends = rows[flat.sampled], ends[flat.sampled]
            lives = None if lives is None else lives[flat.sampled]
        places = np.flatnonzero(self._known[rows] == ends)
        if places.size < rows.size:
            rows, ends = rows[places], ends[places]
            lives = None if lives is None else lives[places]
        if rows.size:
            self._widen(int(ends.max()) + 1)
            self._known[rows] = ends + 1
        if self._ahead is not None:
            self._ahead.expect(rows)
        return Expected(places, rows, ends, lives)

    def settle(self, expected: Expected, tokens: Integers) -> None:
        """Write down the tokens [sampled slices] that came of a batch, but for requests that have left since."""
        places, rows, ends, lives = expected
        if self._ahead is not None and lives is not None:
            here = self._ahead.arrived(rows, lives, self._known[rows] == ends + 1)
            places, rows, ends = places[here], rows[here], ends[here]
        if rows.size:
            self._tokens[rows, ends] = tokens if places.size == tokens.size else tokens[places]

    def record(self, flat: FlatBatch, tokens: Integers) -> None:
        """Note that a batch was computed, and the tokens [sampled slices] that came of it."""
        self.settle(self.expect(flat), tokens)

    def waits(self, flat: FlatBatch, requests: Iterable[int]) -> bool:
        """Say whether a token of some of the sampled slices' outputs is not known here yet."""
        return self._ahead is not None and bool(self._ahead.awaited[flat.rows[flat.sampled][list(requests)]].any())

    def tokens_of(self, flat: FlatBatch) -> Tensor:
        """Return int64 [tokens] of a batch as they are known by now."""
        assert flat.remote is not None
        return on_device(self._tokens[flat.remote.places].astype(np.int64), self._device)

    def gather(self, slices: Sequence[Slice]) -> tuple[FlatBatch | None, list[tuple[str, str]]]:
        """Return the batch of those slices that can be computed, if any, and (request, message) for the others."""
        going_on = self._going_on(slices)
        if going_on is not None:
            return going_on, []
        self._before = None
        good, errors = self._check(slices)
        return (self._flatten(good) if good else None), errors

    def _going_on(self, slices: Sequence[Slice]) -> FlatBatch | None:
        """Return the batch, if all that is computed is one token more of each request of the step before.

        Nothing else has changed then, and most of that step is as it was.
        """
        before = self._before
        if before is None or not before.goes_on(slices):
            return None
        old = before.flat
        ends, lengths, positions = old.ends + 1, before.lengths + 1, before.lengths
        grown = {row: piece.blocks for piece, row in zip(slices, old.rows.tolist(), strict=True) if piece.blocks}
        held = self._held[old.rows]
        if grown:
            if not all(0 <= block < self._blocks for blocks in grown.values() for block in blocks):
                return None
            held = held + np.array([len(grown.get(row, ())) for row in old.rows.tolist()])
        if (-(-ends // self._block_size) * self._groups > held).any():
            return None  # somebody has no room: it is said of him alone
        for row, blocks in grown.items():
            self._hold(row, blocks, fresh=blocks)
        longest, tables = int(lengths.max()), before.tables
        if grown or self._entries(longest) > tables.shape[2] * self._groups:
            tables = self._by_group(before.rows, longest)
        slots = self._slots(before.rows, positions)
        takers = None if old.remote is None else old.remote.takers
        tokens, where, *targets = self._sent(before.rows, positions, *slots)
        flat = (tuple(slices), old.rows, ends, old.last, old.sampled, tokens, where, old.heads)
        paged = self._paged(targets, tables, old.paged[0].counts, lengths)
        asked = self._asked(slices, old.rows, ends, old.last, old.sampled)
        remote = (
            None
            if self._ahead is None or takers is None
            else self._ahead.note(old.rows, (before.rows, positions), slots, takers)
        )
        made = FlatBatch(*flat, paged, old.choices.advanced(), old.routed, *asked, remote)
        self._laid = LaidStep(made, before.rows, lengths, tables)
        return made

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
            known, computed, held = (int(part[row]) for part in (self._known, self._computed, self._held))
            if piece.count > 0 and piece.start == computed and end <= known and self._entries(end) <= held:
                good.append(piece)
                continue
            have = f"{computed} are computed and {known} known, with {held} blocks of {self._block_size}"
            errors.append((piece.request, f"the plan wants tokens {piece.start} to {end}, but {have}"))
        return good, errors

    def _flatten(self, slices: list[Slice]) -> FlatBatch:
        """Lay the tokens of all slices one after the other, as `PagedBatch` wants them."""
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
        slots = self._slots(flat_rows, positions)
        tokens, where, *targets, heads, takers = self._sent(flat_rows, positions, *slots, last[sampled], rows[sampled])
        tables = self._by_group(rows[order], int(ends.max()))
        flat = (tuple(slices), rows, ends, last, sampled, tokens, where, heads)
        paged = self._paged(targets, tables, counts[order], ends[order])
        choices = self._choices(rows[sampled], ends[sampled])
        remote = None if self._ahead is None else self._ahead.note(rows, (flat_rows, positions), slots, takers)
        routed = Routed.of(self._adapted[flat_rows], self._device) if self._adapters else None
        made = FlatBatch(*flat, paged, choices, routed, *self._asked(slices, rows, ends, last, sampled), remote)
        self._laid = LaidStep(made, rows[order], ends[order], tables)
        return made

    def _sent(self, rows: Integers, positions: Integers, *others: Integers) -> list[Tensor]:
        """Give the device the tokens of rows at positions, these and others, in one transfer."""
        parts = [self._tokens[rows, positions].astype(np.int64), positions, *others]
        sources = None if self._ahead is None else self._ahead.sources(rows, positions == self._known[rows] - 1)
        if sources is not None:
            parts.append(sources)
        moved = list(on_device(np.concatenate(parts), self._device).split_with_sizes([part.size for part in parts]))
        if self._ahead is not None and sources is not None:
            moved[0] = self._ahead.filled_in(moved[0], moved.pop(), all_of_them=bool((sources >= 0).all()))
        return moved

    def _slots(self, rows: Integers, positions: Integers) -> list[Integers]:
        """Say where in the cache positions of rows lie, for each group."""
        size, columns = self._block_size, positions // self._block_size * self._groups
        return [self._tables[rows, columns + group] * size + positions % size for group in range(self._groups)]

    def _paged(
        self, targets: Sequence[Tensor], tables: Tensor, counts: Integers, lengths: Integers
    ) -> tuple[PagedBatch, ...]:
        """Put together what attention is told of each group."""
        size, shared = self._block_size, dict[Any, Any]()
        both = zip(targets, tables, strict=True)
        return tuple([PagedBatch(target, table, counts, lengths, size, shared) for target, table in both])

    def _asked(
        self, slices: Sequence[Slice], rows: Integers, ends: Integers, last: Integers, sampled: npt.NDArray[np.bool_]
    ) -> Asked:
        """Collect what some requests want beside a token."""
        if not self._wishes.any:
            return NOTHING_ASKED
        known = Known(self._tokens, self._known, self._prompt)
        return self._wishes.of(slices, (rows, ends, last, sampled), known)

    def _by_group(self, rows: Integers, end: int) -> Tensor:
        """Give the tables of some rows up to position `end`, [groups, rows, widest]."""
        tables = self._tables[rows, : self._entries(end)].reshape(len(rows), -1, self._groups)
        return on_device(tables.transpose(2, 0, 1), self._device)

    def _entries(self, tokens: int) -> int:
        """How many blocks of a table so many tokens fill."""
        return -(-tokens // self._block_size) * self._groups

    def _choices(self, rows: Integers, ends: Integers) -> Choices:
        """Collect the sampling parameters of some rows."""
        state = self._parameters[rows]
        return Choices(
            temperature=state["temperature"],
            top_k=state["top_k"],
            top_p=state["top_p"],
            min_p=state["min_p"],
            seed=state["seed"],
            index=ends - self._prompt[rows],
        )

    def _hold(self, row: int, blocks: Sequence[int], fresh: Iterable[int]) -> None:
        """Append to a request's block table; the `fresh` ones will be written before they are read."""
        held = int(self._held[row])
        wanted = held + len(blocks)
        if wanted > self._tables.shape[1]:
            self._tables = _grown(self._tables, (self._tables.shape[0], 2 * wanted))
        self._tables[row, held:wanted] = blocks
        self._held[row] = wanted
        fresh = tuple(fresh)
        if self._ahead is not None:
            self._ahead.hand_out(fresh)
        if self._tainted:
            for block in fresh:
                self._tainted.pop(block, None)

    def _take_row(self, tokens: int) -> int:
        """Return a free row with room for a request's tokens."""
        if not self._free:
            old = len(self._parameters)
            new = max(8, 2 * old)
            self._parameters = _grown(self._parameters, (new,))
            for name in ("_known", "_computed", "_held", "_prompt", "_adapted"):
                setattr(self, name, _grown(getattr(self, name), (new,)))
            self._tokens = _grown(self._tokens, (new, self._tokens.shape[1]))
            self._tables = _grown(self._tables, (new, self._tables.shape[1]))
            if self._ahead is not None:
                self._ahead.grow(new)
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
