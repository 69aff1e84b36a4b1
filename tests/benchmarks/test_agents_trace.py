"""The simulated benchmark of policies: its programs, and what the policy for agents gains where memory is short."""

from __future__ import annotations

import dataclasses
import statistics

import msgspec
import pytest

from benchmarks.agents_outcome import Outcome, row
from benchmarks.agents_programs import Row, Shape, programs, tokens
from benchmarks.agents_simulator import Rival, Simulation, alone_s
from benchmarks.agents_trace import ratios
from engine.core.retrace import Retrace
from schemas.steps import StepPlan

SHAPE = Shape(count=50, rate=0.6)
POOL = 12_288


def outcome(rival: Rival, rows: list[Row], pool: int = POOL) -> Outcome:
    return Simulation(rows, rival, pool, seed=1).run()


def mean(outcome: Outcome) -> float:
    return statistics.mean(outcome.completions)


def test_programs_are_the_same_for_a_seed_and_others_for_another() -> None:
    assert programs(SHAPE, 1) == programs(SHAPE, 1) != programs(SHAPE, 2)
    assert tokens(1, 5, 6, count=9) == tokens(1, 5, 6, count=9) != tokens(1, 5, 7, count=9)


@pytest.mark.parametrize("kind", ["even", "heavy"])
@pytest.mark.parametrize("tools", ["office", "tracelab"])
def test_programs_are_within_their_bounds(kind: str, tools: str) -> None:
    rows = programs(Shape(300, 1.0, kind, tools), 3)  # type: ignore[arg-type]
    arrivals = [row.arrival_s for row in rows]
    assert arrivals == sorted(arrivals)
    assert 200 < arrivals[-1] < 400
    turns = [len(row.turns) for row in rows]
    assert min(turns) >= 1
    assert max(turns) <= (60 if kind == "heavy" else 30)
    assert (max(turns) > 40) == (kind == "heavy")
    assert max(row.context for row in rows) <= 7_500
    assert all(0 < turn.tool_s <= 300 and 4 <= turn.out <= 400 for row in rows for turn in row.turns)


def test_past_the_cliff_programs_take_less_than_half_of_the_time_and_little_is_computed_twice() -> None:
    rows = programs(SHAPE, 1)
    default, agents = outcome(Rival("default"), rows), outcome(Rival("agents", "agents"), rows)
    assert default.recomputed_share > 0.7
    assert agents.recomputed_share < 0.3
    assert mean(agents) < mean(default) / 2.5
    assert agents.pauses > 0
    unhinted = outcome(Rival("unhinted", "agents", hints=False), rows)
    assert mean(unhinted) < mean(default) / 1.5


def test_where_memory_is_plenty_policies_are_alike() -> None:
    rows = programs(SHAPE, 2)
    default, agents = outcome(Rival("default"), rows, 65_536), outcome(Rival("agents", "agents"), rows, 65_536)
    assert mean(agents) == pytest.approx(mean(default), rel=0.05)
    assert agents.output_tokens == default.output_tokens == sum(sum(row.outputs) for row in rows)


def test_a_program_alone_takes_as_long_as_it_is_said_to() -> None:
    row = programs(SHAPE, 1)[0]
    (served,) = outcome(Rival("default"), [row]).programs
    assert served.completion_s == pytest.approx(alone_s(row) + 1024 * 0.0006, rel=0.1)


def test_what_was_simulated_comes_out_again_when_it_is_replayed() -> None:
    simulation = Simulation(programs(Shape(count=15, rate=1.5), 1), Rival("agents", "agents"), 8192, seed=1)
    simulation.run(keep=True)
    assert any(decision.what == "paused" for plan in simulation.plans for decision in plan.decisions)
    retrace = Retrace()
    for plan in simulation.plans:
        assert retrace.follow(msgspec.json.decode(msgspec.json.encode(plan), type=StepPlan)) is None


def test_the_share_that_was_computed_again_is_unknown_where_an_engine_does_not_say_what_it_had() -> None:
    one = outcome(Rival("default"), programs(Shape(count=5, rate=1.5), 1))
    assert row([one])["recomputed"] is not None
    silent = dataclasses.replace(one, counted=False)
    assert silent.recomputed_share is None
    assert row([one, silent])["recomputed"] is None


def test_what_did_not_run_is_null() -> None:
    ours = {"rival": "agents", "mean_s": 10.0, "p95_s": 20.0, "recomputed": 0.1}
    default = {"rival": "default", "mean_s": 40.0, "p95_s": 80.0, "recomputed": 0.9}
    assert ratios([default]) == dict.fromkeys(
        ("mean_ratio_vs_default", "p95_ratio_vs_default", "mean_ratio_vs_best", "recomputed_share")
    )
    assert ratios([ours]) | {"recomputed_share": None} == ratios([default])
    assert ratios([ours, default, {**default, "rival": "cap 8", "mean_s": 20.0}]) == {
        "mean_ratio_vs_default": 0.25,
        "p95_ratio_vs_default": 0.25,
        "mean_ratio_vs_best": 0.5,
        "recomputed_share": 0.1,
    }
