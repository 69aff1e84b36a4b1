"""What was spent on models, and what may be: by run, thread, tenant or all together, within windows of time."""

from __future__ import annotations

import fnmatch
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.errors import CallFailed
from actors.models.provider import ModelAnswer, ModelCall, ModelProvider, OnText
from schemas.context import Clock
from schemas.messages import Usage
from schemas.models import Budget, Spent
from schemas.programs import ProgramNote
from schemas.runs import Problem

Tell = Callable[[Spent], Awaitable[None]]
"""Tells the other processes of what was spent here."""
Price = Callable[[str, Usage], float]
"""Gives what a call of a model cost, US dollars; 0 where that is not known."""


@dataclass
class _Window:
    """What one run, thread or tenant spent, as far as it counts."""

    spent: deque[tuple[int, int, float]] = field(default_factory=deque)
    tokens: int = 0
    usd: float = 0.0

    def add(self, time: int, tokens: int, usd: float) -> None:
        self.spent.append((time, tokens, usd))
        self.tokens += tokens
        self.usd += usd

    def forget(self, before: int) -> None:
        """Leave out what is older."""
        while self.spent and self.spent[0][0] <= before:
            _, tokens, usd = self.spent.popleft()
            self.tokens -= tokens
            self.usd = self.usd - usd if self.spent else 0.0


class Ledger:
    """Keeps the books of a process: what its own calls cost, what it is told of others, and what the record says."""

    def __init__(self, budgets: Sequence[Budget], clock: Clock, price: Price) -> None:
        self._budgets = tuple(budgets)
        self._clock = clock
        self._price = price
        self._windows: dict[tuple[int, Hashable], _Window] = {}

    @property
    def since(self) -> int:
        """Give the time from which on what was spent counts, microseconds since the Unix epoch."""
        if any(not budget.window_s for budget in self._budgets):
            return 0
        return self._clock.now() - max((budget.window_s for budget in self._budgets), default=0) * 1_000_000

    def statistics(self) -> list[dict[str, Any]]:
        """Say of each budget what it allows, and the most that any one of its scope spent of it."""
        now, told = self._clock.now(), list[dict[str, Any]]()
        for index, budget in enumerate(self._budgets):
            windows = [window for (at, _), window in self._windows.items() if at == index]
            for window in windows if budget.window_s else ():
                window.forget(now - budget.window_s * 1_000_000)
            told.append(
                {
                    "scope": budget.scope,
                    "models": budget.models,
                    "tokens_limit": budget.tokens,
                    "usd_limit": budget.usd,
                    "tokens": max((window.tokens for window in windows), default=0),
                    "usd": max((window.usd for window in windows), default=0.0),
                }
            )
        return told

    def learn(self, spent: Spent) -> None:
        """Enter what a call cost."""
        tokens, usd = spent.usage.prompt_tokens + spent.usage.completion_tokens, self._price(spent.model, spent.usage)
        for index, budget in enumerate(self._budgets):
            if fnmatch.fnmatchcase(spent.model, budget.models):
                window = self._windows.setdefault((index, _of(budget, spent)), _Window())
                window.add(spent.time, tokens, usd)

    def refusal(self, model: str, tenant: str, thread: str, run: str) -> Problem | None:
        """Say which budget is used up; None where none is. What is under way is not counted yet."""
        now = self._clock.now()
        asked = Spent(now, tenant, thread, run, model, Usage())
        for index, budget in enumerate(self._budgets):
            window = self._windows.get((index, _of(budget, asked)))
            if window is None or not fnmatch.fnmatchcase(model, budget.models):
                continue
            if budget.window_s:
                window.forget(now - budget.window_s * 1_000_000)
            problem = _used_up(budget, window)
            if problem is not None:
                return problem
        return None


def _of(budget: Budget, spent: Spent) -> Hashable:
    match budget.scope:
        case "run":
            return spent.tenant, spent.thread, spent.run
        case "thread":
            return spent.tenant, spent.thread
        case "tenant":
            return spent.tenant
        case "all":
            return ()


def _used_up(budget: Budget, window: _Window) -> Problem | None:
    if budget.tokens and window.tokens >= budget.tokens:
        spent = f"{window.tokens} tokens of {budget.tokens}"
    elif budget.usd and window.usd >= budget.usd:
        spent = f"{window.usd:.4g} US dollars of {budget.usd:g}"
    else:
        return None
    whose = {"run": "this run", "thread": "this thread", "tenant": "this tenant", "all": "everybody"}[budget.scope]
    within = f" within {budget.window_s} s" if budget.window_s else ""
    about = "" if budget.models == "*" else f" on {budget.models}"
    message = f"the budget of {whose} is used up: {spent}{about}{within} (`models.budgets`)"
    return Problem(kind="budget", message=message, field="models.budgets")


@dataclass(frozen=True)
class Budgeted:
    """Asks the model inside while there is budget for it."""

    name: str
    inner: ModelProvider
    ledger: Ledger
    clock: Clock
    tell: Tell

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Ask, and enter what it cost.

        Raises:
            CallFailed: a budget is used up; or the model inside does.
        """
        self._check(call)
        answer = await self.inner.call(call, on_text)
        await self._enter(call, answer)
        return answer

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        """Have the model inside search, and enter what it cost.

        Raises:
            CallFailed: a budget is used up; or the model inside does.
        """
        self._check(call)
        answers = await self.inner.search(call)
        for answer in answers:
            await self._enter(call, answer)
        return answers

    async def note(self, note: ProgramNote) -> None:
        """Pass it on."""
        await self.inner.note(note)

    async def abort(self, request: str) -> None:
        """Pass it on."""
        await self.inner.abort(request)

    def _check(self, call: ModelCall) -> None:
        problem = self.ledger.refusal(self.name, call.tenant, call.thread, run_of(call.effect))
        if problem is not None:
            raise CallFailed(problem)

    async def _enter(self, call: ModelCall, answer: ModelAnswer) -> None:
        now = self.clock.now()
        spent = Spent(now, call.tenant, call.thread, run_of(call.effect), self.name, answer.usage)
        self.ledger.learn(spent)
        await self.tell(spent)


def run_of(effect: str) -> str:
    """Read a run's id from the effect id of one of its model calls, `<run>-<step>-m…`."""
    return effect.rsplit("-", 2)[0]
