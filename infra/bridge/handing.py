"""Runs whose clients carry tools out, by protocols that know of requests and answers alone.

Such a run is several requests: an answer ends with calls where nothing happens until the client has carried them out,
and the next request brings their results. Their ids say where to, so clients keep nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, cast

from msgspec.structs import replace
from starlette.requests import Request

from bus.steps import frames_of_call
from infra.bridge.asked_of_agents import LEFT_OUT
from infra.bridge.desk import Around, Desk
from infra.bridge.doors import house_of
from infra.bridge.exchange import Exchange
from infra.bridge.handed import Handed, Results, Resumed, Told, call_id, results_in
from infra.bridge.openai import ONLY_ONCE, THREAD_HEADER, BadRequest
from infra.bridge.ownership import keep_to_own
from infra.bridge.telling.below import Below, Heard, together_with_what_is_below
from infra.bridge.telling.counter import FOLLOWED_S, sent
from infra.bridge.telling.pieces import Paused
from infra.bridge.telling.reader import RunReader
from infra.bridge.telling.recorded import Record, RecordedRun
from infra.follow import attend
from infra.running import Waiting
from schemas import codec
from schemas.commands import Command, PostResult, RunAgent
from schemas.live import Committed, Delta, Frame
from schemas.messages import Usage, added
from schemas.runs import Event, ModelFailed, ModelReturned, ToolFailed, ToolIndeterminate, ToolReturned
from schemas.waits import ToolHandedOver

_TOOK: Final = {
    "model.returned": ModelReturned,
    "model.failed": ModelFailed,
    "tool.returned": ToolReturned,
    "tool.failed": ToolFailed,
}

FIRST: Final = "first"
"""Where a result notes the command by which its client knows the answer, if that is another one."""


class Turn:
    """Reads a run up to its end, or to where its client is to act."""

    def __init__(self, thread: str) -> None:
        """Begin with a run in a thread."""
        self.reader = RunReader()
        self.over = False
        """Whether the client is to act."""
        self._thread = thread
        self._taken = Resumed(Usage(), 0.0)
        """By now."""
        self._before = self._taken

    def feed(self, frame: Heard) -> list[Told]:
        """Give what the client hears of one frame."""
        if self.over:
            return []
        told: list[Told] = [] if isinstance(frame, Below) else [frame]
        self._count(frame)
        for piece in self.reader.feed(frame):
            if isinstance(piece, Paused):
                self.over = True
                calls = tuple(replace(wait.call, id=call_id(wait.effect, self._thread)) for wait in piece.waits)
                taken, before = self._taken, self._before
                told.append(Handed(calls, taken.usage - before.usage, added(taken.cost, _negative(before.cost))))
        return told

    def go_on(self, answered: Iterable[str]) -> Resumed:
        """Go on behind what was read: the client acts, with results of calls with these effects."""
        self.reader.expect(answered)
        self.over, self._before = False, self._taken
        return self._taken

    def _count(self, frame: Heard) -> None:
        shape = _TOOK.get(frame.type) if isinstance(frame, Committed) else None
        if shape is not None and isinstance(frame, Committed):
            event: ModelReturned | ModelFailed | ToolReturned | ToolFailed = codec.decode(frame.data, shape)
            self._taken = Resumed(self._taken.usage + event.usage, added(self._taken.cost, event.cost))


def _negative(cost: float | None) -> float | None:
    return None if cost is None else -cost


async def in_turn(
    desk: Around, command: Command, frames: AsyncGenerator[Sequence[Frame]], turn: Turn | None = None
) -> AsyncGenerator[Sequence[Told]]:
    """Pass a run's frames on up to its end, or to where its client is to act."""
    turn = turn or Turn(command.thread)
    whose = (command.tenant, command.thread)
    passing = together_with_what_is_below(frames, desk, whose, lambda: turn.reader.open_calls)
    async with aclosing(passing) as passed:
        async for several in passed:
            told = [one for frame in several for one in turn.feed(frame)]
            if told:
                yield told
            if turn.over:
                return


def heard(desk: Around, request: Request, data: RunAgent) -> RunAgent:
    """Leave out what a client instructs an agent that is not open to it, and how hard that is to think, or refuse it,
    as the settings say; `left_out` tells of it. Clients say both to whatever they talk to.

    Raises:
        BadRequest: it is to be refused.
    """
    agent = next((one for one in desk.offered if one.name == data.agent), None)
    closed = {} if agent is None else {name: nothing for name, nothing in _HINTS.items() if name not in agent.open_to}
    names = [name for name, nothing in closed.items() if getattr(data, name) != nothing]
    if names and house_of(request).limits.unopened == "refuse":
        param = "messages" if names[0] == "system" else names[0]
        message = f"{param}: this agent keeps its own: leave it out, or open it there (`open_to` has {names[0]!r})"
        raise BadRequest(400, message, param, "invalid_value")
    request.state.left_out = names
    return replace(data, **{name: closed[name] for name in names})


_HINTS: Final[dict[str, str | None]] = {"system": "", "reasoning_effort": None}
"""Fields without which a client is served well enough, and what says nothing."""


def left_out(request: Request) -> dict[str, str]:
    """Give the header that says what of a request was left out, where there is anything."""
    names = getattr(request.state, "left_out", ())
    return {LEFT_OUT: ", ".join(names)} if names else {}


