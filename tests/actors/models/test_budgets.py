"""Budgets by run, thread, tenant and window; answers that are kept."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from msgspec.structs import replace

from actors.errors import CallFailed
from actors.models.budgets import Books, Budgeted, Ledger
from actors.models.cache import Answers, Cached, key_of
from actors.models.pricing import Pricing
from actors.models.provider import ModelCall, Piece
from actors.runtime.context import SystemChance
from actors.testing import FixedClock, ScriptedModel
from bus.connection import Connection
from bus.keyring import Keyring
from bus.spending import hear_spent, recorded_spending, tell_spent
from bus.store import Batch, Cursor, Store
from schemas import codec
from schemas.envelope import Fact
from schemas.generation import Sampling
from schemas.hooks import StepPrepared
from schemas.memory import CondensingEnded
from schemas.messages import Message, Usage
from schemas.models import Budget, Spent
from schemas.runs import ModelFailed, ModelReturned, Problem
from schemas.standing import GoalJudged
from tests.actors.models.calls import REGISTRY, asking

pytestmark = pytest.mark.anyio
SECOND = 1_000_000


async def silently(piece: Piece, /) -> None:
    """Take no text."""


class Asking:
    """A model whose answers cost 2 tokens, under budgets."""

    def __init__(self, *budgets: Budget, name: str = "openai/gpt-4o") -> None:
        self.clock = FixedClock()
        self.ledger = Ledger(budgets, self.clock, Pricing(REGISTRY, {}).known_cost)
        self.told: list[Spent] = []
        self.inner = ScriptedModel(lambda _: "word")
        self.model = Budgeted(name, self.inner, Books(self.ledger, self.clock, self._tell))

    async def _tell(self, spent: Spent) -> None:
        self.told.append(spent)

    async def ask(self, call: ModelCall) -> Problem | None:
        try:
            await self.model.call(call, silently)
        except CallFailed as failure:
            return failure.problem
        return None


def of(run: str = "r1", thread: str = "t1", tenant: str = "acme") -> ModelCall:
    return asking(effect=f"{run}-1-m", thread=thread, tenant=tenant)


async def test_a_run_that_used_its_budget_up_is_refused_and_another_is_not() -> None:
    books = Asking(Budget("run", tokens=4))
    assert [await books.ask(of()) for _ in range(2)] == [None, None]
    problem = await books.ask(replace(of(), effect="r1-3-m2"))
    assert problem is not None
    assert (problem.kind, problem.field, problem.retry_after_ms) == ("budget", "models.budgets", 0)
    assert problem.message == "the budget of this run is used up: 4 tokens of 4 (`models.budgets`)"
    assert await books.ask(of("r2")) is None
    assert len(books.inner.calls) == 3


@pytest.mark.parametrize(
    ("scope", "other"), [("thread", of("r2", "t2")), ("tenant", of("r2", "t1", "beta")), ("all", None)]
)
async def test_budgets_are_of_threads_tenants_or_everybody(scope: str, other: ModelCall | None) -> None:
    books = Asking(Budget(scope, tokens=2))  # type: ignore[arg-type]
    assert await books.ask(of()) is None
    assert await books.ask(of("r2")) is not None
    assert other is None or await books.ask(other) is None
    assert scope != "all" or await books.ask(of("r9", "t9", "z")) is not None


async def test_what_was_spent_before_the_window_counts_no_more() -> None:
    books = Asking(Budget("tenant", tokens=4, window_s=60))
    assert books.ledger.since == books.clock.now() - 60 * SECOND
    await books.ask(of())
    books.clock.microseconds += 40 * SECOND
    await books.ask(of())
    assert "4 tokens of 4 within 60 s" in (await books.ask(of()) or Problem("engine", "")).message
    books.clock.microseconds += 21 * SECOND
    assert await books.ask(of()) is None


async def test_what_the_record_tells_late_is_forgotten_in_time_all_the_same() -> None:
    books = Asking(Budget("tenant", tokens=4, window_s=60))
    await books.ask(of())
    books.ledger.learn(
        Spent(books.clock.now() - 50 * SECOND, "acme", "t1", "r1", "openai/gpt-4o", Usage(1, 1), call="before")
    )
    assert await books.ask(of()) is not None
    books.clock.microseconds += 20 * SECOND
    assert await books.ask(of()) is None


async def test_money_counts_where_prices_are_known_and_only_the_models_that_are_meant() -> None:
    budget = Budget("tenant", usd=2e-5, models="openai/*")
    books = Asking(budget)
    assert [await books.ask(of()) is None for _ in range(3)] == [True, True, False]
    assert [await Asking(budget, name="mini").ask(of()) for _ in range(3)] == [None] * 3


async def test_of_a_hundred_calls_at_once_a_budget_for_one_pays_for_one() -> None:
    books = Asking(Budget("tenant", tokens=2))
    books.inner.hold = asyncio.Event()
    asked = [asyncio.create_task(books.ask(of(f"r{index}", f"t{index}"))) for index in range(100)]
    await asyncio.wait(asked[1:], timeout=5)
    assert len(books.inner.calls) == 1
    books.inner.hold.set()
    problems = [problem for problem in await asyncio.gather(*asked) if problem is not None]
    assert len(problems) == 99
    assert {(problem.kind, problem.retry_after_ms) for problem in problems} == {("budget", 500)}
    assert "held by calls under way, which may take 69 tokens: 0 tokens of 2" in problems[0].message
    assert "is used up: 2 tokens of 2" in (await books.ask(of()) or Problem("engine", "")).message


async def test_what_a_call_held_and_did_not_take_is_there_for_the_next() -> None:
    books = Asking(Budget("all", tokens=70))
    assert [await books.ask(of(f"r{index}")) for index in range(34)] == [None] * 34
    told = books.told[-2:]
    assert [(one.held, one.usage) for one in told] == [(True, Usage(5, 64)), (False, Usage(1, 1))]
    assert told[0].call == told[1].call


@pytest.mark.parametrize("end", ["fails", "cancelled"])
async def test_a_call_that_breaks_off_holds_nothing_more_and_counts_what_was_heard(end: str) -> None:
    books = Asking(Budget("tenant", tokens=8))
    books.inner.hold = asyncio.Event()
    began = asyncio.Event()

    async def hear(piece: Piece, /) -> None:
        began.set()
        if end == "fails":
            raise CallFailed(Problem(kind="engine", message="no"))

    task = asyncio.create_task(books.model.call(of(), hear))
    await asyncio.wait_for(began.wait(), 5)
    task.cancel()
    with pytest.raises((CallFailed, asyncio.CancelledError)):
        await task
    assert books.ledger.statistics()[0]["tokens"] == 5 + 2
    assert books.told[-1].usage == Usage(5, 2)
    books.inner.hold = None
    assert await books.ask(of("r2")) is None


async def test_what_a_call_of_another_process_holds_counts_until_it_is_told_and_not_for_ever() -> None:
    books = Asking(Budget("tenant", tokens=9))
    held = Spent(books.clock.now(), "acme", "t7", "r7", "openai/gpt-4o", Usage(5, 5), "other", "c1", held=True)
    books.ledger.learn(held)
    assert "held by calls under way" in (await books.ask(of()) or Problem("engine", "")).message
    books.ledger.learn(replace(held, held=False, usage=Usage(1, 1)))
    assert await books.ask(of()) is None
    books.ledger.learn(replace(held, call="c2"))
    assert await books.ask(of()) is not None
    books.clock.microseconds += 901 * SECOND  # its process ended
    assert await books.ask(of()) is None


@pytest.mark.parametrize("scope", ["run", "thread"])
async def test_books_of_what_counts_no_more_are_closed(scope: str) -> None:
    books = Asking(Budget(scope, window_s=60, tokens=99))  # type: ignore[arg-type]
    for n in range(3000):
        assert await books.ask(of(f"r{n}", f"t{n}")) is None
        books.clock.microseconds += SECOND
    assert len(books.ledger._windows) < 1500


async def test_of_what_counts_for_ever_the_sum_is_kept() -> None:
    books = Asking(Budget("all", tokens=99_999))
    for _ in range(50):
        assert await books.ask(of()) is None
    (window,) = books.ledger._windows.values()
    assert (window.tokens, len(window.spent)) == (100, 0)


async def test_what_other_processes_spend_counts_too(connection: Connection) -> None:
    books, heard = Asking(Budget("tenant", tokens=2)), []

    def learn(spent: Spent) -> None:
        books.ledger.learn(spent)
        heard.append(spent)

    await hear_spent(connection, learn, "own")
    spent = Spent(books.clock.now(), "acme", "t7", "r7", "openai/gpt-4o", Usage(5, 5), "own")
    await tell_spent(connection, spent)
    await tell_spent(connection, replace(spent, process="other"))
    await connection.flush()
    while not heard:
        await connection.flush()
    assert [one.process for one in heard] == ["other"]
    assert await books.ask(of()) is not None


async def test_what_was_spent_before_a_process_began_is_read_from_the_record(store: Store) -> None:
    answer = ModelReturned("r1-1-m", "hi", "stop", Usage(7, 3), engine="openai/gpt-4o")
    payload = codec.encode(answer)

    async def opened() -> Store:
        return store

    store.keys = Keyring(opened, b"master", SystemChance(), seals=True)
    key = await store.keys.fresh()
    sealed = store.keys.sealed(Fact("acme", "t1", "run", "r4", 1, "model.returned", "c", msgspec.Raw(payload), key=key))

    failed = ModelFailed("r6-1-m", Problem("engine", "no"))
    condensed = CondensingEnded("r7-1-c", 0, 2, "- cats", usage=Usage(9, 4), engine="m")

    beside = {"m": Usage(4, 1), "openai/gpt-4o": Usage(5, 1)}
    prepared = StepPrepared("r9-1-p", usage=Usage(9, 2), engines=beside)
    judged = GoalJudged("r2-1-g", "done", usage=Usage(30, 8), engine="openai/gpt-4o")

    def row(sequence: int, time: int, kind: str, key: str | None = None, held: bytes = payload) -> tuple[object, ...]:
        of = ("thread", "t1") if kind == "goal.judged" else ("run", f"r{sequence}")
        return (1, sequence, 0, "acme", "t1", *of, 1, kind, "c", time, "", key, held, None)

    rows = [row(1, 10, "model.returned"), row(2, 99, "model.returned"), row(3, 99, "model.called"),
            row(4, 99, "model.returned", key, bytes(sealed.payload)),
            row(5, 99, "model.returned", "another", b'"nobody can read this"'),
            row(6, 99, "model.failed", None, codec.encode(replace(failed, usage=Usage(2, 1)))),
            row(7, 99, "model.failed", None, codec.encode(failed)),
            row(8, 99, "condensing.ended", None, codec.encode(condensed)),
            row(9, 99, "step.prepared", None, codec.encode(prepared)),
            row(10, 99, "step.prepared", None, codec.encode(StepPrepared("r10-1-p", usage=Usage(6)))),
            row(11, 99, "step.prepared", None, codec.encode(StepPrepared("r11-1-p"))),
            row(12, 99, "goal.judged", None, codec.encode(judged))]  # fmt: skip
    before = await store.claim("EV", "w")
    await store.advance(before, Batch(Cursor("EV", 1, 12, "h"), {"event": rows}, {}), "w")
    assert [spent async for part in recorded_spending(store, 50) for spent in part] == [
        Spent(99, "acme", "t1", run, "openai/gpt-4o", Usage(7, 3)) for run in ("r2", "r4")
    ] + [
        Spent(99, "acme", "t1", "r6", "", Usage(2, 1)),  # what judges were asked before it failed
        Spent(99, "acme", "t1", "r8", "m", Usage(9, 4)),
        Spent(99, "acme", "t1", "r9", "m", Usage(4, 1)),
        Spent(99, "acme", "t1", "r9", "openai/gpt-4o", Usage(5, 1)),
        Spent(99, "acme", "t1", "r10", "", Usage(6)),  # written before it was known who answered
        Spent(99, "acme", "t1", "r2", "openai/gpt-4o", Usage(30, 8)),  # the run that was judged, as when it was asked
    ]


async def test_the_same_question_is_asked_once_and_costs_once() -> None:
    inner = ScriptedModel(lambda call: f"answer {len(inner.calls)}")
    model = Cached("m", inner, Answers(2))
    heard: list[str] = []

    async def hear(piece: Piece, /) -> None:
        heard.append(piece.text)

    first = await model.call(asking(), silently)
    again = await model.call(asking(effect="r2-1-m", thread="t2", sampling=Sampling(max_tokens=64, seed=9)), hear)
    assert (again.text, again.usage, "".join(heard)) == (first.text, Usage(), first.text)
    assert len(inner.calls) == 1
    await model.call(asking("other"), silently)
    await model.call(asking("third"), silently)
    assert (await model.call(asking(), silently)).text == "answer 4"
    await model.call(asking(read_cache=False), silently)
    assert len(inner.calls) == 5


async def test_what_came_of_an_erased_thread_is_not_kept_any_more() -> None:
    inner = ScriptedModel(lambda call: f"answer {len(inner.calls)}")
    answers = Answers(9)
    model = Cached("m", inner, answers)
    await model.call(asking(thread="gone"), silently)
    await model.call(asking("other", thread="stays"), silently)
    answers.forget("beta", "gone")
    assert (await model.call(asking(thread="t2"), silently)).text == "answer 1"
    answers.forget("acme", "gone")
    assert (await model.call(asking("other", thread="t2"), silently)).text == "answer 2"
    # what was asked before that and is answered only now is not kept either
    await model.call(asking(thread="gone"), silently)
    assert (await model.call(asking(thread="t2"), silently)).text == "answer 4"
    assert (await model.call(asking(thread="gone"), silently)).text == "answer 4"
    answers.clear()
    assert (await model.call(asking(thread="t2"), silently)).text == "answer 5"


async def test_what_fails_or_breaks_off_is_not_kept() -> None:
    answers = iter([Problem(kind="engine", message="no"), "well"])
    inner = ScriptedModel(lambda _: next(answers))
    model = Cached("m", inner, Answers(2))
    with pytest.raises(CallFailed):
        await model.call(asking(), silently)
    assert (await model.call(asking(), silently)).text == "well"


@pytest.mark.parametrize(
    "other",
    [
        asking("ho"),
        asking(tenant="beta"),
        asking(sampling=Sampling(max_tokens=65)),
        asking(Message("system", "x"), "hi"),
        asking(options={"a": 1}),
        asking(choice=1),
    ],
)
def test_what_is_not_the_same_is_another_question(other: ModelCall) -> None:
    assert key_of("m", other) != key_of("m", asking())
    assert key_of("n", asking()) != key_of("m", asking())
