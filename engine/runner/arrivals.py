"""What a worker can take in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.steps import Arrival


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker has, by which it judges what plans bring."""

    blocks: int
    block_size: int
    groups: int
    """Of layers: a row of a request's table has a block of each."""
    vocabulary: int
    adapters: frozenset[str]

    def problem(self, arrival: Arrival, tainted: Mapping[int, int]) -> str | None:
        """Say why an arrival cannot be computed; what is in `tainted` blocks from a place on is not to be read."""
        sampling = arrival.sampling
        largest = max((*arrival.tokens, *sampling.trace_decode_token_ids), default=0)
        if largest >= self.vocabulary:
            return f"token {largest} is none that the model knows, 0 to {self.vocabulary - 1}"
        if sampling.adapter and sampling.adapter not in self.adapters:
            return f"the worker has no adapter {sampling.adapter!r}, only {sorted(self.adapters)}"
        return self._table_problem(arrival, tainted)

    def full(self, arrival: Arrival) -> int:
        """Count the blocks of an arrival's rows of which all tokens are computed; it writes to none of them."""
        return arrival.computed // self.block_size * self.groups

    def _table_problem(self, arrival: Arrival, tainted: Mapping[int, int]) -> str | None:
        if not all(0 <= block < self.blocks for block in arrival.blocks):
            return f"the plan names KV blocks that are not among the worker's {self.blocks}"
        if len(arrival.blocks) % self.groups:
            return f"{len(arrival.blocks)} KV blocks are no whole rows for layers in {self.groups} groups"
        needed = -(-arrival.computed // self.block_size) * self.groups
        cached = arrival.blocks[:needed]
        if needed > len(cached):
            return f"{arrival.computed} tokens cannot be cached in {len(cached)} blocks"
        full, size = self.full(arrival), self.block_size
        read = ((block, size if at < full else arrival.computed % size) for at, block in enumerate(cached))
        if tainted and any(tainted.get(block, size) < end for block, end in read):
            return "its cached prefix belongs to a request that failed"
        return None
