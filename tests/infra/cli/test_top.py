"""The table of `ostinato top`."""

from __future__ import annotations

from typing import Any

import pytest

from bus.numbers import Backlog, StreamNumbers
from bus.under_way import LateRun
from infra.cli.terminal import PLAIN
from infra.cli.top_table import Look, Row, lines, rates


def scheduler(**changes: Any) -> Row:
    first = {"counts": [0, 2], "bounds": [1], "sum": 0.5}
    requests = {"generated": 100, "finished": {"stop": 3}, "histograms": {"time_to_first_token_seconds": first}}
    plain = {
        "engine": "tiny",
        "running": 2,
        "waiting": 1,
        "parked": 1,
        "idle_blocks": 25,
        "blocks": 100,
        "steps": 10,
        "preemptions": 0,
        "prompt_tokens": 200,
        "cached_tokens": 50,
        "in_flight": 1,
        "requests": requests,
    }
    return Row("scheduler", "scheduler-0", {**plain, **changes})


def look(at: float, *rows: Row) -> Look:
    waiting = Backlog({"CMD": StreamNumbers(3, 2**20, 9)}, {0: 3, 1: 0}, {})
    run = LateRun("default", "t1", "r1", "demo", "tiny", "running", 1_000_000, None, 12, 3)
    return Look(at, rows, waiting, (run,))


def test_rates_are_of_the_time_between_two_looks() -> None:
    before = scheduler()
    requests = {**before.numbers["requests"], "generated": 150}
    after = scheduler(requests=requests, prompt_tokens=300, cached_tokens=125, steps=30)
    (engine,) = rates(look(10.0, before), look(12.0, after))
    assert (engine.output_s, engine.prompt_s, engine.steps_s) == (25.0, 50.0, 10.0)
    assert engine.hit_rate == 0.75
    assert engine.kv_use == 0.75
    assert engine.waiting == 2
    assert engine.first_token_ms == 250.0


def test_a_scheduler_that_began_between_two_looks_has_no_rate() -> None:
    (engine,) = rates(look(10.0), look(12.0, scheduler()))
    assert engine.output_s == 0
    assert engine.hit_rate == 0.25


def test_the_table_has_engines_processes_queues_and_runs() -> None:
    now = look(12.0, scheduler())
    told = lines(rates(now, now), now, PLAIN, 120)
    text = "\n".join(told)
    assert [line.split()[0] for line in told if line and line.split()[0].isupper()][:2] == ["ENGINE", "PROCESS"]
    assert "75.0%" in text
    assert "waiting by shard: 0:3 1:0" in text
    assert "r1" in text
    assert all(len(line) <= 120 for line in told)


THREAD = "t01jdkq3f5zabcdefghjkmn"


@pytest.mark.parametrize("width", [80, 100, 106, 107, 120])
def test_whatever_the_width_nothing_that_matters_is_cut_off(width: int) -> None:
    now = look(12.0, scheduler(running=256, waiting=9999, steps=4711, preemptions=17))
    run = LateRun("default", THREAD, "r" + THREAD[1:], "demo", "tiny", "finished", 1_000_000, 9_000_000, 12, 3)
    text = "\n".join(lines(rates(look(11.0, scheduler()), now), now._replace(runs=(run,)), PLAIN, width))
    for told in ("steps/s", "4701.0", "TTFT", "250 ms", "3", "done", "17", "preempt", THREAD, run.run, "8.0 s"):
        assert told in text
    assert max(map(len, text.splitlines())) <= width


def test_a_stack_of_which_nobody_answers_is_shown_as_that() -> None:
    now = Look(1.0, (), None, ())
    text = "\n".join(lines(rates(now, now), now, PLAIN, 80))
    assert "no scheduler answers" in text
    assert "JetStream does not answer" in text


def test_who_answered_before_and_does_not_now_is_named() -> None:
    now = look(12.0, scheduler())._replace(silent=("agents-0",))
    assert "agents-0" in "\n".join(told for told in lines([], now, PLAIN, 80) if told.endswith("does not answer"))
    assert not any("does not answer" in told for told in lines([], look(12.0, scheduler()), PLAIN, 80))