def thread_for(data: RunAgent, given: str | None) -> str | None:
    """Say in which thread a request goes on: the one that it names, or that of the calls whose results it brings.

    Raises:
        BadRequest: those are two.
    """
    try:
        results = results_in(data.messages)
    except ValueError as error:
        raise BadRequest(400, f"messages: {error}", "messages", "invalid_value") from error
    if results is None or given in {None, results.thread}:
        return given if results is None else results.thread
    message = f"{THREAD_HEADER}: these are results of thread {results.thread!r}: leave it out"
    raise BadRequest(400, message, THREAD_HEADER, "invalid_value")


def met(desk: Desk, request: Request, exchange: Exchange) -> Exchange:
    """Have an exchange go on with the run whose calls its client answers, if that is what it does; and say what of the
    request was left out."""
    if told := left_out(request):
        exchange.headers[LEFT_OUT] = ", ".join([*told.values(), *filter(None, [exchange.headers.get(LEFT_OUT)])])
    data = exchange.commands[0].data
    results = results_in(data.messages) if isinstance(data, RunAgent) else None
    if results is not None:
        going = _Going(desk, request, results)
        exchange.source = going.on
    return exchange


@dataclass(frozen=True)
class _Going:
    """A run that goes on."""

    desk: Desk
    request: Request
    results: Results

    async def on(self, command: Command) -> AsyncGenerator[Sequence[Told]]:
        """Give the run the results, and pass on what comes of it; what was given before is told again.

        Raises:
            BadRequest: nothing of this was ever waited for, or nothing can be taken now.
        """
        run = await self._run(command)
        waits = [wait for wait in run.reader.waits if wait.kind == "caller" and wait.effect in self.results.contents]
        turn, rest = self._reached(run)
        if waits:
            await self._give(command, run.command, waits)
        yield [turn.go_on(self.results.contents)]
        if told := [one for frame in rest for one in turn.feed(frame)]:
            yield told
        if turn.over or turn.reader.over:
            return
        async with aclosing(in_turn(self.desk, run.command, self._live(run.command, turn), turn)) as passed:
            async for several in passed:
                yield several

    async def _run(self, command: Command) -> RecordedRun:
        """Find the run that the results are for.

        Raises:
            BadRequest: there is none, or it is in a thread that is not the caller's.
        """
        await keep_to_own(self.desk, self.request, self.results.thread)
        answered, thread = frozenset(self.results.contents), self.results.thread
        run = await Record(self.desk).waiting_run(command.tenant, thread, answered)
        if run is None or not any(_hands_over(frame, answered) for frame in run.events):
            message = "messages: nothing that these results answer is waited for"
            refused = BadRequest(409, message, "messages", "not_waiting")
            refused.headers |= ONLY_ONCE
            raise refused
        return run

    def _reached(self, run: RecordedRun) -> tuple[Turn, list[Heard]]:
        """Read a run up to where these results are wanted, or the first of them was given; give what came after."""
        events = list(run.events)
        settling = (at for at, frame in enumerate(events) if _settles(frame, self.results.contents))
        given = next(settling, len(events))
        turn = Turn(run.command.thread)
        for frame in events[:given]:
            turn.feed(frame)
            turn.over = False
        return turn, events[given:]

    async def _give(self, command: Command, run: Command, waits: Sequence[Waiting]) -> None:
        commands = list[Command]()
        if self.results.said:
            # before the results: the step that they lead to takes it along
            agent = run.data.agent if isinstance(run.data, RunAgent) else ""
            said = RunAgent(agent=agent, messages=self.results.said, when_busy="steer")
            commands.append(self.desk.command(self.request, said, run.thread))
        note = command.data.note if isinstance(command.data, RunAgent) else {}
        for at, wait in enumerate(waits):
            # the first has the name by which the client knows the answer
            one = self.desk.command(self.request, RunAgent(agent=""), wait.thread) if at else command
            beside = {FIRST: command.id} if at else note
            data = PostResult(wait.effect, self.results.contents[wait.effect], note=beside)
            commands.append(replace(one, thread=wait.thread, verb="result", data=data))
        await sent(self.desk, commands)

    async def _live(self, run: Command, turn: Turn) -> AsyncGenerator[Sequence[Frame]]:
        async def frames_of(effect: str) -> Sequence[Delta]:
            return (await frames_of_call(await self.desk.store(), run.tenant, "run", run.id, effect)).deltas

        about = (self.desk.connection, self.desk.read_back, run, frames_of)
        frames = attend(*about, timeout_s=FOLLOWED_S, after=turn.reader.version)
        async with aclosing(cast("AsyncGenerator[Frame]", frames)) as attended:
            async for frame in attended:
                yield (frame,)


def gone_on(desk: Desk, request: Request, command: Command) -> AsyncGenerator[Sequence[Told]] | None:
    """Tell again, and to its end, what an answer brought to a run; None of a command that brought none."""
    match command.data:
        case PostResult(effect=effect, content=content):
            results: Results | None = Results(command.thread, {effect: content}, ())
        case RunAgent(messages=messages):
            results = results_in(messages)
        case _:
            return None
    return None if results is None else _Going(desk, request, results).on(command)


def _hands_over(frame: Heard, effects: Collection[str]) -> bool:
    return any(isinstance(event, ToolHandedOver) and event.effect in effects for event in _events(frame))


def _settles(frame: Heard, effects: Collection[str]) -> bool:
    ends = (event for event in _events(frame) if isinstance(event, ToolReturned | ToolFailed | ToolIndeterminate))
    return any(event.effect in effects for event in ends)


def _events(frame: Heard) -> list[Event]:
    match frame:
        case Below(events=events):
            return [one.event for one in events]
        case Committed(data=data):
            return [codec.decode_event(data)]
        case _:
            return []
