"""The calculator's arithmetic."""

from __future__ import annotations

import pytest

from infra.arithmetic import shown, value


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("12 * 34", "408"),
        ("(3 + 4) * -2", "-14"),
        ("1 / 4", "0.25"),
        ("2 ** 10 % 7", "2"),
        (" 0.1 + 0.2 ", "0.3"),
        ("10 / 3", "3.333333333"),
    ],
)
def test_an_expression_is_worked_out(expression: str, result: str) -> None:
    assert shown(value(expression)) == result


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("1 / 0", "division by zero"),
        ("1 % 0", "division by zero"),
        ("9 ** 99", "power too large"),
        ("10 ** 20", "result too large"),
        ("(-8) ** 0.5", "result too large"),
        ("two plus two", "cannot read"),
        ("__import__('os')", "only numbers"),
        ("True + 1", "only numbers"),
        ("((" * 300, "cannot read"),
    ],
)
def test_what_has_no_value_says_why(expression: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        value(expression)
