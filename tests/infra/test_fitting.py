"""What programs may send: bounds that are narrower than what logs hold."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from infra.errors import ThreadUnfit
from infra.fitting import checked
from schemas import codec
from schemas.rest_standing import GoalResuming, GoalSetting
from schemas.standing import ResumeGoal, SetGoal


@pytest.mark.parametrize("budget", [0, 1_001, 5_000])
def test_a_goal_is_given_no_more_runs_than_a_thread_keeps_well(budget: int) -> None:
    for data in (SetGoal("worker", "Work.", budget), ResumeGoal(budget)):
        with pytest.raises(ThreadUnfit, match=r"\$\.budget"):
            checked(data)
    bodies: list[tuple[type[Any], dict[str, Any]]] = [(GoalSetting, {"agent": "a", "text": "t"}), (GoalResuming, {})]
    for shape, fields in bodies:
        with pytest.raises(msgspec.ValidationError, match=r"\$\.budget"):
            msgspec.convert({**fields, "budget": budget}, shape)


def test_what_may_be_given_is_and_older_logs_are_read() -> None:
    for data in (SetGoal("worker", "Work.", 1_000), ResumeGoal(1_000), ResumeGoal()):
        assert checked(data) == data
    older = SetGoal("worker", "Work.", 5_000)
    assert codec.decode(codec.encode(older), SetGoal) == older
