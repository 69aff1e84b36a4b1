"""What the REST API tells of runs, from their events."""

from __future__ import annotations

from infra.bridge.rest.told import taken_by
from schemas.messages import Usage
from schemas.rest import ThreadUsage
from schemas.runs import Problem, RunFailed, RunFinished
from schemas.standing import GoalJudged


def test_what_runs_took_is_summed_and_those_without_a_price_are_counted() -> None:
    ended = RunFinished("408", 1, Usage(prompt_tokens=3, completion_tokens=2), cost=0.25)
    failed = RunFailed(Problem("engine", "gone"), 1, Usage(prompt_tokens=4), cost=0.5)
    free = RunFinished("hello", 1, Usage(completion_tokens=1))
    usage = Usage(prompt_tokens=7, completion_tokens=3)
    assert taken_by("t1", [ended, failed, free]) == ThreadUsage("t1", 3, usage, 0.75, 1)
    judge = GoalJudged("r-1-g", "go_on", usage=Usage(prompt_tokens=5), cost=0.5)
    assert taken_by("t1", [ended, judge]) == ThreadUsage("t1", 1, Usage(prompt_tokens=8, completion_tokens=2), 0.75, 0)
    assert taken_by("t1", [free, GoalJudged("r-1-g", "done")]) == taken_by("t1", [free])
    assert taken_by("t1", [free]).cost is None
    assert taken_by("t1", []) == ThreadUsage("t1", 0, Usage(), None, 0)
