"""The prefix cache: what it finds, and what it must never find."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from engine.core import prefix_cache
from engine.core.prefix_cache import PrefixCache
from engine.core.tables import Tables

SIZE = 4


def chain(tenant: str = "acme") -> list[bytes]:
    return [PrefixCache.root(tenant)]


def filled(tokens: list[int], tenant: str = "acme") -> PrefixCache:
    """Return a cache in which blocks 0, 1, … hold the full blocks of `tokens`."""
    cache, keys = PrefixCache(Tables(SIZE)), chain(tenant)
    for index in range(len(tokens) // SIZE):
        assert cache.enter(keys, tokens, index, [index]) == [index]
    cache.check()
    return cache


def test_the_longest_known_beginning_is_found() -> None:
    cache = filled(list(range(12)))
    assert cache.match(chain(), list(range(20))) == [0, 1, 2]
    assert cache.match(chain(), [*range(8), 99, 99, 99, 99, 99]) == [0, 1]
    assert cache.match(chain(), [99, *range(1, 20)]) == []


def test_a_hit_never_covers_the_last_token() -> None:
    cache = filled(list(range(12)))
    assert cache.match(chain(), list(range(12))) == [0, 1]
    assert cache.match(chain(), list(range(13))) == [0, 1, 2]
    assert cache.match(chain(), [0]) == []


def test_the_same_block_after_another_beginning_is_another_block() -> None:
    cache = filled([1, 1, 1, 1, 7, 7, 7, 7])
    assert cache.match(chain(), [2, 2, 2, 2, 7, 7, 7, 7, 0]) == []


def test_tenants_do_not_find_each_other_s_blocks() -> None:
    cache = filled(list(range(12)), tenant="acme")
    assert cache.match(chain("evil"), list(range(20))) == []


def test_a_collision_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    def colliding(data: bytes, *, digest_size: int) -> Any:
        return hashlib.blake2b(b"", digest_size=digest_size)

    monkeypatch.setattr(prefix_cache, "blake2b", colliding)
    cache = PrefixCache(Tables(SIZE))
    assert cache.enter(chain(), [1, 2, 3, 4], 0, [0])
    assert cache.match(chain(), [5, 6, 7, 8, 9]) == []
    assert not cache.enter(chain(), [5, 6, 7, 8], 0, [1])
    assert cache.match(chain(), [1, 2, 3, 4, 5]) == [0]
    cache.check()


def test_content_is_noted_once() -> None:
    cache = filled([1, 2, 3, 4])
    assert not cache.enter(chain(), [1, 2, 3, 4], 0, [5])
    assert not cache.enter(chain(), [9, 9, 9, 9], 0, [0])
    assert set(cache.places) == {0}


def test_what_is_forgotten_is_not_found_and_ends_the_chain() -> None:
    cache = filled(list(range(12)))
    cache.forget(1)
    assert cache.match(chain(), list(range(20))) == [0]
    cache.check()


def test_keys_are_computed_once_per_request(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, keys = filled(list(range(12))), chain()
    found = cache.match(keys, list(range(20)))
    monkeypatch.setattr(prefix_cache, "blake2b", None)
    assert cache.match(keys, list(range(20))) == found


def test_the_largest_token_id_can_be_told_apart() -> None:
    cache = filled([2**32 - 1] * 4)
    assert cache.match(chain(), [2**32 - 1] * 5) == [0]


def tailed(tokens: list[int]) -> PrefixCache:
    """Return one in which the last block, which is not full, holds the last of `tokens`."""
    cache, keys, full = filled(tokens), chain(), len(tokens) // SIZE
    cache.extend(keys, tokens, full)
    assert cache.enter_tail(keys[full], tuple(tokens[full * SIZE :]), [full])
    cache.check()
    return cache


def test_a_tail_is_found_as_far_as_the_tokens_are_its_own() -> None:
    cache, keys = tailed(list(range(11))), chain()
    assert cache.match(keys, list(range(20))) == [0, 1]
    assert cache.tail(keys, list(range(20)), 2) == ([2], 3)
    assert cache.tail(keys, [*range(9), 99, 10, 11], 2) == ([2], 1)
    assert cache.tail(keys, [*range(8), 99, 9, 10], 2) == ([], 0)
    assert cache.tail(keys, list(range(20)), 1) == ([], 0)


def test_a_tail_never_covers_the_last_token() -> None:
    cache, keys = tailed(list(range(11))), chain()
    cache.match(keys, list(range(11)))
    assert cache.tail(keys, list(range(11)), 2) == ([2], 2)
    assert cache.tail(keys, list(range(9)), 2) == ([], 0)


def test_a_tail_after_another_beginning_is_not_found() -> None:
    cache, keys, other = tailed([1, 1, 1, 1, 7, 7]), chain("evil"), [2, 2, 2, 2, 7, 7, 7]
    cache.extend(keys, other, 1)
    assert cache.tail(keys, other, 1) == ([], 0)
    assert cache.tail(keys, other, 0) == ([], 0)


def test_a_tail_that_is_forgotten_is_not_found() -> None:
    cache, keys = tailed([1, 1, 1, 1, 7, 7]), chain()
    cache.forget(1)
    cache.check()
    cache.extend(keys, [1, 1, 1, 1, 7, 7, 7], 1)
    assert cache.tail(keys, [1, 1, 1, 1, 7, 7, 7], 1) == ([], 0)
    assert cache.tail_after(keys[1]) is None
    assert cache.enter_tail(keys[1], (7,), [1])
    cache.check()


def test_a_tail_that_seems_to_be_something_else_is_not_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def colliding(data: bytes, *, digest_size: int) -> Any:
        return hashlib.blake2b(b"", digest_size=digest_size)

    monkeypatch.setattr(prefix_cache, "blake2b", colliding)
    cache, keys = PrefixCache(Tables(SIZE)), chain()
    assert cache.enter(keys, [1, 2, 3, 4], 0, [0]) == [0]
    assert not cache.enter_tail(keys[1], (5,), [1])
    cache.check()
