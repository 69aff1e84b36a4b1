"""Layers are parted so that a block serves any group, with few groups and little room that no layer uses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.groups import group

Windows = list[int | None]


def alternating(layers: int, period: int, window: int = 1024) -> Windows:
    """As in Gemma: all but every so many layers have the window."""
    return [window if (layer + 1) % period else None for layer in range(layers)]


@pytest.mark.parametrize(
    ("windows", "full", "windowed", "size"),
    [
        pytest.param([None] * 28, 1, 0, 28, id="all see all"),
        pytest.param([4096] * 32, 0, 1, 32, id="all have a window"),
        pytest.param(alternating(26, 2), 1, 1, 13, id="Gemma 2 of 2 billion"),
        pytest.param(alternating(26, 6), 1, 6, 4, id="Gemma 3 of 1 billion"),
        pytest.param(alternating(48, 6), 1, 5, 8, id="Gemma 3 of 12 billion"),
        pytest.param(alternating(62, 6), 1, 6, 10, id="Gemma 3 of 27 billion"),
        pytest.param([None] * 21 + [4096] * 7, 3, 1, 7, id="Qwen 2 with upper layers that have one"),
        pytest.param([None] + [9] * 32, 1, 7, 5, id="one of many sees all"),
        pytest.param([None] * 12 + [9] * 13, 3, 4, 4, id="as many as not"),
    ],
)
def test_layers_of_real_models_are_in_few_groups_of_one_size(
    windows: Windows, full: int, windowed: int, size: int
) -> None:
    found = group(windows)
    assert (found.full, found.windowed, found.size) == (full, windowed, size)
    assert found.count == full + windowed


def test_a_window_is_the_longest_of_any_layer() -> None:
    assert group([9, None, 7]).window == 9
    assert group([None]).window is None


@given(st.lists(st.sampled_from([None, 5, 9]), min_size=1, max_size=80))
def test_every_layer_has_a_place_of_its_own_in_a_group_of_its_kind(windows: Windows) -> None:
    found = group(windows)
    assert found.count <= 8
    assert len(set(found.places)) == len(windows)
    for window, (of, at) in zip(windows, found.places, strict=True):
        assert 0 <= at < found.size
        assert 0 <= of < found.count
        assert (of >= found.full) == (window is not None)
