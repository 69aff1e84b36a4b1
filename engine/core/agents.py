"""Who may begin, who is paused, and whose context is given up, where requests are turns of programs.

Past the point where the contexts of all live programs do not fit, whoever comes first evicts whoever waits for a tool,
and nearly all that is computed was computed before. So a program is admitted as a whole, with the memory that it is
expected to grow into, and where memory is lacking one program is paused as a whole: the one whose context is cheapest
to compute again for the time until it is wanted. Neither a wait nor a growth is known before; both are learned.

What it decides depends on what it was told and on the times at which plans were made, all of which is recorded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import inf
from operator import add, attrgetter
from typing import Final

from engine.config import SchedulerConfig
from engine.core.expectations import TURNS_AHEAD
from engine.core.memory import Memory
from engine.core.programs import Program, Programs
from engine.core.ranked import Ranked, Rules
from engine.core.request import LEFT, Request
from engine.core.retention import Retention
from engine.core.tips import Tips
from schemas.generation import Submit
from schemas.programs import Decision, ProgramEnded, ProgramNote, ToolBegan, ToolEnded

_NEAR_US: Final = 8_000_000
"""A program that waits for longer than this holds the less of the memory that is reserved, the longer it does."""
_LOOK_US: Final = 50_000
"""How long it takes for the passing of time alone to be a reason to look again who may begin."""
_PATIENCE_US: Final = 120_000_000
"""A program that waited for so long is admitted whatever the memory, one such at a time."""
_DEEP: Final = 8192
"""Positions into a context at which computing one costs twice as much as at its beginning."""
_MOST: Final = 4096
"""Programs that something is remembered of, beside those with a turn."""
_EPSILON_US: Final = 50_000
_AWAY: Final = 0.05
"""A program that counts less than this is admitted no more: its next turn must be again."""


class Agents:
    """The policy `agents`, beside a scheduler that asks it what the others decide by rank."""

    def __init__(self, config: SchedulerConfig, memory: Memory) -> None:
        self._config = config
        self.programs = Programs()
        self._retention = Retention()
        self.overwritten = self._retention.overwritten
        """What was in a block is there no more."""
        self._tips = Tips()
        self._of: dict[str, Program] = {}
        """By request, those that are not over."""
        self._admitted: dict[str, Program] = {}
        self._decisions: list[Decision] = []
        self._now = 0
        """As of the plan that is being made, or of the last thing that is recorded."""
        self._recorded = 0
        self._news = True
        """Whether something was told since it was last looked who may begin."""
        self._looked = 0
        self.is_changed = False
        """Whether this plan's making changed something, so that it must be recorded though no plan comes of it."""
        self._memory = memory
        memory.keeper = self

    # what is told

    def renew(self, memory: Memory) -> None:
        """There is a new memory, with nothing in it."""
        self._memory = memory
        memory.keeper = self
        self._retention.clear()
        for program in self._of.values():
            program.running = 0
        self._news = True

    def submitted(self, submit: Submit, request: Request, now: int) -> int:
        """A turn came; it ranks by when its program did."""
        self._tell(now)
        name, inferred = self._named(submit, request)
        program = self.programs.came(name, submit.agent, submit.priority, inferred=inferred)
        self.programs.turn_came(program, request.id, len(request.tokens), self._recorded)
        request.rank = (program.rank[0], program.rank[1], request.rank[1])
        self._of[request.id] = program
        while len(self.programs) > _MOST + len(self._of):
            self._forget_one()
        return now

    def begun(self, request: Request) -> None:
        """A turn has the blocks in which its beginning was found."""
        program = self._of[request.id]
        program.running += 1
        self._retention.begin(program, request.found(self._config.groups))

    def gives_way(self, request: Request) -> None:
        """A running turn is about to give its blocks up."""
        program = self._of[request.id]
        program.running -= 1
        self._memory.spend(self._retention.keep(program, self._known(request), self._now))
        self._pause(program, "its turn gave way to an older program's")

    def ends(self, request: Request) -> None:
        """A turn is about to end, and to give its blocks up."""
        program = self._of.pop(request.id)
        if request.state == "running":
            program.running -= 1
            self._memory.spend(self._retention.keep(program, self._known(request), self._recorded))
        self.programs.turn_ended(program, request.id, len(request.tokens), request.outputs, self._recorded)
        if program.inferred:
            self._tips.leave(request.keys[: request.entered + 1], program.name)
        if program.over and not program.requests:
            self._end(program)
        self._news = True

    def note(self, note: ProgramNote, now: int) -> bool:
        """Something is heard of a program between its turns; of one that is not known nothing matters."""
        program = self.programs.find(note.program)
        if program is None:
            return False
        self._tell(now)
        match note:
            case ToolBegan(call=call, tool=tool):
                self.programs.tool_began(program, call, tool, self._recorded)
            case ToolEnded(call=call):
                self.programs.tool_ended(program, call, self._recorded)
            case ProgramEnded():
                program.over = True
                if not program.requests:
                    self._end(program)
        return True

    def _tell(self, now: int) -> None:
        self._now = self._recorded = max(self._recorded, now)
        self._news = True

    def _named(self, submit: Submit, request: Request) -> tuple[str, bool]:
        """Say which program a turn belongs to: as it says, or that whose last turn it continues."""
        if submit.program:
            return submit.program, False
        self._memory.cache.extend(request.keys, request.tokens, len(request.tokens) // self._config.block_size)
        return self._tips.find(request.keys) or request.id, True

    def _known(self, request: Request) -> list[int]:
        """The blocks in which a request's context can be found again; some may be others than it holds."""
        cache = self._memory.cache
        found = cache.match(request.keys, request.tokens)
        tail, _ = cache.tail(request.keys, request.tokens, len(found) // self._config.groups)
        return [block for block in (*found, *tail) if block != LEFT]

    def _forget_one(self) -> None:
        for program in self.programs:
            if not program.requests:
                self.programs.forget(program)
                self._drop(program)
                return

    def _end(self, program: Program) -> None:
        self.programs.ended(program)
        self._drop(program)

    def _drop(self, program: Program) -> None:
        """A program is over, or is taken to be."""
        self._memory.spend(self._retention.drop(program, self._recorded))
        self._let_go(program)

    # who begins

    def begin_plan(self, now: int) -> None:
        """A plan is being made."""
        self._now = max(self._recorded, now)
        self.is_changed = False

    def in_turn(self, running: Collection[Request]) -> Sequence[Request]:
        """As they began."""
        return list(running)

    def keep_plan(self) -> None:
        """The making of the plan is recorded, with its time."""
        self._recorded = self._now

    def take(self) -> tuple[Decision, ...]:
        """The plan is made; give what was decided since the one before."""
        self.keep_plan()
        taken, self._decisions = tuple(self._decisions), []
        return taken

    def first(self, waiting: Iterable[Request], running: int) -> Request | None:
        """Say which waiting request begins next: one of an admitted program, or of one that is admitted now."""
        kept_out = None
        for request in waiting:
            if self._of[request.id].admitted:
                return request
            if kept_out is None:
                kept_out = request
        if kept_out is None:
            return None
        if running and not self._news and self._now - self._looked < _LOOK_US:
            return None
        self._looked, self._news, self.is_changed = self._now, False, True
        program = self._of[kept_out.id]
        why = self._admissible(program, kept_out, running)
        if not why:
            return None
        program.admitted, self._news = True, True
        self._admitted[program.name] = program
        self._decisions.append(Decision(program.name, "admitted", why))
        return kept_out

    def withheld(self, request: Request) -> str:
        """Say that its program is not admitted, where it is not."""
        program = self._of[request.id]
        if program.admitted:
            return ""
        return f"room for its program {program.name}: {len(self._admitted)} are admitted"

    def _admissible(self, program: Program, request: Request, running: int) -> str:
        """Say why a program may begin, or go on; empty if it may not."""
        if not running:
            return "nothing else runs"
        reserved, room = self._reserved(), self._room()
        wanted = self.programs.learned.outlook(program.agent, request.length, self._shared(request))
        peak = max(map(add, reserved, wanted))
        if peak <= room * self._config.reserved:
            return f"{int(wanted[0])} tokens beside {int(reserved[0])}, and at most {int(peak)} to come, of {room}"
        if not any(other.rank < program.rank for other in self._admitted.values()):
            return "it is the oldest"
        waited = self._now - program.queued
        if waited > _PATIENCE_US and not any(other.promoted for other in self._admitted.values()):
            program.promoted = True
            return f"it waited for {waited // 1_000_000} s"
        return ""

    def _shared(self, request: Request) -> int:
        """Count the tokens of a turn that other programs have in memory, too."""
        own = self._of[request.id]
        shared = 0
        for block in self._memory.cache.match(request.keys, request.findable):
            if not self._retention.is_of_others(block, own):
                break
            shared += 1
        return self._tokens(shared)

    def _reserved(self) -> list[float]:
        """Count the tokens that admitted programs are expected to have, now and after some turns."""
        total, away = [0.0] * len(TURNS_AHEAD), []
        for program in self._admitted.values():
            weight = self._weight(program)
            if weight < _AWAY:
                away.append(program)
                continue
            shared = self._tokens(len(program.table) - program.private)
            outlook = self.programs.learned.outlook(program.agent, program.length, min(shared, program.length))
            total = [so_far + weight * more for so_far, more in zip(total, outlook, strict=True)]
        for program in away:
            self._let_go(program)
            self.programs.gone(program)
        return total

    def _weight(self, program: Program) -> float:
        """Say how much of its context's size a program counts: the less, the longer it is away or may stay away."""
        if program.requests:
            return 1.0
        near = min(1.0, _NEAR_US / max(self.programs.remaining(program, self._now), 1))
        return near * self.programs.chance(program, self._now)

    def _room(self) -> int:
        return self._tokens(self._memory.size - self._retention.shared)

    def _tokens(self, blocks: int) -> int:
        return blocks * self._config.block_size // self._config.groups

    # what is given up

    def make_room(self, count: int) -> None:
        """Choose whose contexts make room for so many blocks."""
        while count > 0:
            victim, value = self._cheapest()
            orphaned = self._retention.orphaned
            if orphaned is not None and self._value(0, self._now - orphaned) <= value:
                count -= self._memory.spend(self._retention.disown(count))
                continue
            victim = victim or self._youngest()
            if victim is None:
                return  # then it is what was idle for longest
            count -= self._memory.spend(self._retention.of(victim))
            victim.spent = True
            self._pause(victim, "its context made room")

    def _cheapest(self) -> tuple[Program | None, float]:
        """Find the program between turns whose context is worth least."""
        found, least = None, inf
        for program in self.programs:
            if program.private and not program.requests and not program.spent:
                value = self._value(program.length, self.programs.remaining(program, self._now))
                value *= self.programs.chance(program, self._now)
                if value < least:
                    found, least = program, value
        return found, least

    def _youngest(self) -> Program | None:
        """Find the last in rank of the programs whose turns wait."""
        waiting = (
            program for program in self.programs if program.private and not program.running and not program.spent
        )
        return max(waiting, key=attrgetter("rank"), default=None)

    def _value(self, depth: int, remaining: int) -> float:
        """Say what it costs to compute the last block of a context again, by how soon it must be."""
        return (1 + depth / _DEEP) / (remaining + _EPSILON_US)

    def _pause(self, program: Program, why: str) -> None:
        if program.admitted:
            self._let_go(program)
            program.queued = self._now
            self._decisions.append(Decision(program.name, "paused", why))
        self._news = True

    def _let_go(self, program: Program) -> None:
        program.admitted = program.promoted = False
        self._admitted.pop(program.name, None)

    def check(self, requests: Mapping[str, Request]) -> None:
        """Fail if the books do not balance."""
        self._retention.check()
        assert self._of.keys() == requests.keys()
        running: dict[str, int] = {}
        for name, program in self._of.items():
            assert name in program.requests, f"{program.name!r} does not know of its turn {name!r}"
            running[program.name] = running.get(program.name, 0) + (requests[name].state == "running")
        for program in self.programs:
            assert program.running == running.get(program.name, 0), f"{program.name!r} counts {program.running} turns"
            assert program.requests <= self._of.keys()
            assert program.admitted == (program.name in self._admitted)
            assert all(block in self._memory.cache.places for block in program.table), f"{program.name!r} keeps nothing"


def rules_within(config: SchedulerConfig, memory: Memory) -> Rules:
    """Make the policy that is configured."""
    if config.policy == "agents":
        return Agents(config, memory)
    return Ranked(by_priority=config.policy == "priority")
