"""Our models compute what `transformers` computes, however the tokens are cut into steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from engine.kernels.weights import Quantization
from engine.models.decoder import Decoder
from engine.models.registry import load_model
from engine.platforms import detect
from engine.runner.inputs import RequestTable
from engine.runner.kv_cache import KvCache
from schemas.generation import Sampling
from schemas.steps import Arrival, Slice
from tests.engine.conftest import KINDS, VOCABULARY, Tiny, platform

BLOCKS = 64


def random_steps(rng: np.random.Generator, lengths: list[int]) -> list[list[tuple[int, int, int]]]:
    """Cut sequences into steps of (sequence, start, count): long chunks and single tokens mixed, some left out."""
    done = [0] * len(lengths)
    steps = []
    while done != lengths:
        step = []
        for i in rng.permutation(len(lengths)).tolist():
            left = lengths[i] - done[i]
            if left and rng.random() < 0.8:
                count = 1 if rng.random() < 0.5 else int(rng.integers(1, min(left, 17) + 1))
                step.append((i, done[i], count))
                done[i] += count
        steps.append(step)
    return steps


def logits_by_steps(
    model: Decoder, sequences: list[list[int]], block_size: int, rng: np.random.Generator, blocks_held: int = BLOCKS
) -> list[torch.Tensor]:
    """Compute all logits through the paged cache, with every request's blocks scattered at random."""
    groups = model.config.groups.count
    cache = KvCache(model, blocks_held * groups, block_size)
    blocks = rng.permutation(cache.blocks).tolist()
    held = [tuple(blocks.pop() for _ in range(-(-len(tokens) // block_size) * groups)) for tokens in sequences]
    return logits_in(cache, model, sequences, held, rng)


def logits_in(
    cache: KvCache,
    model: Decoder,
    sequences: list[list[int]],
    held: list[tuple[int, ...]],
    rng: np.random.Generator,
    warm: Sequence[int] = (),
) -> list[torch.Tensor]:
    """Compute all logits that follow what of each sequence is `warm`: that lies in the cache."""
    size, groups = cache.block_size, model.config.groups.count
    table = RequestTable(cache.blocks, size, model.device, model.config.vocabulary, groups)
    known = list(warm) or [0] * len(sequences)
    for i, (tokens, blocks) in enumerate(zip(sequences, held, strict=True)):
        table.admit(Arrival(str(i), tuple(tokens), len(tokens), Sampling(), blocks, known[i]))
    found = [torch.full((len(tokens), VOCABULARY), torch.nan) for tokens in sequences]
    lengths = [len(tokens) - seen for tokens, seen in zip(sequences, known, strict=True)]
    for cut in random_steps(rng, lengths):
        step = [(i, known[i] + start, count) for i, start, count in cut]
        flat, errors = table.gather([Slice(str(i), start, count, (), False) for i, start, count in step])
        assert not errors
        if flat is None:
            continue
        with torch.inference_mode():
            hidden = model.forward(flat.tokens, flat.positions, flat.paged, cache.layers)
            logits = model.logits(hidden)
        table.record(flat, np.empty(0, np.int64))
        for (i, start, count), last in zip(step, flat.last.tolist(), strict=True):
            found[i][start : start + count] = logits[last - count + 1 : last + 1]
    return found


@pytest.mark.parametrize("ops", ["reference", "gathered", "cpu", "native"])
@pytest.mark.parametrize("block_size", [4, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_those_of_transformers_in_any_mix_of_chunks_and_single_tokens(
    tiny: Callable[[str], Tiny], kind: str, block_size: int, ops: str
) -> None:
    rng = np.random.default_rng(3)
    sequences = [rng.integers(0, VOCABULARY, length).tolist() for length in (1, 33, 5, 64, 17)]
    model = load_model(tiny(kind).folder, platform(ops))
    for tokens, found in zip(sequences, logits_by_steps(model, sequences, block_size, rng), strict=True):
        assert (found - tiny(kind).logits(tokens)).abs().max() <= 1e-4


@pytest.mark.parametrize(
    "kind", ["llama-tied-scaled", "phi3-partial", "olmo2", "qwen3-windowed", "gemma2", "qwen3moe", "qwen3moe-plain"]
)
def test_an_accelerators_kernels_give_them_too(tiny: Callable[[str], Tiny], kind: str) -> None:
    pytest.importorskip("triton", reason="the extra 'gpu' is not installed")
    rng = np.random.default_rng(3)
    sequences = [rng.integers(0, VOCABULARY, length).tolist() for length in (1, 19, 12)]
    model = load_model(tiny(kind).folder, platform("triton"))
    for tokens, found in zip(sequences, logits_by_steps(model, sequences, 4, rng), strict=True):
        assert (found - tiny(kind).logits(tokens)).abs().max() <= 1e-4


@pytest.mark.parametrize("ops", ["cpu", "native"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_half_precision_model_stays_close_to_float32(tiny: Callable[[str], Tiny], kind: str, ops: str) -> None:
    rng = np.random.default_rng(5)
    tokens = rng.integers(0, VOCABULARY, 40).tolist()
    model = load_model(tiny(kind).folder, platform(ops), "bfloat16")
    (found,) = logits_by_steps(model, [tokens], 16, rng)
    expected = tiny(kind).logits(tokens)
    assert model.dtype == torch.bfloat16
    near = torch.cosine_similarity(found, expected, dim=-1) > 0.98
    # which of two experts that are all but equally good is asked, a rounding decides
    assert near.all() if model.config.experts is None else near.float().mean() > 0.8


def assert_same_bits(model: Decoder, block_size: int) -> None:
    rng = np.random.default_rng(11)
    groups = model.config.groups.count
    cache = KvCache(model, BLOCKS * groups, block_size)
    table = RequestTable(cache.blocks, block_size, model.device, model.config.vocabulary, groups)
    sizes = {"a": 19, "b": 3, "c": 50, "d": 18}
    blocks = list(range(cache.blocks))
    for name, size in sizes.items():
        held = tuple(blocks.pop() for _ in range(-(-size // block_size) * groups))
        table.admit(Arrival(name, tuple(rng.integers(0, VOCABULARY, size).tolist()), size, Sampling(), held, 0))
    everyone = [Slice(name, 0, size - 1) for name, size in sizes.items()]

    def hidden_after(slices: list[Slice], name: str) -> torch.Tensor:
        flat, errors = table.gather(slices)
        assert flat is not None
        assert not errors
        with torch.inference_mode():
            hidden = model.forward(flat.tokens, flat.positions, flat.paged, cache.layers)
        index = [piece.request for piece in slices].index(name)
        return model.logits(hidden)[flat.last[index]]

    flat, _ = table.gather(everyone)
    assert flat is not None
    hidden_after(everyone, "a")
    table.record(flat, np.zeros(0, np.int64) if not flat.sampled.any() else np.zeros(len(everyone), np.int64))
    singles = [Slice(name, size - 1, 1) for name, size in sizes.items()]
    for name in sizes:
        alone = hidden_after([piece for piece in singles if piece.request == name], name)
        assert torch.equal(alone, hidden_after(singles, name))


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_a_hundred_thousand_rows_of_logits_are_the_same_bits_in_any_schedule_cold_or_warm(
    tiny: Callable[[str], Tiny], quantization: Quantization
) -> None:
    ours = platform("native" if detect("cpu").ops == "native" else "cpu")
    model = load_model(tiny("qwen3-tied").folder, ours, "bfloat16", quantization=quantization)
    rng = np.random.default_rng(11)
    sequences = [rng.integers(0, VOCABULARY, length).tolist() for length in (250, 31, 190, 1, 96, 240, 17, 129)]
    cache = KvCache(model, 80, 16)
    expected: list[torch.Tensor] = []
    compared = 0
    while compared < 100_000:
        blocks = rng.permutation(cache.blocks).tolist()
        held = [tuple(blocks.pop() for _ in range(-(-len(tokens) // 16))) for tokens in sequences]
        cold = logits_in(cache, model, sequences, held, rng)
        expected = expected or cold
        # whole blocks of what is in the cache now, but for the last token
        warm = [16 * int(rng.integers(0, (len(tokens) - 1) // 16 + 1)) for tokens in sequences]
        again = logits_in(cache, model, sequences, held, rng, warm)
        for first, rows, other, seen in zip(expected, cold, again, warm, strict=True):
            assert torch.equal(rows, first)
            assert torch.equal(other[seen:], first[seen:])
            compared += len(rows) + len(rows) - seen


@pytest.mark.parametrize("ops", ["reference", "cpu", "native"])
@pytest.mark.parametrize("kind", ["qwen3-tied", "llama-tied-scaled", "gemma3"])
def test_a_model_in_8_bits_is_near_the_one_that_it_was_rounded_from(
    tiny: Callable[[str], Tiny], kind: str, ops: str
) -> None:
    tokens = np.random.default_rng(5).integers(0, VOCABULARY, 60).tolist()
    model = load_model(tiny(kind).folder, platform(ops), quantization="int8")
    (found,) = logits_by_steps(model, [tokens], 16, np.random.default_rng(3))
    exact = tiny(kind).logits(tokens)
    off = (found - exact).norm() / exact.norm()
    assert 1e-4 < off < 0.08


@pytest.mark.parametrize(("ops", "block_size"), [("cpu", 4), ("native", 4), ("native", 16)])
@pytest.mark.parametrize("kind", ["qwen3-tied", "mistral-windowed", "gemma2", "gemma3", "olmo2", "phi3-partial"])
def test_a_request_gets_the_same_bits_whoever_is_beside_it(
    tiny: Callable[[str], Tiny], kind: str, ops: str, block_size: int
) -> None:
    assert_same_bits(load_model(tiny(kind).folder, platform(ops)), block_size)


def test_so_it_does_on_an_accelerator_that_is_asked_for_it(tiny: Callable[[str], Tiny]) -> None:
    pytest.importorskip("triton", reason="the extra 'gpu' is not installed")
    assert_same_bits(load_model(tiny("qwen3-tied").folder, platform("triton-steady")), 16)


@pytest.mark.parametrize("kind", ["qwen3-tied", "mistral-windowed"])
def test_and_the_same_bits_decoded_or_in_a_chunk_cold_or_warm(tiny: Callable[[str], Tiny], kind: str) -> None:
    pytest.importorskip("triton", reason="the extra 'gpu' is not installed")
    model, rng = load_model(tiny(kind).folder, platform("triton-steady")), np.random.default_rng(11)
    sequences = [rng.integers(0, VOCABULARY, length).tolist() for length in (21, 5)]
    cache, held = KvCache(model, 8 * model.config.groups.count, 16), [(0, 1), (2,)]
    first = logits_in(cache, model, sequences, held, rng)
    for warm in ((), (16, 0)):
        again = logits_in(cache, model, sequences, held, rng, warm)
        for rows, other, seen in zip(first, again, warm or (0, 0), strict=True):
            assert torch.equal(other[seen:], rows[seen:])
