"""A scheduler step as a line: who was computed, who came and went, and what became of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bus import subjects
from bus.steps import StoredPlan
from infra.cli.terminal import PLAIN, Style, printable
from schemas import codec
from schemas.programs import ProgramEnded, ProgramNote, ToolBegan, ToolEnded
from schemas.steps import Aborted, Expired, Forgot, Noted, Resynced, Stalled, StepPlan, StepResult, Submitted, Told
from schemas.times import rfc3339


class Begun(msgspec.Struct, frozen=True):
    """A request that begins in a step, or is told afresh."""

    request: str
    tokens: int
    cached: int
    """Positions whose KV entries were there already."""


class EngineStep(msgspec.Struct, frozen=True):
    """One step of an engine."""

    engine: str
    scheduler: str
    step: int
    time: str
    batch: int
    """Requests computed in it."""
    positions: int
    """Positions computed in it."""
    blocks: int
    """KV blocks that requests got in it."""
    requests: tuple[str, ...]
    """Those computed, in the order of the batch."""
    begins: tuple[Begun, ...]
    gone: tuple[str, ...]
    """Requests that left since the step before."""
    preempted: tuple[str, ...]
    """Those of them whose blocks another one needed."""
    decided: tuple[str, ...]
    """What was decided about programs."""
    told: tuple[str, ...]
    """What else the scheduler was told since the step before."""
    sampled: int | None
    """Tokens that came of it; None if no result is recorded."""
    compute_us: int | None
    errors: tuple[str, ...]
    worker: str = ""
    """Who computed it."""
    profile: str = ""
    """The kernel profile it computed with; empty if no record says so."""

    def text(self, style: Style = PLAIN) -> str:
        """Write it for a terminal."""
        took = "no result" if self.compute_us is None else f"{self.compute_us / 1000:.1f} ms"
        blocks = f"  {self.blocks} new blocks" if self.blocks else ""
        head = f"step {self.step:<7} {self.time[11:23]}  batch {self.batch:<4} positions {self.positions:<5} {took}"
        more = [f"begins {one.request} ({one.tokens} tokens, {one.cached} cached)" for one in self.begins]
        more += [f"preempted {name}" for name in self.preempted]
        more += [f"gone {name}" for name in self.gone if name not in self.preempted]
        more += [*self.decided, *self.told, *self.errors]
        return "\n".join([f"{head}{blocks}", *(f"    {style.aside(printable(line))}" for line in more)])


class EngineStall(msgspec.Struct, frozen=True):
    """A time in which there was work and no step came to an end, or the end of it."""

    engine: str
    scheduler: str
    after_step: int
    time: str
    quiet_s: float
    over: bool
    chain: str
    reasons: tuple[tuple[str, str], ...]

    def text(self, style: Style = PLAIN) -> str:
        """Write it for a terminal."""
        what = "moves again" if self.over else "stands still"
        head = f"{what:<12} {self.time[11:23]}  no step had ended for {self.quiet_s:.1f} s: {printable(self.chain)}"
        shown = () if self.over else self.reasons
        return "\n".join([head, *(f"    {style.aside(printable(f'{who} waits for {why}'))}" for who, why in shown)])


def engine_stall(stored: StoredPlan) -> EngineStall:
    """Tell a stall.

    Raises:
        BadShape: it cannot be read.
    """
    stalled: Stalled = codec.decode(stored.payload, Stalled)
    return EngineStall(
        engine=subjects.decoded(stored.engine),
        scheduler=stored.epoch,
        after_step=stalled.n,
        time=rfc3339(stalled.time),
        quiet_s=stalled.quiet_ms / 1000,
        over=stalled.over,
        chain=stalled.chain,
        reasons=stalled.reasons,
    )


def engine_step(stored: StoredPlan, results: Sequence[StepResult], profile: str = "") -> EngineStep:
    """Tell a step of its plan, and of its result if there is one; `profile` is what it was computed with.

    Raises:
        BadShape: the plan cannot be read.
    """
    plan: StepPlan = codec.decode(stored.payload, StepPlan)
    result = results[0] if results else None
    return EngineStep(
        engine=subjects.decoded(stored.engine),
        scheduler=stored.epoch,
        step=plan.n,
        time=rfc3339(plan.time),
        batch=len(plan.slices),
        positions=sum(part.count for part in plan.slices),
        blocks=sum(len(part.blocks) for part in plan.slices),
        requests=tuple(part.request for part in plan.slices),
        begins=tuple(Begun(one.request, len(one.tokens), one.computed) for one in plan.arrivals),
        gone=plan.gone,
        preempted=plan.preempted,
        decided=tuple(f"{one.what} {one.program}: {one.why}" for one in plan.decisions),
        told=_all_told(plan.told),
        sampled=None if result is None else len(result.tokens),
        compute_us=None if result is None else result.compute_us,
        errors=() if result is None else tuple(f"error of {name}: {message}" for name, message in result.errors),
        worker="" if result is None else result.worker,
        profile=profile,
    )


def _all_told(told: Sequence[Told]) -> tuple[str, ...]:
    said = [_noted(one.note) if isinstance(one, Noted) else _told(one) for one in told]
    return tuple(filter(None, said))


def _told(told: Told) -> str:
    match told:
        case Submitted(submit=submit):
            return f"submitted {submit.request}" if submit.prompt else ""
        case Aborted(request=request):
            return f"aborted {request}"
        case Expired():
            return "requests came to their deadlines"
        case Resynced(worker=worker, blocks=blocks):
            return f"worker {worker} asked for a full plan ({blocks} blocks)"
        case Forgot():
            return "the prefix cache was emptied"
        case _:
            return ""


def _noted(note: ProgramNote) -> str:
    match note:
        case ToolBegan(program=program, tool=tool):
            return f"{program} waits for {tool}"
        case ToolEnded(program=program):
            return f"a tool of {program} returned"
        case ProgramEnded(program=program):
            return f"{program} is over"
