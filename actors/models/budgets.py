"""What was spent on models, and what may be: by run, thread, tenant or all together, within windows of time.

A call holds what it may cost from its beginning to its end, when it is entered with what it did cost. So calls that
begin at once cannot all pass a budget that is enough for one of them.
"""

from __future__ import annotations

import bisect
import fnmatch
import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from actors.errors import CallFailed
from actors.memory.window import weight
from actors.models.provider import ModelAnswer, ModelCall, ModelProvider, OnText, Piece
from schemas.context import Clock
from schemas.messages import Usage
from schemas.models import Budget, Spent
from schemas.programs import ProgramNote
from schemas.runs import Problem

Tell = Callable[[Spent], Awaitable[None]]
"""Tells the other processes of what was spent here."""
Price = Callable[[str, Usage], float]
"""Gives what a call of a model cost, US dollars; 0 where that is not known."""
_HELD_US = 900_000_000
"""For how long what a call may cost is held: its process may have ended before it said what it did cost."""
_BYTES_A_TOKEN = 3
"""Of a prompt, at least: few texts have fewer."""
_TIDY = 1024
"""After so many entries what counts no more is looked for."""
_WAIT_MS = 500
"""When who finds all of a budget held may ask again."""


@dataclass
class _Window:
    """What one run, thread or tenant spent, as far as it counts."""

    slides: bool
    """Whether what was spent counts for a while only; without, nothing but the sums is kept."""
    spent: deque[tuple[int, int, float]] = field(default_factory=deque)
    tokens: int = 0
    usd: float = 0.0
    held: dict[tuple[str, str], tuple[int, int, float]] = field(default_factory=dict)
    """By (process, call): what calls under way may cost, and since when."""

    def enter(self, spent: Spent, tokens: int, usd: float) -> None:
        """Take what a call may cost, or did, in place of what was said of it before."""
        self.held.pop((spent.process, spent.call), None)
        if spent.held:
            self.held[spent.process, spent.call] = (spent.time, tokens, usd)
        elif tokens or usd:
            self._add(spent.time, tokens, usd)

    def _add(self, time: int, tokens: int, usd: float) -> None:
        if not self.slides:
            pass
        elif self.spent and time < self.spent[-1][0]:
            bisect.insort(self.spent, (time, tokens, usd))  # what the record says may be told late
        else:
            self.spent.append((time, tokens, usd))
        self.tokens += tokens
        self.usd += usd

    def forget(self, before: int) -> None:
        """Leave out what is older."""
        while self.spent and self.spent[0][0] <= before:
            _, tokens, usd = self.spent.popleft()
            self.tokens -= tokens
            self.usd = self.usd - usd if self.spent else 0.0

    def holding(self, now: int) -> tuple[int, float]:
        """Give the tokens and US dollars that calls under way may cost."""
        for call in [call for call, (since, _, _) in self.held.items() if since <= now - _HELD_US]:
            del self.held[call]
        return sum(tokens for _, tokens, _ in self.held.values()), sum(usd for _, _, usd in self.held.values())


class Ledger:
    """Keeps the books of a process: what its own calls cost, what it is told of others, and what the record says."""

    def __init__(self, budgets: Sequence[Budget], clock: Clock, price: Price) -> None:
        self._budgets = tuple(budgets)
        self._clock = clock
        self._price = price
        self._windows: dict[tuple[int, Hashable], _Window] = {}
        self._entries = 0
        self._begun = itertools.count()

    @property
    def since(self) -> int:
        """Give the time from which on what was spent counts, microseconds since the Unix epoch."""
        if any(not budget.window_s for budget in self._budgets):
            return 0
        return self._clock.now() - max((budget.window_s for budget in self._budgets), default=0) * 1_000_000

    def begun(self) -> int:
        """Number a call that begins: the same may be made again before it ended."""
        return next(self._begun)

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
        """Enter what a call may cost, or did."""
        tokens, usd = spent.usage.prompt_tokens + spent.usage.completion_tokens, self._price(spent.model, spent.usage)
        for index, budget in enumerate(self._budgets):
            if _is_meant(budget, spent):
                place = index, _of(budget, spent)
                window = self._windows.setdefault(place, _Window(budget.window_s > 0))
                window.enter(spent, tokens, usd)
        self._entries += 1
        if self._entries % _TIDY == 0:
            self._tidy()

    def _tidy(self) -> None:
        """Forget whose spending counts no more: runs and threads go on coming for as long as the process lives."""
        now = self._clock.now()
        for place, window in list(self._windows.items()):
            window.forget(now - self._budgets[place[0]].window_s * 1_000_000)
            window.holding(now)
            if not (window.spent or window.held or window.tokens or window.usd):
                del self._windows[place]

    def hold(self, asked: Spent) -> Problem | None:
        """Hold what a call may cost; say which budget is used up or held by others, and hold nothing, where one is."""
        for index, budget in enumerate(self._budgets):
            window = self._windows.get((index, _of(budget, asked)))
            if window is None or not _is_meant(budget, asked):
                continue
            if budget.window_s:
                window.forget(asked.time - budget.window_s * 1_000_000)
            problem = _used_up(budget, window, asked.time)
            if problem is not None:
                return problem
        self.learn(asked)
        return None


