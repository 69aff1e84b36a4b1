"""The real scheduler over a clock that is only counted: what programs see of a policy, without a model.

A step takes a fixed time and so much for each token. The scheduler, its memory and its prefix cache are the ones that
serve; only the worker is not there, and the tokens are made up.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from benchmarks.agents_outcome import Outcome, Served
from benchmarks.agents_programs import SYSTEM_TOKENS, VOCABULARY, Row, tokens
from engine.config import Policy, SchedulerConfig
from engine.core.scheduler import Scheduler
from schemas.generation import Accepted, Sampling, Submit
from schemas.programs import ProgramEnded, ToolBegan, ToolEnded
from schemas.steps import StepPlan, StepResult

STEP_S: Final = 0.012
TOKEN_S: Final = 0.0006
_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Rival:
    """A policy, and what clients do."""

    name: str
    policy: Policy = "fcfs"
    cap: int = 0
    """Programs that the client lets go on at once; 0 is all of them."""
    hints: bool = True
    """Whether clients say whose turn a request is, and when tools run."""


@dataclass(slots=True)
class _Live:
    """A program under way."""

    row: Row
    history: list[int]
    served: Served
    turn: int = 0
    asked: int = 0
    """When the turn under way was asked for, microseconds."""


@dataclass(slots=True)
class _Seen:
    """Which positions were computed before."""

    systems: dict[int, int] = field(default_factory=dict)
    programs: dict[int, int] = field(default_factory=dict)

    def again(self, row: Row, start: int, end: int) -> int:
        """Count those of some positions that were; note them all."""
        known = max(self.programs.get(row.program, 0), self.systems.get(row.system, 0))
        again = max(min(known, end) - start, 0)
        self.programs[row.program] = max(self.programs.get(row.program, 0), end)
        self.systems[row.system] = max(self.systems.get(row.system, 0), min(end, SYSTEM_TOKENS))
        return again


class Simulation:
    """One engine, and its clients."""

    def __init__(self, rows: list[Row], rival: Rival, pool: int, seed: int, block_size: int = 16) -> None:
        """Make it, with a pool of so many tokens."""
        self.config = SchedulerConfig(
            blocks=pool // block_size,
            block_size=block_size,
            context_length=min(pool, 32_768),
            policy=rival.policy,
            max_running=64,
            max_step_tokens=512,
            prefill_chunk=512,
            max_in_flight=1,
            max_waiting=100_000,
            max_waiting_tokens=1 << 40,
        )
        self.scheduler = Scheduler(self.config, "simulated")
        self.plans: list[StepPlan] = []
        """All that were made, where they are kept."""
        self._rival, self._seed = rival, seed
        self._events: list[tuple[int, int, int]] = []
        """(when, which, program): of programs that come or come back."""
        self._numbered = 0
        self._queue: deque[int] = deque()
        self._live: dict[int, _Live] = {}
        self._rows = {row.program: row for row in rows}
        self._seen = _Seen()
        self._now = 0
        self.outcome = Outcome(rival.name)
        for row in rows:
            self._at(int(row.arrival_s * _US), row.program)

    def run(self, *, keep: bool = False) -> Outcome:
        """Go on until all programs are over."""
        while self._events or self._live:
            while self._events and self._events[0][0] <= self._now:
                self._happens(heapq.heappop(self._events)[2])
            plan = self.scheduler.plan(self._now)
            if plan is None:
                self._wait()
                continue
            if keep:
                self.plans.append(plan)
            self._step(plan)
        self.outcome.span_s = self._now / _US
        return self.outcome

    def _wait(self) -> None:
        """Nothing can be computed until somebody comes, or comes back."""
        assert self._events, f"nothing moves: {self.scheduler.waits().chain()}"
        self._now = max(self._now, self._events[0][0])

    def _at(self, when: int, program: int) -> None:
        self._numbered += 1
        heapq.heappush(self._events, (when, self._numbered, program))

    def _happens(self, program: int) -> None:
        live = self._live.get(program)
        if live is None:
            self._queue.append(program)
            self._let_in()
            return
        turn = live.row.turns[live.turn]
        if self._rival.hints:
            self.scheduler.note(ToolEnded(live.row.name, f"{live.turn}"), self._now)
        live.history += tokens(self._seed, program, live.turn, count=turn.observed)
        live.turn += 1
        self._ask(live)

    def _let_in(self) -> None:
        while self._queue and (not self._rival.cap or len(self._live) < self._rival.cap):
            row = self._rows[self._queue.popleft()]
            history = tokens(self._seed, 10_000_000 + row.system, count=SYSTEM_TOKENS)
            history += tokens(self._seed, row.program, 1_000, count=row.user_tokens)
            live = self._live[row.program] = _Live(row, history, Served(row))
            self._ask(live)

    def _ask(self, live: _Live) -> None:
        row, hints = live.row, self._rival.hints
        live.asked = self._now
        submit = Submit(
            request=f"{row.program}/{live.turn}",
            prompt=tuple(live.history),
            sampling=Sampling(max_tokens=row.outputs[live.turn]),
            frontend="simulated",
            tenant="simulated",
            priority=row.program,
            program=row.name if hints else "",
            agent=f"system-{row.system}" if hints else "",
        )
        if self._rival.policy == "agents":
            submit = Submit(**{name: getattr(submit, name) for name in submit.__struct_fields__ if name != "priority"})
        answer = self.scheduler.submit(submit, self._now)
        assert isinstance(answer, Accepted), answer

    def _step(self, plan: StepPlan) -> None:
        work = sum(part.count for part in plan.slices)
        self._now += int((STEP_S + TOKEN_S * work) * _US)
        outcome = self.outcome
        outcome.steps += 1
        outcome.preemptions += len(plan.preempted)
        outcome.pauses += sum(decision.what == "paused" for decision in plan.decisions)
        sampled = []
        for part in plan.slices:
            live = self._live[int(part.request.partition("/")[0])]
            again = self._seen.again(live.row, part.start, part.start + part.count)
            if part.start < len(live.history) or again:
                outcome.prefilled += part.count
                outcome.recomputed += again
            if part.sample:
                sampled.append((part.request, VOCABULARY.start + (live.row.program * 31 + plan.n) % 20_000))
        for event in self.scheduler.apply(StepResult(plan.n, plan.epoch, "simulated", tuple(sampled))):
            live = self._live[int(event.request.partition("/")[0])]
            if event.start == 0 and event.tokens:
                live.served.first_token_s.append((self._now - live.asked) / _US)
            if event.finish is not None:
                assert event.finish == "length", event
                self._answered(live)

    def _answered(self, live: _Live) -> None:
        row = live.row
        told = self.scheduler.attach(f"{row.program}/{live.turn}", 0)
        assert told is not None
        live.history += told.tokens
        self.outcome.output_tokens += len(told.tokens)
        if live.turn < len(row.turns):
            turn = row.turns[live.turn]
            if self._rival.hints:
                self.scheduler.note(ToolBegan(row.name, f"{live.turn}", turn.tool), self._now)
            self._at(self._now + int(turn.tool_s * _US), row.program)
            return
        if self._rival.hints:
            self.scheduler.note(ProgramEnded(row.name), self._now)
        live.served.completion_s = self._now / _US - row.arrival_s
        self.outcome.programs.append(live.served)
        del self._live[row.program]
        self._let_in()


def alone_s(row: Row) -> float:
    """How long a program would take that has the engine for itself, and finds its system prompt there."""
    computed = row.context - SYSTEM_TOKENS - row.final_out
    requests = len(row.turns) + 1
    waits = sum(turn.tool_s for turn in row.turns)
    return waits + sum(row.outputs) * (STEP_S + TOKEN_S) + (computed - sum(row.outputs)) * TOKEN_S + requests * STEP_S
