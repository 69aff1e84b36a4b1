"""No request ever reads what another wrote: every KV entry is looked at before it is read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import SchedulerConfig
from engine.core import step
from engine.core.blocks import BlockPool
from engine.core.scheduler import Scheduler
from engine.core.tables import Tables
from engine.engine import Engine
from engine.models.decoder import Decoder
from engine.models.registry import load_model
from engine.platforms import detect
from engine.runner.executor import InlineExecutor
from engine.runner.kv_cache import KvCache
from schemas.generation import Submit
from tests.engine.canary import Canary, Corrupted
from tests.engine.conftest import Tiny, grouped
from tests.engine.test_invariance import BLOCK, CONTEXT, ask, finish, prompt
from tests.engine.test_llm import Ticks


@pytest.fixture(scope="module")
def model(tiny: Callable[[str], Tiny]) -> Decoder:
    return load_model(tiny("qwen3-tied").folder, detect("cpu"), "float32")


def watched(model: Decoder, blocks: int, chunk: int = 16) -> tuple[Engine, Canary]:
    limits: dict[str, Any] = {"context_length": CONTEXT, "block_size": BLOCK, "prefill_chunk": chunk} | grouped(model)
    config = SchedulerConfig(blocks=blocks, **limits)
    canary = Canary(model, KvCache(model, blocks, BLOCK), "worker")
    return Engine(Scheduler(config, "epoch"), InlineExecutor(canary), Ticks()), canary


@pytest.mark.parametrize(
    ("kind", "blocks"), [("mistral-windowed", 20), ("qwen2-windowed", 60), ("gemma2", 60), ("gemma3", 60)]
)
def test_blocks_that_a_window_left_behind_are_others_and_nobody_reads_them(
    tiny: Callable[[str], Tiny], kind: str, blocks: int
) -> None:
    """With memory for a sixth of what they would fill, and the answers that `transformers` gives."""
    written = tiny(kind)
    model = load_model(written.folder, detect("cpu"), "float32")
    assert model.config.groups.window == 9
    engine, canary = watched(model, blocks, chunk=8)
    asked = [ask(f"r{at}", prompt(length, at % 2), 60, temperature=0.0) for at, length in enumerate((90, 40, 91, 5))]
    answers = finish(engine, *asked)
    for one in asked:
        assert [*answers[one.request].tokens] == written.greedy([*one.prompt], 60), one.request
    assert canary.looked > 0


def crowd(lengths: list[int], more: int) -> list[Submit]:
    """Requests some of which begin alike, so that they share blocks."""
    return [ask(f"r{at}", prompt(length, at % 2), more) for at, length in enumerate(lengths)]


@pytest.mark.parametrize("kind", ["qwen3-tied", "mistral-windowed", "qwen2-windowed", "gemma2", "gemma3"])
def test_every_entry_that_is_read_is_the_readers_own(tiny: Callable[[str], Tiny], kind: str) -> None:
    model = load_model(tiny(kind).folder, detect("cpu"), "float32")

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.integers(1, 60), min_size=2, max_size=8), st.integers(24, 80), st.integers(3, 40))
    def each_is(lengths: list[int], rows: int, chunk: int) -> None:
        engine, canary = watched(model, rows * model.config.groups.count, chunk)
        answers = finish(engine, *crowd(lengths, 12))
        assert len(answers) == len(lengths)
        assert canary.looked > 0

    each_is()


@pytest.mark.parametrize("kind", ["mistral-windowed", "gemma2", "gemma3"])
def test_a_block_that_is_given_up_a_row_too_early_is_caught(
    tiny: Callable[[str], Tiny], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny(kind).folder, detect("cpu"), "float32")
    first_seen = Tables.first_seen
    monkeypatch.setattr(Tables, "first_seen", lambda tables, settled: first_seen(tables, settled + tables.block_size))
    engine, _ = watched(model, 20 * model.config.groups.count)
    with pytest.raises(Corrupted, match=r"belongs to other tokens|was written over"):
        finish(engine, *crowd([40, 50, 41, 9], 20))


@pytest.mark.parametrize("kind", ["qwen2-windowed", "gemma3"])
def test_a_table_whose_groups_are_in_another_order_is_caught(
    tiny: Callable[[str], Tiny], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a full plan told rows otherwise than the plans before it."""
    model = load_model(tiny(kind).folder, detect("cpu"), "float32")
    engine, _ = watched(model, 200)
    engine.add(ask("r", prompt(20, 1), 12))
    run(engine, 4)
    table = step._table
    monkeypatch.setattr(step, "_table", lambda *given: tuple(reversed(table(*given))))
    engine.add(ask("again", prompt(20, 1), 12))
    with pytest.raises(Corrupted, match="belongs to other tokens or layers"):
        run(engine, 4)


def test_a_number_that_changes_in_memory_is_caught_where_it_is_read(model: Decoder) -> None:
    engine, canary = watched(model, 40)
    engine.add(ask("r", prompt(20, 1), 12))
    steps = partial(run, engine, 4)
    steps()
    canary._cache.layers[-1][2, 1, 0, 0, 0] += 1e-4
    with pytest.raises(Corrupted, match=r"request 'r', position \d+, block 2: the entry was written over"):
        steps()


def run(engine: Engine, steps: int) -> None:
    for _ in range(steps):
        engine.step()


def test_a_block_that_two_requests_hold_is_caught(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the pool had a fault: it hands out a block again that somebody holds."""
    take = BlockPool.take

    def twice(pool: BlockPool, count: int) -> list[int] | None:
        taken = take(pool, count)
        return taken and [0, *taken[1:]]

    engine, _ = watched(model, 40)
    monkeypatch.setattr(BlockPool, "take", twice)
    with pytest.raises(Corrupted, match=r"belongs to other tokens|was written over"):
        finish(engine, *crowd([20, 30], 8))


def test_a_prefix_that_is_not_ones_own_is_caught(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if hashes collided and tokens were not compared."""
    monkeypatch.setattr("engine.core.prefix_cache.PrefixCache.extend", _same_for_all)
    monkeypatch.setattr("engine.core.prefix_cache.PrefixCache._content", lambda *_: (b"", (0,) * BLOCK))
    engine, _ = watched(model, 60)
    with pytest.raises(Corrupted, match="belongs to other tokens"):
        finish(engine, *crowd([20, 30, 20, 30], 8))


def _same_for_all(_cache: object, keys: list[bytes], _tokens: object, blocks: int) -> None:
    keys.extend(bytes([at]) for at in range(len(keys), blocks + 1))