def _is_meant(budget: Budget, spent: Spent) -> bool:
    """Say whether a budget is about a call: those of runs and threads are not about what is in none."""
    return bool(spent.thread or budget.scope in {"tenant", "all"}) and fnmatch.fnmatchcase(spent.model, budget.models)


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


def _used_up(budget: Budget, window: _Window, now: int) -> Problem | None:
    tokens, usd = window.holding(now)
    if budget.tokens and window.tokens + tokens >= budget.tokens:
        spent = f"{window.tokens} tokens of {budget.tokens}"
        held = f"{tokens} tokens" if window.tokens < budget.tokens else ""
    elif budget.usd and window.usd + usd >= budget.usd:
        spent = f"{window.usd:.4g} US dollars of {budget.usd:g}"
        held = f"{usd:.4g} US dollars" if window.usd < budget.usd else ""
    else:
        return None
    whose = {"run": "this run", "thread": "this thread", "tenant": "this tenant", "all": "everybody"}[budget.scope]
    within = f" within {budget.window_s} s" if budget.window_s else ""
    about = "" if budget.models == "*" else f" on {budget.models}"
    state = f"held by calls under way, which may take {held}" if held else "used up"
    message = f"the budget of {whose} is {state}: {spent}{about}{within} (`models.budgets`)"
    return Problem(kind="budget", message=message, field="models.budgets", retry_after_ms=_WAIT_MS if held else 0)


@dataclass(frozen=True)
class Books:
    """Enters what calls may cost, and then what they did, here and in the other processes."""

    ledger: Ledger
    clock: Clock
    tell: Tell

    async def begin(self, model: str, asked: tuple[str, str, str], request: str, usage: Usage) -> Spent:
        """Hold what a call may cost.

        Args:
            model: which is called.
            asked: the tenant, and the thread and run that it is called for.
            request: which call.
            usage: what it may take.

        Raises:
            CallFailed: a budget is used up, or all that is left is held by calls under way.
        """
        name = f"{request}/{self.ledger.begun()}"
        held = Spent(self.clock.now(), *asked, model, usage, call=name, held=True)
        problem = self.ledger.hold(held)
        if problem is not None:
            raise CallFailed(problem)
        await self.tell(held)
        return held

    async def end(self, held: Spent, took: Usage) -> None:
        """Enter what it did cost."""
        spent = replace(held, time=self.clock.now(), usage=took, held=False)
        self.ledger.learn(spent)
        await self.tell(spent)


@dataclass(frozen=True)
class Budgeted:
    """Asks the model inside while there is budget for it."""

    name: str
    inner: ModelProvider
    books: Books

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Ask, and enter what it cost; of a call that broke off, about what was said until then.

        Raises:
            CallFailed: a budget is used up, or all that is left is held by calls under way; or the model inside does.
        """
        held, heard = await self._begin(call, 1), 0

        async def hear(piece: Piece, /) -> None:
            nonlocal heard
            heard += len(piece.text.encode("utf-8", "replace"))
            await on_text(piece)

        took = Usage()
        try:
            answer = await self.inner.call(call, hear)
            took = answer.usage
        except CallFailed as failure:
            took = failure.usage
            raise
        finally:
            if heard and not took.completion_tokens:
                took = replace(held.usage, completion_tokens=tokens_of(heard))
            await self.books.end(held, took)
        return answer

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        """Have the model inside search, and enter what it cost.

        Raises:
            CallFailed: a budget is used up, or all that is left is held by calls under way; or the model inside does.
        """
        held, took = await self._begin(call, call.n), Usage()
        try:
            answers = await self.inner.search(call)
            took = sum((answer.usage for answer in answers), Usage())
        finally:
            await self.books.end(held, took)
        return answers

    async def note(self, note: ProgramNote) -> None:
        """Pass it on."""
        await self.inner.note(note)

    async def abort(self, request: str) -> None:
        """Pass it on."""
        await self.inner.abort(request)

    async def _begin(self, call: ModelCall, answers: int) -> Spent:
        return await self.books.begin(
            self.name, (call.tenant, *call.spends_for), call.request, _may_take(call, answers)
        )


def _may_take(call: ModelCall, answers: int) -> Usage:
    """Give about what a call takes at most: all of its prompt, and as many tokens as it may say."""
    size = sum(map(weight, call.messages)) + sum(len(msgspec.json.encode(tool)) for tool in call.tools)
    if call.prompt is not None:
        size += len(msgspec.json.encode(call.prompt))
    return Usage(tokens_of(size), answers * call.sampling.max_tokens)


def tokens_of(size: int) -> int:
    """Give about how many tokens so many bytes of text are, at most."""
    return math.ceil(size / _BYTES_A_TOKEN)
