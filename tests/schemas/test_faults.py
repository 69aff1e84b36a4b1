"""What a log says of an exception: kind and place, and nothing of its words."""

from __future__ import annotations

from actors.errors import CallFailed
from schemas.faults import fault
from schemas.runs import Problem

SECRET = "my cat is Mitzi"


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        raise error from cause

    try:
        deep(9)
    except Exception as caught:  # noqa: BLE001  whatever it was given
        return caught
    raise AssertionError


def test_it_says_which_exception_it_is_and_where_it_was_raised() -> None:
    told = fault(raised(ValueError(SECRET)))
    assert told.startswith("ValueError at test_faults.py:")
    assert told.count(" in deep") == 4  # the innermost ones
    assert SECRET not in told


def test_it_goes_by_what_was_first() -> None:
    first = raised(KeyError(SECRET))
    assert fault(raised(ValueError(SECRET), first)) == fault(first)
    assert fault(KeyError(SECRET)) == "KeyError"


def test_the_kind_of_a_problem_is_told() -> None:
    failure = CallFailed(Problem(kind="overloaded", message=SECRET))
    assert fault(raised(failure)).startswith("CallFailed (overloaded) at test_faults.py:")
