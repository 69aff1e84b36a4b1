"""A step that goes on from the one before is laid as a table that hears of its requests for the first time lays it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.runner.flat import FlatBatch
from engine.runner.inputs import RequestTable
from schemas.generation import Sampling
from schemas.steps import Arrival, Slice

SIZE: Final = 4
BLOCKS: Final = 4000
SAMPLINGS: Final = (
    Sampling(max_tokens=99, temperature=0.7, top_p=0.9, seed=-5),
    Sampling(max_tokens=99, presence_penalty=1.0),
    Sampling(max_tokens=99, logprobs=2, trace_decode_token_ids=(7, 8, 9)),
)


def table(groups: int) -> RequestTable:
    return RequestTable(BLOCKS, SIZE, torch.device("cpu"), 1000, groups)


@dataclass
class Known:
    name: str
    tokens: list[int]
    prompt: int
    sampling: Sampling
    blocks: list[int] = field(default_factory=list)
    ahead: int = 0
    """Rows of blocks that it is handed before it needs them."""

    def arrival(self) -> Arrival:
        return Arrival(
            request=self.name,
            tokens=tuple(self.tokens),
            computed=len(self.tokens) - 1,
            blocks=tuple(self.blocks),
            prompt_tokens=self.prompt,
            sampling=self.sampling,
        )


def laid(batch: FlatBatch) -> dict[str, Any]:
    """Everything about a batch but which rows of a table it is from."""
    chosen = batch.choices
    wanted = [(one.row, one.sampling, one.prompt.tolist(), one.output.tolist()) for one in batch.wanted]
    tensors = (batch.tokens, batch.positions, batch.heads, *(one.slots for one in batch.paged))
    return {
        "slices": batch.slices,
        "arrays": [part.tolist() for part in (batch.ends, batch.last, batch.sampled)],
        "tensors": [part.tolist() for part in tensors],
        "tables": [  # as far as a request fills them
            row[: -(-length // SIZE)]
            for one in batch.paged
            for row, length in zip(one.tables.tolist(), one.lengths.tolist(), strict=True)
        ],
        "lengths": [(one.counts.tolist(), one.lengths.tolist()) for one in batch.paged],
        "choices": [
            part.tolist()
            for part in (chosen.temperature, chosen.top_k, chosen.top_p, chosen.min_p, chosen.seed, chosen.index)
        ],
        "asked": (wanted, batch.measured, batch.prompts, batch.forced),
    }


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_step_is_laid_as_if_it_were_the_first(data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 2]))
    long_known, free, known = table(groups), iter(range(BLOCKS)), dict[str, Known]()

    def blocks(count: int) -> list[int]:
        return [next(free) for _ in range(count * groups)]

    for step in range(data.draw(st.integers(3, 12))):
        happens = "arrive" if not known else data.draw(st.sampled_from(["go on"] * 6 + ["arrive", "leave", "rest"]))
        if happens == "leave":
            long_known.forget((known.popitem()[0],))
        if happens == "arrive":
            for _ in range(data.draw(st.integers(1, 3))):
                name, prompt = f"r{step}-{len(known)}", data.draw(st.integers(1, 13))
                one = Known(name, list(range(prompt)), prompt, data.draw(st.sampled_from(SAMPLINGS)))
                one.ahead = data.draw(st.integers(0, 2))
                one.blocks = blocks(-(-prompt // SIZE) + one.ahead)
                known[name] = one
                long_known.admit(one.arrival())
        resting = set(list(known)[:1]) if happens == "rest" else set[str]()
        slices, fresh = [], table(groups)
        for one in known.values():
            new = blocks(1 + one.ahead) if len(one.blocks) // groups * SIZE < len(one.tokens) else []
            fresh.admit(one.arrival())
            if one.name not in resting:
                slices.append(Slice(one.name, len(one.tokens) - 1, 1, sample=True, blocks=tuple(new)))
                one.blocks += new
        if not slices:
            continue
        batch, errors = long_known.gather(slices)
        expected, none = fresh.gather(slices)
        assert batch is not None
        assert expected is not None
        assert errors == none == []
        assert laid(batch) == laid(expected)
        drawn = np.arange(len(slices)) + 10 * step
        long_known.record(batch, drawn)
        for piece, token in zip(slices, drawn.tolist(), strict=True):
            known[piece.request].tokens.append(token)


def test_who_has_no_room_to_go_on_is_named_and_the_others_go_on() -> None:
    long_known = table(1)
    for name, room in (("roomy", 2), ("full", 1)):
        first = 0 if name == "roomy" else 5
        one = Known(name, [1, 2, 3], 3, SAMPLINGS[0], list(range(first, first + room)))
        long_known.admit(one.arrival())
    for start in (2, 3):
        batch, errors = long_known.gather([Slice(name, start, 1, sample=True) for name in ("roomy", "full")])
        assert batch is not None
        assert not errors
        long_known.record(batch, np.array([7, 8]))
    batch, errors = long_known.gather([Slice(name, 4, 1, sample=True) for name in ("roomy", "full")])
    assert batch is not None
    assert [piece.request for piece in batch.slices] == ["roomy"]
    assert [request for request, _ in errors] == ["full"]


def test_a_step_that_was_not_computed_is_not_gone_on_from() -> None:
    long_known = table(1)
    long_known.admit(Known("it", [1, 2], 2, SAMPLINGS[0], [3, 4]).arrival())
    assert long_known.gather([Slice("it", 1, 1, sample=True)])[1] == []
    _, errors = long_known.gather([Slice("it", 2, 1, sample=True)])
    assert "1 are computed" in errors[0][1]
