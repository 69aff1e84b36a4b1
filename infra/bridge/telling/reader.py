"""A run's frames as the pieces that there are to tell of it. Pure: the same frames give the same pieces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, assert_never

import msgspec

from infra.bridge.telling.answers import Telling
from infra.bridge.telling.below import Below, FromBelow, Heard
from infra.bridge.telling.pieces import (
    Answered,
    CallGrew,
    CallOpened,
    CallWhole,
    Failed,
    Finished,
    Paused,
    Piece,
    Progressed,
    Remembered,
    RunBegan,
    Settled,
    StepBegan,
    StepEnded,
    StepReset,
    Waits,
)
from infra.running import Waiting
from schemas import codec
from schemas.delegation import RunJoined
from schemas.live import Committed, Delta, Outcome, Progress
from schemas.messages import ToolCall, Usage
from schemas.profiles import Profile
from schemas.runs import (
    ApprovalDenied,
    ApprovalGiven,
    ApprovalRequested,
    Event,
    ModelCalled,
    ModelFailed,
    ModelReturned,
    Problem,
    RetryScheduled,
    RunFailed,
    RunFinished,
    RunStarted,
    ToolCalled,
    ToolFailed,
    ToolIndeterminate,
    ToolResult,
    ToolReturned,
)
from schemas.waits import ToolContinued, ToolHandedOver, ToolSuspended


class RunReader:
    """Reads one run."""

    def __init__(self) -> None:
        self.version = 0
        """Of the last event."""
        self.problem: Problem | None = None
        """Why its command was not taken on."""
        self.over = False
        """Whether nothing more happens."""
        self._began = False
        self._thread = ""
        self._step = 0
        """The one that is open; 0 is none."""
        self._last_step = 0
        self._guarded = False
        """Whether the agent that runs may call something else than its model writes."""
        self._telling: Telling | None = None
        self._pending: dict[str, ToolCall] = {}
        """Calls of the step that are not settled."""
        self._calls: dict[str, ToolCall] = {}
        """By effect."""
        self._waits: dict[str, Waiting] = {}
        self._denied: set[str] = set()
        self._answers: set[str] = set()
        """Effects of waits whose answers are on their way."""
        self._pause_told = False
        self._beneath: dict[str, str] = {}
        """Calls of other agents' runs that have waited and have not ended, with the call that they are beneath."""
        self._from_below: set[tuple[int, int]] = set()
        self._asked_below = False
        """Whether the step that is open is there for such calls."""

    @property
    def waits(self) -> tuple[Waiting, ...]:
        """What the run waits for."""
        return tuple(wait for effect, wait in self._waits.items() if effect not in self._answers)

    @property
    def paused(self) -> bool:
        """Whether nothing happens until somebody answers."""
        waits = {wait.effect for wait in self.waits}
        busy = {above for effect, above in self._beneath.items() if effect not in waits}
        held = {self._beneath.get(effect, effect) for effect in waits} - busy
        return bool(held) and {self._calls[effect].id for effect in held} >= self._pending.keys()

    @property
    def open_calls(self) -> dict[str, bool]:
        """The effects of calls that have not ended, and whether calls of other agents' runs wait beneath."""
        if not self._pending:
            return {}
        above = set(self._beneath.values())
        return {effect: effect in above for effect, call in self._calls.items() if call.id in self._pending}

    @property
    def calls_below(self) -> list[tuple[ToolCall, Waiting | None]]:
        """Calls of other agents' runs that have waited and have not ended, and what they wait for now.

        Those whose answers are on their way are left out.
        """
        return [
            (self._calls[effect], self._waits.get(effect)) for effect in self._beneath if effect not in self._answers
        ]

    def expect(self, effects: Iterable[str]) -> None:
        """Note that answers to what waits are on their way: it is nobody's turn to answer until they are there."""
        self._answers |= set(effects)
        self._pause_told = self.paused

    def feed(self, frame: Heard) -> list[Piece]:
        """Give what one frame adds."""
        match frame:
            case Outcome(problem=problem):
                self.problem = self.problem or problem
                return []
            case Delta():
                return self._heard(frame)
            case Progress(effect=effect, n=number, data=data):
                call = self._calls.get(effect)
                return [] if call is None else [Progressed(call.id, effect, number, data)]
            case Committed():
                return self._committed(frame)
            case Below(events=events):
                pieces = [piece for event in events for piece in self._below(event)]
                return [*pieces, *self._pause()]
            case _:
                assert_never(frame)

    def _heard(self, delta: Delta) -> list[Piece]:
        if self._telling is None or self._telling.effect != delta.effect or delta.choice:
            return []
        return self._telling.hear(delta)

    def _committed(self, frame: Committed) -> list[Piece]:
        self.version, self._thread = max(self.version, frame.version), frame.thread
        pieces: list[Piece] = [] if self._began else [RunBegan()]
        self._began = True
        event = codec.decode_event(frame.data)
        self._note_who_runs(event)
        pieces += self._model(event) or self._wait(event) or self._end(event)
        return [*pieces, *self._pause()]

    def _note_who_runs(self, event: Event) -> None:
        match event:
            case RunStarted(profile=profile) | ToolReturned(handover=Profile() as profile):
                self._guarded = profile.guards_calls
            case _:
                pass

    def _model(self, event: Event) -> list[Piece]:
        match event:
            case ModelCalled(effect=effect, step=step):
                self._telling = Telling(effect, guarded=self._guarded)
                if step == self._step:
                    return []
                return self._stepped(step)
            case ModelReturned() if self._telling is not None:
                pieces = self._telling.complete(event)
                self._pending = {call.id: call for call in event.tool_calls}
                return pieces
            case ModelFailed() if self._telling is not None:
                return self._telling.cut()
            case RetryScheduled() if self._telling is not None and self._telling.begun:
                return [StepReset()]
            case _:
                return []

    def _wait(self, event: Event) -> list[Piece]:
        match event:
            case ToolCalled(effect=effect, call=call):
                self._calls[effect] = call
                return []
            case ApprovalRequested() | ToolHandedOver() | ToolSuspended():
                return self._waiting(event, self._thread)
            case ApprovalGiven() | ApprovalDenied() | ToolContinued():
                return self._answered(event)
            case ToolReturned() | ToolFailed() | ToolIndeterminate():
                return self._settled(event)
            case _:
                return []

    def _waiting(self, event: ApprovalRequested | ToolHandedOver | ToolSuspended, thread: str) -> list[Piece]:
        if isinstance(event, ToolSuspended):
            told = (event.payload, event.schema, event.problem)
            wait = Waiting("data", thread, event.effect, self._calls[event.effect], *told)
        else:
            kind: Literal["approval", "caller"] = "approval" if isinstance(event, ApprovalRequested) else "caller"
            wait = Waiting(kind, thread, event.effect, event.call)
        self._calls[wait.effect] = wait.call
        self._waits[wait.effect] = wait
        return [Waits(wait)]

    def _answered(self, event: ApprovalGiven | ApprovalDenied | ToolContinued) -> list[Piece]:
        self._waits.pop(event.effect, None)
        if isinstance(event, ToolContinued):
            return []
        if isinstance(event, ApprovalGiven):
            return [Answered(event.effect, True)]
        self._denied.add(event.effect)
        return [Answered(event.effect, False, event.reason)]

    def _settled(self, event: ToolResult) -> list[Piece]:
        self._waits.pop(event.effect, None)
        self._pending.pop(event.call_id, None)
        cut = [one for effect, above in [*self._beneath.items()] if above == event.effect for one in self._cut(effect)]
        return [*cut, *self._result(event, (event.call_id, event.effect))]

    def _result(self, event: ToolResult, told: tuple[str, str]) -> list[Piece]:
        if isinstance(event, ToolReturned):
            done = Settled(*told, "returned", event.content, event.result)
            return [done, *(Remembered(write) for write in event.writes)]
        return [Settled(*told, "denied" if event.effect in self._denied else "failed", event.content)]

    def _end(self, event: Event) -> list[Piece]:
        match event:
            case RunFinished(text=text, finish_reason=reason, usage=usage, steps=steps):
                return [*self._over(), Finished(text, reason, usage, steps)]
            case RunFailed(problem=problem, usage=usage):
                return [*self._over(), Failed(problem, usage)]
            case RunJoined():
                return [*self._over(), Finished("", "stop", Usage(), 0)]
            case _:
                return []

    def _over(self) -> list[Piece]:
        self.over = True
        cut = [] if self._telling is None else self._telling.cut()
        self._waits, self._pending, self._beneath = {}, {}, {}
        return [*cut, *self._ended()]

    def _stepped(self, step: int) -> list[Piece]:
        ended = self._ended()
        self._step = self._last_step = step
        return [*ended, StepBegan(step)]

    def _ended(self) -> list[Piece]:
        self._asked_below = False
        step, self._step = self._step, 0
        return [StepEnded(step)] if step else []

    def _pause(self) -> list[Piece]:
        """End the step where all that is left of it waits: its client is to speak now."""
        told, self._pause_told = self._pause_told, self.paused
        return [*self._ended(), Paused(self.waits)] if self.paused and not told else []

    def _below(self, told: FromBelow) -> list[Piece]:
        """Take what another agent's run says; the same may be read again and again."""
        above = self._calls.get(told.effect)
        if told.place in self._from_below or above is None or above.id not in self._pending:
            return []
        self._from_below.add(told.place)
        event = told.event
        match event:
            case ToolCalled(effect=effect, call=call):
                # its own id may be that of a call here
                self._calls[effect] = msgspec.structs.replace(call, id=effect)
                return []
            case ApprovalRequested() | ToolHandedOver() | ToolSuspended():
                return self._waiting_below(event, told)
            case ApprovalGiven() | ApprovalDenied() | ToolContinued() if event.effect in self._beneath:
                return self._answered(event)
            case ToolReturned() | ToolFailed() | ToolIndeterminate() if event.effect in self._beneath:
                return self._ended_below(event)
            case _:
                return []

    def _waiting_below(self, event: ApprovalRequested | ToolHandedOver | ToolSuspended, told: FromBelow) -> list[Piece]:
        """Tell of the call, as if it were one of a step of its own: nobody here has heard of it."""
        known = event.effect in self._beneath
        self._beneath[event.effect] = told.effect
        if not isinstance(event, ToolSuspended):
            event = msgspec.structs.replace(event, call=msgspec.structs.replace(event.call, id=event.effect))
        waits = self._waiting(event, told.thread)
        if known:
            return waits
        call, pieces = self._calls[event.effect], list[Piece]()
        if not self._asked_below:
            pieces += self._stepped(self._last_step)
            self._asked_below = True
        pieces += [CallOpened(call.id, call.name), CallGrew(call.id, call.arguments), CallWhole(call)]
        return [*pieces, *waits]

    def _ended_below(self, event: ToolResult) -> list[Piece]:
        self._waits.pop(event.effect, None)
        del self._beneath[event.effect]
        return [one for one in self._result(event, (event.effect, event.effect)) if isinstance(one, Settled)]

    def _cut(self, effect: str) -> list[Piece]:
        """Tell the end of a call beneath one that has ended."""
        self._waits.pop(effect, None)
        del self._beneath[effect]
        return [Settled(effect, effect, "failed", "the run that made this call is over")]
