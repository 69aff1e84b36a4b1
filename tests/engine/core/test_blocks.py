"""The pool: all or nothing, who holds what, and the order in which blocks are used again."""

from __future__ import annotations

import pytest

from engine.core.blocks import BlockPool


def pool(size: int) -> tuple[BlockPool, list[int]]:
    """Return a pool, and the list in which it notes evictions."""
    evicted: list[int] = []
    return BlockPool(size, evicted.append), evicted


def test_it_gives_all_blocks_asked_for_or_none() -> None:
    blocks, _ = pool(3)
    assert blocks.take(4) is None
    assert blocks.idle == 3
    assert blocks.take(3) == [0, 1, 2]
    assert blocks.take(1) is None
    assert blocks.take(0) == []
    blocks.check([[0, 1, 2]], [])


def test_a_block_is_idle_when_its_last_holder_gave_it_up() -> None:
    blocks, _ = pool(2)
    taken = blocks.take(1)
    assert taken is not None
    blocks.hold(taken)
    blocks.release(taken)
    assert blocks.idle == 1
    blocks.release(taken)
    assert blocks.idle == 2
    blocks.check([], [])


def test_releasing_what_nobody_holds_is_our_bug() -> None:
    blocks, _ = pool(1)
    with pytest.raises(AssertionError, match="nobody holds"):
        blocks.release([0])


def test_idle_content_is_revived_by_a_new_holder() -> None:
    blocks, evicted = pool(2)
    taken = blocks.take(2)
    assert taken is not None
    for block in taken:
        blocks.keep(block)
    blocks.release(taken)
    assert blocks.idle_among([0, 1]) == 2
    blocks.hold([0])
    assert blocks.idle_among([0, 1]) == 1
    assert blocks.take(1) == [1]
    assert evicted == [1]
    blocks.check([[0], [1]], [0])


def test_blocks_without_content_are_used_before_those_with() -> None:
    blocks, evicted = pool(4)
    first = blocks.take(2)
    assert first == [0, 1]
    blocks.keep(0)
    blocks.keep(1)
    blocks.release(first)
    second = blocks.take(2)
    assert second == [2, 3]
    blocks.release(second)
    assert blocks.take(2) == [2, 3]
    assert evicted == []


def test_of_a_request_s_content_the_tail_is_evicted_before_the_head() -> None:
    blocks, evicted = pool(3)
    taken = blocks.take(3)
    assert taken == [0, 1, 2]
    for block in taken:
        blocks.keep(block)
    blocks.release(taken)
    assert [blocks.take(1), blocks.take(1), blocks.take(1)] == [[2], [1], [0]]
    assert evicted == [2, 1, 0]


def test_the_longest_idle_content_is_evicted_first() -> None:
    blocks, evicted = pool(2)
    for _ in range(2):
        taken = blocks.take(1)
        assert taken is not None
        blocks.keep(taken[0])
    blocks.release([1])
    blocks.release([0])
    blocks.take(2)
    assert evicted == [1, 0]


def test_content_of_an_idle_block_cannot_be_marked_any_more() -> None:
    blocks, _ = pool(1)
    with pytest.raises(AssertionError, match="idle"):
        blocks.keep(0)


@pytest.mark.parametrize(("tables", "kept"), [([[0, 1]], []), ([[0]], [1]), ([], [])])
def test_check_fails_when_the_books_do_not_balance(tables: list[list[int]], kept: list[int]) -> None:
    blocks, _ = pool(2)
    blocks.take(1)
    blocks.check([[0]], [])
    with pytest.raises(AssertionError):
        blocks.check(tables, kept)


def test_what_a_request_leaves_as_it_goes_on_is_taken_before_what_was_held_to_the_end() -> None:
    blocks, evicted = pool(6)
    assert blocks.take(6) == [0, 1, 2, 3, 4, 5]
    for block in (0, 1, 2, 3):
        blocks.keep(block)
    blocks.release([0])
    blocks.hold([2])
    blocks.leave([1, 2, 3])
    blocks.release([4, 5])
    blocks.check([[2]], [0, 1, 2, 3])
    blocks.hold([3])
    blocks.leave([3])
    blocks.unkeep(1)
    blocks.check([[2]], [0, 2, 3])
    assert blocks.take(5) == [1, 4, 5, 3, 0]
    assert evicted == [3, 0]
