"""Clients under fire that want of agents what a calculator does not need: each kind of effect is an errand.

A scripted model does what their messages say. What a run waits for they give it twice, as two commands.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from bus.errors import BusError
from infra.follow import attend, send
from schemas import codec
from schemas.commands import AbortRun, Approve, Command, CommandData, PostResult, Resume, RunAgent
from schemas.live import Committed, Delta, Frame, Outcome
from schemas.runs import ApprovalRequested, ToolCalled
from schemas.schedules import AddSchedule, FireSchedule, PauseSchedule, Schedule
from schemas.waits import ToolHandedOver, ToolSuspended
from tests.chaos.load import AGAIN_S, ANSWER_S, Asked, Client, Ledger, Line, question
from tests.chaos.neighbour import BACK, FOREIGN

TENANT = "default"
ELSEWHERE = frozenset({"service once", "service again", "MCP"})
"""Errands whose tools are of processes that may be away when a run begins: then it is refused."""
TITLE_S = 20.0


class Turn(NamedTuple):
    """One question of an errand; `{}` stands for what it is about."""

    agent: str
    text: str
    expected: str


_MEMORY = Turn("rememberer", "use update_working_memory {}", "rememberer says")
_SAID = Turn("rememberer", "hello {}", "rememberer says")
ERRANDS = {
    "approval": (Turn("payer", "use pay {}", "payer says {} done"),),
    "caller": (Turn("lender", "use lend {}", "lender says {} lent"),),
    "data": (Turn("asker", "use ask {}", "asker says {} yes done"),),
    "sub-agent": (Turn("chief", "use helper {}", "chief says helper says {} done"),),
    "handoff": (
        Turn("front", "use hand_over_to_back {}", "back says The conversation is back's"),
        Turn("front", "use note {}", "back says {} done"),
    ),
    "background": (Turn("digger", "use dig {}", "digger says It goes on in the background"),),
    "service once": (Turn("poster", "use post {}", "poster says {} done"),),
    "service again": (Turn("fetcher", "use fetch {}", "fetcher says {} done"),),
    "MCP": (Turn("stamper", "use stamp {}", "stamper says {} done"),),
    "judge": (Turn("judged", "use note {}", "judged says {} done"),),
    "translator": (Turn("linguist", FOREIGN + "use note {}", BACK + "linguist says {} done"),),
    "memory": (_MEMORY, _SAID, _MEMORY, _SAID),
    "disowned": (Turn("orphaner", "use payer {}", ""),),
    "schedule": (),
}


class Errander(Client):
    """Does one errand after the other, all kinds in an order by chance, until told to stop."""

    def __init__(self, line: Line, ledger: Ledger, number: int, seed: int, duplicates: bool) -> None:
        super().__init__(line, ledger, number, seed, duplicates)
        self._name = f"errand-{seed}-{number}"
        self._chance = random.Random(self._name)
        self._errands = 0
        self._fires = 0

    async def run(self) -> None:
        """Do errands, then see that what was begun beside them comes to its end."""
        left: list[str] = []
        remembered = ""
        try:
            while not self.stopping.is_set():
                left = left or self._chance.sample([*ERRANDS], len(ERRANDS))
                kind = left.pop()
                self._errands += 1
                thread = f"{self._name}-{self._errands}"
                if kind == "schedule":
                    await self._fire()
                for turn in ERRANDS[kind]:
                    await self._ask(kind, turn, thread)
                remembered = thread if kind == "memory" else remembered
            if self._fires:
                await self._tell(self._schedule, PauseSchedule(), f"{self._schedule}-pause")
            if remembered:
                # what a crash cut off is found after the next turn
                await self._ask("memory", _SAID, remembered)
                await self._entitled(remembered)
        finally:
            await self._line.close()

    async def _ask(self, kind: str, turn: Turn, thread: str) -> None:
        what = f"{self._name}-{self._errands}-{len(self._ledger.asked)}"
        command = question(turn.agent, turn.text.format(what), thread)
        about = {"approvals": "ask", "context": {"what": what}, "resource": self._name if kind == "memory" else ""}
        command = msgspec.structs.replace(command, data=msgspec.structs.replace(command.data, **about))
        asked = Asked(command, turn.expected.format(what), kind=kind)
        await self.see_through(asked)
        for frame in asked.heard:
            if frame.type == "task.started":
                await self._hear_out(thread, f"{asked.command.id}-1-t0b")

    def note(self, asked: Asked, frame: Frame) -> None:
        """Take in what is heard, and have it answered where the run waits for that."""
        if isinstance(frame, Outcome) and frame.problem is not None and asked.kind in ELSEWHERE:
            assert frame.problem.kind == "definition", frame
            asked.refused = asked.over = True
            return
        super().note(asked, frame)
        said = answer_to(asked, frame) if isinstance(frame, Committed) else None
        if said is not None:
            names = (f"{asked.command.id}-a{len(asked.answers) + more}" for more in (0, 1))
            asked.answers += [_command(name, asked.command.thread, said) for name in names]

    async def _fire(self) -> None:
        """Have the clock's agent asked now, and hear what it says."""
        if not self._fires:
            schedule = Schedule(cron="* * * * *", agent="clockwork", text=f"use note {self._schedule}")
            await self._tell(self._schedule, AddSchedule(schedule=schedule), f"{self._schedule}-add")
        self._fires += 1
        run = f"{self._schedule}-n{self._fires}"
        await self._tell(self._schedule, FireSchedule(), f"fire-{run}")
        await self._hear_out(run, run)

    @property
    def _schedule(self) -> str:
        return f"clock-{self._name}"

    async def _tell(self, schedule: str, data: CommandData, name: str) -> None:
        """Tell a schedule something, until it has heard."""
        command = _command(name, schedule, data, "schedule")
        self.at = f"{name} to be heard by {schedule}"
        while True:
            try:
                connection, _ = await self._line.open()
                outcome = await send(connection, command, ANSWER_S / 6)
                await self._send(connection, command)
            except (BusError, TimeoutError, OSError):
                await self._line.close()
                await asyncio.sleep(AGAIN_S)
            else:
                assert outcome.result == "accepted", outcome
                return

    async def _hear_out(self, thread: str, run: str) -> None:
        """Wait until a run that somebody else began is over."""
        command = _command(run, thread, RunAgent(agent=""))
        self.at = f"{run} in {thread}, begun by somebody else"
        while True:
            try:
                connection, late = await self._line.open()
                async for _ in attend(connection, late.read_back, command, _no_frames, timeout_s=ANSWER_S):
                    pass
            except (BusError, TimeoutError, OSError):
                await self._line.close()
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def _entitled(self, thread: str) -> None:
        """Wait until a thread has its title."""
        self.at = f"a title of {thread}"
        _, late = await self._line.open()
        store = await late.opened()
        async with asyncio.timeout(TITLE_S):
            while True:
                if any(event.fact.type == "thread.renamed" for event in await store.events_of_thread(TENANT, thread)):
                    return
                await asyncio.sleep(AGAIN_S)


def answer_to(asked: Asked, frame: Committed) -> CommandData | None:
    """Give what a run that waits is to be told; of one that is to be disowned, that it is over."""
    event = codec.decode_event(frame.data)
    match event:
        case ApprovalRequested(effect=effect, call=call):
            return Approve(effect=effect, arguments=call.arguments)
        case ToolSuspended(effect=effect):
            return Resume(effect=effect, answer="yes")
        case ToolHandedOver(effect=effect):
            return PostResult(effect=effect, content=f"{asked.command.data.context['what']} lent")
        case ToolCalled() if asked.kind == "disowned":
            return AbortRun(run=asked.command.id)
        case _:
            return None


def _command(name: str, thread: str, data: CommandData, kind: str = "agent") -> Command:
    verb = str(data.__struct_config__.tag)
    return Command(id=name, tenant=TENANT, kind=kind, thread=thread, verb=verb, data=data, source="chaos")


async def _no_frames(_effect: str) -> Sequence[Delta]:
    """Tell nothing of what was said: only the end is wanted."""
    return ()
