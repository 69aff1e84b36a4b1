"""A key's life, decided and folded."""

from __future__ import annotations

from functools import reduce

from actors.access.key import KIND, Key, KeyMachine
from actors.runtime.machine import Asked
from schemas.commands import Command
from schemas.context import Context
from schemas.keys import IssueKey, RevokeKey
from schemas.runs import CommandAccepted, CommandRefused

ISSUE = IssueKey("0" * 64, "ost_AbCdEfGh", ("inference",))
MACHINE = KeyMachine()


def commands(*data: IssueKey | RevokeKey) -> list[Command]:
    verbs = [str(one.__struct_config__.tag) for one in data]
    return [Command(f"m{n}", "acme", KIND, "k1", verbs[n], one) for n, one in enumerate(data)]


def told(*data: IssueKey | RevokeKey) -> tuple[Key, list[str]]:
    """Have a key hear commands: its state, and the field that each was refused for."""
    state, problems = MACHINE.initial("acme", "k1"), list[str]()
    for command in commands(*data):
        decision = MACHINE.ask(state, Asked(command), Context(0, 0))
        [emitted] = decision.events
        assert isinstance(emitted.event, CommandAccepted | CommandRefused)
        problems.append(emitted.event.problem.message if isinstance(emitted.event, CommandRefused) else "")
        state = reduce(MACHINE.evolve, decision.events, state)
        assert MACHINE.answered(state, command.id) is not None
        assert MACHINE.open_effects(state) == []
    return state, problems


def test_a_key_is_issued_once_and_revoked_once() -> None:
    state, problems = told(ISSUE, ISSUE, RevokeKey("leaked"), RevokeKey())
    assert state.issued == ISSUE
    assert state.revoked == RevokeKey("leaked")
    assert [bool(problem) for problem in problems] == [False, True, False, True]
    assert "exists" in problems[1]
    assert "revoked already" in problems[3]


def test_a_key_that_was_never_issued_cannot_be_revoked() -> None:
    state, [problem] = told(RevokeKey())
    assert state.revoked is None
    assert "`ostinato keys list`" in problem


def test_a_revoked_key_is_not_issued_again() -> None:
    assert told(ISSUE, RevokeKey(), ISSUE)[0].revoked == RevokeKey()
