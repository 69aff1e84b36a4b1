"""The threads that the log's benchmarks read, fold and verify are ones that the agent loop decides."""

from __future__ import annotations

import msgspec
import pytest

from actors.agent.loop import ConversationMachine
from actors.runtime.machine import Emitted
from actors.runtime.replay import Recorded, verify
from benchmarks.log_threads import DECISIONS, EVENTS, TENANT, TURNS, rows, told
from bus.store import COLUMNS
from schemas import codec
from schemas.envelope import Fact


def test_a_thread_is_what_the_loop_decides() -> None:
    log = [
        Recorded(f"{n}", 0, fact.kind, fact.entity, fact.version, fact.type, bytes(fact.payload), cause, decision)
        for n, (decision, cause, fact) in enumerate(told("thread1"))
    ]
    assert len(log) == EVENTS
    assert verify(ConversationMachine(), TENANT, "thread1", log).decisions == DECISIONS


@pytest.mark.parametrize("number", [0, 17])
def test_each_row_fits_its_table_and_each_thread_can_be_folded(number: int) -> None:
    machine = ConversationMachine()
    state = machine.initial(TENANT, f"cold{number}")
    for row in rows(number, 5):
        columns = dict(zip(COLUMNS["event"], row, strict=True))
        names = ("tenant", "thread", "kind", "entity", "version", "type", "cause")
        fact = Fact(**{name: columns[name] for name in names}, payload=msgspec.Raw(columns["payload"]))
        state = machine.evolve(state, Emitted(fact.kind, fact.entity, codec.event_of(fact)))
    assert len(state.messages) == 4 * TURNS
