"""What no position to come sees is given up, beside layers that see all too; and found by those who need no more."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.config import SchedulerConfig
from engine.core.groups import group
from engine.core.prefix_cache import PrefixCache
from engine.core.request import LEFT
from engine.core.scheduler import Scheduler
from engine.core.tables import Tables
from schemas.generation import Accepted, Refused, Sampling, Submit
from schemas.steps import Resync, StepPlan, StepResult

SIZE, WINDOW = 4, 10


def scheduler(blocks: int = 64, **limits: Any) -> Scheduler:
    given: dict[str, Any] = {"window": WINDOW, "prefill_chunk": 8, "max_in_flight": 1, "watermark": 0.0} | limits
    return Scheduler(SchedulerConfig(blocks=blocks, context_length=1000, block_size=SIZE, **given), "epoch")


def submit(name: str, tokens: int, more: int = 1) -> Submit:
    sampling = Sampling(max_tokens=more)
    return Submit(request=name, prompt=tuple(range(tokens)), sampling=sampling, frontend="f", tenant="t")


def step(made: Scheduler) -> StepPlan | None:
    plan = made.plan(0)
    if plan is not None:
        sampled = tuple((part.request, 7) for part in plan.slices if part.sample)
        made.apply(StepResult(plan.n, plan.epoch, "worker", sampled))
    made.check()
    return plan


def test_a_long_request_holds_no_more_than_its_window_and_what_is_under_way() -> None:
    made, idle = scheduler(blocks=6), set()
    assert isinstance(made.submit(submit("long", 200, more=100)), Accepted)
    while step(made) is not None:
        idle.add(made.statistics().idle_blocks)
    assert idle <= {2, 3, 4, 6}
    assert made.statistics().idle_blocks == 6


def test_memory_for_less_than_a_window_is_refused() -> None:
    answer = scheduler(blocks=5).submit(submit("long", 200))
    assert isinstance(answer, Refused)
    assert "may need 6 KV blocks, there are 5" in answer.message


def test_without_a_window_the_same_request_needs_all_its_blocks() -> None:
    assert isinstance(scheduler(blocks=6, window=None).submit(submit("long", 200)), Refused)


def test_a_prefix_whose_beginning_is_gone_is_found_by_its_end() -> None:
    made = scheduler(blocks=6)
    made.submit(submit("first", 40))
    while step(made) is not None:
        pass
    made.submit(submit("again", 45))
    plan = step(made)
    assert plan is not None
    (arrival,) = plan.arrivals
    assert arrival.computed == 40
    assert len(arrival.blocks) == 10
    assert len(set(arrival.blocks)) == 3, "the window, and its first block for all that are left behind"


def test_a_beginning_counts_if_all_is_known_that_comes_after_it_sees() -> None:
    tokens, cache, keys = list(range(40)), PrefixCache(Tables(SIZE, 0, 1, WINDOW)), [PrefixCache.root("t")]
    for index in (0, 4, 5, 6):
        cache.enter(keys, tokens, index, [index])
    # after block 6 positions see from 28 - 10 + 1 = 19 on, in block 4
    assert cache.match([PrefixCache.root("t")], tokens) == [LEFT, LEFT, LEFT, LEFT, 4, 5, 6]
    cache.forget(5)
    assert cache.match([PrefixCache.root("t")], tokens) == [0]


def test_what_a_request_holds_at_most_is_bounded_by_the_window() -> None:
    tables = Tables(SIZE, 0, 1, WINDOW, ahead=8)
    assert [tables.wanted(tokens) for tokens in (1, 8, 16, 17, 10_000)] == [1, 2, 4, 5, 6]


MIXED = {"groups": 3, "windowed": 2}
"""A group of layers that see all, and two of layers that have the window."""


def test_beside_layers_that_see_all_those_with_a_window_hold_no_more_than_it() -> None:
    made, held = scheduler(blocks=100, **MIXED), list[int]()
    assert isinstance(made.submit(submit("long", 200, more=50)), Accepted)
    while step(made) is not None:
        held.append(100 - made.statistics().idle_blocks)
    # 248 tokens fill 62 rows, and the next one sees three of them
    assert held[-2:] == [62 + 2 * 3, 0]


def test_a_long_text_takes_a_sixth_of_the_memory_in_a_model_like_gemma_3() -> None:
    """32,768 tokens: of 26 layers 22 see 512 positions; four that see all are one group, six others have the window."""
    layers = group([512 if (layer + 1) % 6 else None for layer in range(26)])
    assert (layers.full, layers.windowed, layers.size) == (1, 6, 4)
    config = SchedulerConfig(blocks=20_000, context_length=40_000, groups=layers.count, windowed=layers.windowed)
    held = dict[int | None, list[int]]()
    for window in (None, layers.window):
        made = Scheduler(msgspec.structs.replace(config, window=window), "epoch")
        made.submit(submit("long", 32_767, more=2))
        held[window] = []
        while (plan := made.plan(0)) is not None:
            made.apply(StepResult(plan.n, plan.epoch, "worker", tuple((part.request, 7) for part in plan.slices)))
            held[window].append(20_000 - made.statistics().idle_blocks)
    rows = 32_768 // 16
    at_the_end = {window: blocks[-2] for window, blocks in held.items()}
    assert at_the_end == {None: 7 * rows, 512: rows + 6 * 512 // 16}
    assert max(held[512]) == at_the_end[512], "nor is it more between the steps of the prompt"
    # a block has room for four layers; in one table a row was a block for all 26
    assert at_the_end[512] * layers.size / (rows * 26) < 0.17


def test_memory_for_less_than_a_long_text_of_the_layers_that_see_all_is_refused() -> None:
    # rows: 201 tokens fill 51, of which those with a window hold 6
    assert isinstance(scheduler(blocks=51 + 2 * 6, **MIXED).submit(submit("long", 200)), Accepted)
    answer = scheduler(blocks=51 + 2 * 6 - 1, **MIXED).submit(submit("long", 200))
    assert isinstance(answer, Refused)
    assert "may need 63 KV blocks, there are 62" in answer.message


def test_a_worker_that_holds_too_little_for_every_group_ends_who_can_never_run() -> None:
    made = scheduler(blocks=63, **MIXED)
    made.submit(submit("long", 200))
    made.submit(submit("short", 20))
    (event,) = made.resync(Resync("w", 0, "started", 62))
    assert (event.request, event.finish) == ("long", "error")
    while step(made) is not None:
        pass
    assert made.statistics().idle_blocks == 62


def test_a_prefix_is_found_without_what_the_window_left_behind() -> None:
    made = scheduler(blocks=40, **MIXED)
    made.submit(submit("first", 40))
    while step(made) is not None:
        pass
    # others take the blocks that were left behind first
    made.submit(Submit("other", (7,) * 20, Sampling(max_tokens=1), "f", "another"))
    while step(made) is not None:
        pass
    made.submit(submit("again", 45))
    plan = step(made)
    assert plan is not None
    (arrival,) = plan.arrivals
    assert arrival.computed == 40
    rows = [arrival.blocks[at : at + 3] for at in range(0, 30, 3)]
    assert len({row[0] for row in rows}) == 10
    # after 40 tokens a position sees from 31 on, in row 7
    assert len({block for row in rows[7:] for block in row}) == 9
    assert {block for row in rows[:7] for block in row[1:]} == {rows[0][0]}


def test_the_longest_beginning_has_all_of_one_kind_and_the_end_of_the_other() -> None:
    tables = Tables(SIZE, full=1, windowed=1, window=WINDOW)
    tokens, cache, keys = list(range(40)), PrefixCache(tables), [PrefixCache.root("t")]

    def rows() -> list[list[int]]:
        found = cache.match([PrefixCache.root("t")], tokens)
        cache.check()
        return [found[at : at + 2] for at in range(0, len(found), 2)]

    for index in range(8):
        assert cache.enter(keys, tokens, index, [index, 10 + index]) == [index, 10 + index]
    # after row 7 positions see from 32 - 10 + 1 = 23 on, in row 5
    assert rows() == [*([row, LEFT] for row in range(5)), [5, 15], [6, 16], [7, 17]]
    cache.forget(12)
    assert len(rows()) == 8, "no position after it sees row 2"
    cache.forget(16)
    # one that sees rows 4 and 5 alone is whole, but for that it begins after row 5
    assert rows() == [*([row, LEFT] for row in range(3)), [3, 13], [4, 14], [5, 15]]
    cache.forget(4)
    # without row 4 of those that see all nothing after it is of use, and row 3 sees row 2
    assert rows() == [[0, 10], [1, 11]]
    assert cache.enter(keys, tokens, 4, [20, 21]) == [20], "another block holds the same for the group with the window"
    assert len(rows()) == 6


def test_a_row_is_forgotten_with_the_last_of_its_blocks() -> None:
    cache, keys = PrefixCache(Tables(SIZE, 1, 2, WINDOW)), [PrefixCache.root("t")]
    cache.enter(keys, list(range(8)), 0, [5, 6, 7])
    for block in (6, 5, 7):
        cache.check()
        cache.forget(block)
    cache.check()
    assert not cache.places
    assert not cache._rows


@pytest.mark.parametrize(
    ("tables", "blocks", "longest"),
    [
        (Tables(SIZE), 10, 40),
        (Tables(SIZE, 0, 1, WINDOW, 8), 5, 20),
        (Tables(SIZE, 0, 1, WINDOW, 8), 6, 1000),
        (Tables(SIZE, 1, 2, WINDOW, 8), 17, 20),
        (Tables(SIZE, 1, 2, WINDOW, 8), 18, 24),
        (Tables(SIZE, 1, 2, WINDOW, 8), 63, 204),
        (Tables(SIZE, 2, 0), 10, 20),
    ],
)
def test_the_longest_request_fits_and_a_longer_one_does_not(tables: Tables, blocks: int, longest: int) -> None:
    assert tables.longest(blocks, 1000) == longest
    assert tables.wanted(longest) <= blocks
    assert longest == 1000 or tables.wanted(longest + 1) > blocks


def run(made: Scheduler, *tokens: int) -> int:
    """Have one more request answered; return how many of its tokens were known before."""
    name = f"r{made.statistics().steps}"
    made.submit(Submit(name, tokens, Sampling(max_tokens=1), "f", "t"))
    plan = step(made)
    assert plan is not None
    while step(made) is not None:
        pass
    return plan.arrivals[0].computed


def test_what_a_window_leaves_behind_is_used_again_before_what_others_held_to_their_end() -> None:
    made = scheduler(blocks=70, **MIXED)
    texts = [range(first, first + 40) for first in (0, 100, 200)]
    # each takes 30 blocks, of which 14 are left behind
    for text in texts:
        assert run(made, *text) == 0
    for text in texts:
        assert run(made, *text, 7) == 40


def test_where_a_text_parted_from_another_the_next_one_finds_what_it_sees() -> None:
    made, beginning = scheduler(blocks=130, **MIXED), range(40)
    others = iter(range(1000, 9000, 100))

    def pressure(times: int) -> None:
        for _ in range(times):
            first = next(others)
            run(made, *range(first, first + 40))

    assert run(made, *beginning, *range(50, 90)) == 0
    pressure(3)
    assert run(made, *beginning, *range(150, 190)) == 0, "of what it would see nothing is left"
    pressure(2)
    assert run(made, *beginning, *range(250, 290)) == 40


def test_layers_that_all_have_a_window_leave_blocks_in_the_order_of_their_use() -> None:
    made = scheduler(blocks=25)
    assert run(made, *range(40)) == run(made, *range(100, 140)) == 0
    assert run(made, *range(20), 7) == 20, "what was left behind in the midst is known still"
