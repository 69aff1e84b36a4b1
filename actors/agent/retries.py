"""When the model is asked again after a call that came to nothing, pure: for which reasons, how often, how long after.

The wait is an effect like the others: its intention is in the log with the time that was decided, so whoever owns the
thread by then asks again, and a run that is ended meanwhile ends at once.
"""

from __future__ import annotations

from msgspec.structs import replace

from actors.agent.conversation import Conversation
from actors.agent.folding import Folding
from actors.agent.run import Run
from actors.agent.turns import end, failed
from actors.runtime.machine import Effect
from schemas.context import Context
from schemas.profiles import Retries
from schemas.runs import Problem, RetryScheduled

_PASSING = frozenset({"overloaded", "timeout"})
_FOR_GOOD = frozenset({"invalid", "too_long", "unknown_model"})


class AwaitRetry(Effect, frozen=True, kw_only=True):
    """Wait until the model is to be asked again."""

    at: int
    """Microseconds since the Unix epoch."""


def may_pass(problem: Problem) -> bool:
    """Say whether asking again later may help; of an engine's failure, it does where the engine says when."""
    return problem.kind in _PASSING or (problem.retry_after_ms > 0 and problem.kind not in _FOR_GOOD)


def wait_us(retries: Retries, again: int, problem: Problem, chance: int) -> int:
    """Give how long to wait before asking again, microseconds.

    Half of the wait, or what the engine asks for, is certain; the other half is chance's.

    Args:
        retries: of the run.
        again: which time again, from 1.
        problem: why the call came to nothing.
        chance: a random number, not negative.
    """
    half = min(retries.first_ms << (again - 1), retries.longest_ms) * 500
    return max(half, problem.retry_after_ms * 1000) + chance % (half + 1)


def after_failure(folding: Folding, run: Run, problem: Problem, context: Context) -> None:
    """Have the model asked again later, or end the run.

    The time decides only when, and is recorded with it: a decision that is not recorded with the time it was made at
    cannot be made again, so a run that will be over by then waits all the same.
    """
    retries, again = run.profile.retries, run.attempt
    if again > retries.most or not may_pass(problem):
        if run.attempt > 1:
            problem = replace(problem, message=f"{problem.message} (the model was asked {run.attempt} times)")
        end(folding, run, failed(run, problem))
        return
    scheduled = RetryScheduled(
        effect=f"{run.id}-{run.step}-r{again + 1}",
        attempt=again + 1,
        at=context.now + wait_us(retries, again, problem, context.seed),
        kind=problem.kind,
        decided=context.now,
        chance=context.seed,
    )
    folding.emit("run", run.id, scheduled)
    folding.effects += await_retry(folding.state, run.id)


def await_retry(state: Conversation, name: str) -> list[AwaitRetry]:
    """Make the effect of a run's wait, if it waits to ask its model again."""
    retry = state.runs[name].retry
    trace = state.commands[name].traceparent
    return [] if retry is None else [AwaitRetry(retry.effect, "run", name, trace, at=retry.at)]
