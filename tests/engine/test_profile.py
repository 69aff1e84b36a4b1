"""A kernel profile is a function of what decides the bits, and of nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.platforms import Platform, detect
from engine.profile import Computing, Profile, profile

COMPUTING = Computing(torch.bfloat16, "none", 16)
PARTS = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=6)


@given(PARTS, st.randoms(use_true_random=False))
def test_the_same_parts_have_the_same_name_in_whatever_order(parts: dict[str, str], chance: object) -> None:
    pairs = list(parts.items())
    chance.shuffle(pairs)  # type: ignore[attr-defined]
    assert Profile(dict(pairs)).id == Profile(parts).id


@given(PARTS, PARTS)
def test_other_parts_have_another_name(one: dict[str, str], other: dict[str, str]) -> None:
    assert (Profile(one).id == Profile(other).id) == (one == other)


def test_a_name_does_not_depend_on_where_one_text_ends_and_the_next_begins() -> None:
    assert Profile({"ab": "c"}).id != Profile({"a": "bc"}).id


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_what_decides_the_bits_is_in_it(threads: None) -> None:
    platform = dataclasses.replace(detect("cpu"), ops="cpu")
    first = profile(platform, COMPUTING, {})
    assert profile(platform, COMPUTING, {"HOME": "elsewhere"}).id == first.id
    others = [
        profile(dataclasses.replace(platform, ops="gathered"), COMPUTING, {}),
        profile(platform, dataclasses.replace(COMPUTING, dtype=torch.float32), {}),
        profile(platform, dataclasses.replace(COMPUTING, quantization="int8"), {}),
        profile(platform, dataclasses.replace(COMPUTING, block_size=32), {}),
        profile(platform, COMPUTING, {"MKL_CBWR": "AUTO,STRICT"}),
        profile(platform, COMPUTING, {"MKL_CBWR": "COMPATIBLE"}),
    ]
    torch.set_num_threads(torch.get_num_threads() + 1)
    others.append(profile(platform, COMPUTING, {}))
    assert len({first.id, *(other.id for other in others)}) == len(others) + 1
    assert first.parts["torch"].startswith(torch.__version__)
    assert set(first.parts) == {
        *("ops", "numbers", "quantization", "layout", "torch", "numpy", "llguidance"),
        *("processor", "instructions", "threads"),
    }


def test_kernels_of_our_own_are_named_by_their_build() -> None:
    platform = detect("cpu")
    if platform.ops != "native":
        pytest.skip("this machine cannot build them")
    assert profile(platform, COMPUTING, {}).parts["kernels"].startswith("native-")


def test_an_accelerator_is_named_by_device_and_libraries() -> None:
    xpu = Platform(kind="xpu", device=torch.device("xpu", 0), name="Arc", ops="gathered")
    parts = profile(xpu, COMPUTING, {}).parts
    assert parts["device"] == "Arc"
    assert "threads" not in parts
    triton = profile(dataclasses.replace(xpu, ops="triton"), COMPUTING, {}).parts
    assert "triton" in triton
