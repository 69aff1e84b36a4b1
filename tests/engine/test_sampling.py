"""Tokens follow their distribution, and nothing but their own row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.sampling import Choices, gumbel, gumbel_at, philox, sample


def choices(
    rows: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 0,
    index: int = 0,
) -> Choices:
    """Give all rows the same parameters."""
    return Choices(
        temperature=np.full(rows, temperature, np.float32),
        top_k=np.full(rows, top_k, np.int64),
        top_p=np.full(rows, top_p, np.float32),
        min_p=np.full(rows, min_p, np.float32),
        seed=np.full(rows, seed, np.int64),
        index=np.full(rows, index, np.int64),
    )


def many(logits: torch.Tensor, count: int, **parameters: float) -> torch.Tensor:
    """Draw from one row of logits at `count` output positions; return how often each token came."""
    made = choices(count, **parameters)
    drawn = sample(
        logits.expand(count, -1),
        Choices(made.temperature, made.top_k, made.top_p, made.min_p, made.seed, np.arange(count)),
    )
    return torch.bincount(drawn, minlength=logits.shape[-1]) / count


def random_logits(rows: int, vocabulary: int) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(4)) * 3


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    words = philox(tuple(torch.tensor([word]) for word in counter), (torch.tensor([key[0]]), torch.tensor([key[1]])))
    assert tuple(int(word) for word in words) == expected


def test_temperature_zero_takes_the_largest() -> None:
    logits = random_logits(5, 300)
    assert torch.equal(sample(logits, choices(5, temperature=0)), logits.argmax(-1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])
    expected = (logits / temperature).softmax(-1)
    assert (many(logits, 20_000, temperature=temperature) - expected).abs().max() < 0.015


def test_frequencies_under_top_k_and_top_p_follow_the_renormalised_softmax() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    by_k = many(logits, 20_000, top_k=2)
    assert (by_k - torch.tensor([4 / 7, 3 / 7, 0, 0])).abs().max() < 0.015
    # 0.4 + 0.3 falls short of 0.75, so the third token is in
    by_p = many(logits, 20_000, top_p=0.75)
    assert (by_p - torch.tensor([4 / 9, 3 / 9, 2 / 9, 0])).abs().max() < 0.015
    # of the two that top-k leaves, the first alone has 4/7
    assert many(logits, 500, top_k=2, top_p=0.5)[0] == 1


def test_min_p_leaves_out_what_is_less_likely_than_a_share_of_the_likeliest() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    seen = many(logits, 20_000, min_p=0.25)
    assert (seen - torch.tensor([0.5, 0.3, 0.15, 0]) / 0.95).abs().max() < 0.015
    hot = many(logits, 20_000, min_p=0.25, temperature=2.0)
    assert (hot > 0).all(), "the share is of chances after temperature"


def test_at_least_one_token_stays_in() -> None:
    logits = random_logits(6, 50)
    assert torch.equal(sample(logits, choices(6, top_p=1e-9)), logits.argmax(-1))
    assert torch.equal(sample(logits, choices(6, top_k=1)), logits.argmax(-1))
    assert torch.equal(sample(logits, choices(6, min_p=1)), logits.argmax(-1))


@pytest.mark.parametrize("top_k", [0, 3])
def test_ties_at_the_border_all_stay_in(top_k: int) -> None:
    logits = torch.tensor([1.0] + [0.0] * 300 + [-50.0] * 100)
    seen = many(logits, 4000, top_k=top_k, top_p=0.999)
    assert (seen[1:301] > 0).all()
    assert (seen[301:] == 0).all()


@pytest.mark.parametrize("vocabulary", [1, 5, 255, 256, 257, 3000])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.9), (7, 1.0), (7, 0.5), (400, 0.95), (9999, 1.0)])
def test_looking_at_the_best_candidates_first_changes_nothing(vocabulary: int, top_k: int, top_p: float) -> None:
    logits = random_logits(8, vocabulary)
    quick = sample(logits, choices(8, top_k=top_k, top_p=top_p, seed=3))
    for row in range(8):
        ordered = logits[row].sort(descending=True)
        kept = ordered.values[: top_k or vocabulary]
        chance = kept.softmax(-1)
        stays = int((chance.cumsum(-1) - chance < top_p).sum())
        ids = ordered.indices[:stays]
        noise = gumbel(np.array([3]), np.array([0]), logits[row : row + 1])[0]
        assert quick[row] == ids[(logits[row] + noise)[ids].argmax()]


def test_a_row_is_sampled_the_same_alone_and_among_rows_with_other_parameters() -> None:
    logits = random_logits(6, 1000)
    mixed = Choices(
        temperature=np.array([0, 0.7, 1.0, 1.3, 0.9, 0], np.float32),
        top_k=np.array([0, 20, 0, 0, 300, 5]),
        top_p=np.array([1, 0.9, 1, 0.8, 0.99, 0.5], np.float32),
        min_p=np.array([0, 0.01, 0, 0.1, 0, 0.2], np.float32),
        seed=np.array([1, 2, 3, -4, 2**40, 6]),
        index=np.array([0, 10, 200, 3000, 7, 5]),
    )
    together = sample(logits, mixed)
    for row in range(6):
        only = np.arange(6) == row
        assert sample(logits[row : row + 1], mixed.among(only))[0] == together[row]


def test_noise_depends_on_seed_and_position_and_token() -> None:
    like = torch.empty(4, 101)
    noise = gumbel(np.array([1, 2, 1, 1 + 2**32]), np.array([5, 5, 6, 5]), like)
    assert len(noise.flatten().unique()) == 4 * 101
    assert torch.equal(gumbel(np.array([1]), np.array([5]), like[:1]), noise[:1])


def test_noise_for_some_ids_is_that_for_all() -> None:
    ids = torch.tensor([[100, 0, 7], [3, 3, 99]])
    seed, index = np.array([8, 9]), np.array([1, 2])
    assert torch.equal(gumbel_at(seed, index, ids), gumbel(seed, index, torch.empty(2, 101)).gather(1, ids))


def test_noise_is_finite_and_has_the_mean_of_a_gumbel() -> None:
    noise = gumbel(np.arange(50), np.zeros(50, np.int64), torch.empty(50, 4001))
    assert noise.isfinite().all()
    assert abs(float(noise.mean()) - 0.5772) < 0.01
