"""Every waiting request can name what it waits for."""

from __future__ import annotations

from schemas.steps import Resync
from tests.engine.core.test_scheduler_policies import made, stepped, submit


def test_an_idle_scheduler_waits_for_nothing() -> None:
    told = made().waits()
    assert (told.reasons, told.steps, told.chain()) == ((), (), "0 waiting, 0 running; no worker has come")


def test_the_first_names_the_seat_it_lacks_and_the_others_their_turn() -> None:
    scheduler = made(max_running=1, max_in_flight=1)
    for name in "abc":
        submit(scheduler, name)
    stepped(scheduler)
    assert scheduler.waits().reasons == (
        ("b", "a seat: all 1 are taken (max_running)"),
        ("c", "its turn: 1 before it"),
    )


def test_the_first_names_the_blocks_it_lacks_and_who_holds_them() -> None:
    scheduler = made(blocks=10, block_size=4, max_in_flight=1)
    submit(scheduler, "a", 20, 4)
    submit(scheduler, "b", 8, 4, first=100)
    stepped(scheduler)
    submit(scheduler, "c", 12, 4, first=200)
    ((name, reason),) = scheduler.waits().reasons
    assert name == "c"
    assert reason.startswith("2 more KV blocks: 3 of 10 are idle, 2 of them for running requests")
    assert reason.endswith("most are held by a (5), b (2)")


def test_a_silent_worker_is_named_with_the_steps_it_owes() -> None:
    scheduler = made(max_in_flight=1)
    submit(scheduler, "a")
    scheduler.resync(Resync("worker-7", 0, "started", 64))
    assert scheduler.waits().reasons == (("a", "the next step"),)
    assert scheduler.plan(0) is not None
    submit(scheduler, "b")
    told = scheduler.waits()
    assert told.reasons == (("b", "the result of step 1"),)
    assert (
        told.chain()
        == "1 waiting, 1 running; b waits for the result of step 1; worker worker-7 has not answered steps 1"
    )
