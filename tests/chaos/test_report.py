"""What went wrong is told beside the fault that was under way."""

from __future__ import annotations

import math

from tests.chaos.fault import Fault, from_its_end
from tests.chaos.oracle import Finding, Verdict
from tests.chaos.report import CALM, Report, Trials


@from_its_end
async def nothing(ground: object, chance: object) -> None:
    """Be no fault at all."""


FAULTS = tuple(Fault(name, True, "commands", nothing) for name in ("kill agents", "link cut", "power cut", "slow"))


def report(verdict: Verdict) -> Report:
    trials = {
        "kill agents": Trials([1.0, 3.0, 2.0], [], [(100, 110), (200, 210)]),
        "link cut": Trials([0.5], ["TimeoutError: 60 s"], [(120, 130)]),
    }
    return Report(7, FAULTS, trials, {"power cut": "needs root"}, verdict, 4, 60.0)


def test_a_finding_belongs_to_the_fault_while_its_question_was_open() -> None:
    found = report(Verdict())
    assert found.under_way(Finding("x", 105, 106)) == "kill agents"
    assert found.under_way(Finding("x", 115, 125)) == "link cut"
    assert found.under_way(Finding("x", 140, math.inf)) == "kill agents"
    assert found.under_way(Finding("x", 140, 150)) == "link cut"
    assert found.under_way(Finding("x", 50, 60)) == CALM
    assert found.under_way(Finding("x")) == CALM


def test_the_table_has_every_fault_with_what_went_wrong_and_why_it_was_not_tried() -> None:
    lost, twice = Finding("run r1 has no end", 105, math.inf), Finding("r2 twice", 121, 122)
    shown = report(Verdict(lost=[lost], duplicated=[twice, replace_sentence(twice)])).table().splitlines()
    rows = {" ".join(line.split()) for line in shown}
    assert "kill agents 3 1 0 0 2.00 s 3.00 s" in rows
    assert "link cut 1 0 2 0 0.50 s 0.50 s" in rows
    assert "link cut FAILED: TimeoutError: 60 s" in rows
    assert "power cut skipped: needs root" in rows
    assert "slow 0 not reached in this time" in rows
    assert "lost (kill agents): run r1 has no end" in rows


def test_the_figures_count_what_went_wrong() -> None:
    found = report(Verdict(lost=[Finding("a")], reordered=[Finding("b"), Finding("c")]))
    assert found.figures()["lost"] == 1
    assert found.figures()["reordered"] == 2
    assert found.figures()["recovery_p99_s"] == 3.0
    assert found.broken() == ["a", "b", "c", "link cut: TimeoutError: 60 s"]


def replace_sentence(finding: Finding) -> Finding:
    return finding._replace(sentence="another")
