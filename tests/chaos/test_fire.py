"""A short fire in every test run; `make chaos` is the long one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos.errands import ERRANDS
from tests.chaos.faults import QUICK
from tests.chaos.fire import Length, burn, standing

pytestmark = pytest.mark.servers

SECONDS = 20.0


def test_nothing_is_lost_doubled_or_reordered_under_fire(folder: Path) -> None:
    with standing(folder, QUICK) as ground:
        report = asyncio.run(burn(ground, Length(SECONDS), seed=20261476, faults=QUICK))
    print(report.table())  # noqa: T201  what a person wants to see when it fails
    assert report.kills >= 3
    assert report.verdict.commands > 10
    assert report.verdict.tool_calls > 5
    # a machine that is busy does not come to all of them
    assert len([kind for kind, count in report.verdict.errands.items() if count]) > len(ERRANDS) // 2
    assert report.broken() == []
