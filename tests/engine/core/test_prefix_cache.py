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
