"""Whole conversations: their system text, their tools, and up to six turns, for training and for judging.

`training(seed)` and `held_out(count)` draw from phrasings, values and seeds that never meet: see `world.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from infra.embedded.agent import INSTRUCTIONS, TOOLS
from infra.embedded.memories import find_turn, forget_turn, save_turn, save_two_turn, without_notes_turn
from infra.embedded.moments import clock_and_sum_turn, clock_turn
from infra.embedded.phrasebook import Split
from infra.embedded.smalltalk import decline_turn, exchange_turn, greeting_turn, passing_turn, recall_turn
from infra.embedded.sums import (
    again_turn,
    large_turn,
    onward_turn,
    pair_turn,
    sum_turn,
    without_calculator_turn,
    zero_turn,
)
from infra.embedded.world import Turn, World, world_for

_ALL: Final = ("calculator", "clock", "save_note", "find_note")
_NOTES: Final = ("save_note", "find_note")


@dataclass(frozen=True, slots=True)
class Setting:
    """What a conversation starts from: the system's text, if any, and the tools on offer."""

    instructions: str | None
    tools: tuple[dict[str, Any], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tools on offer."""
        return tuple(tool["function"]["name"] for tool in self.tools)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation with everything that is expected of it."""

    seed: str
    setting: Setting
    turns: tuple[Turn, ...]
    notes: dict[str, str]
    """What the notebook must hold before the first turn."""
    world: World
    """The state at the end; its clock stands still."""

    def messages(self) -> list[dict[str, Any]]:
        """Write the whole conversation in the OpenAI shape, ending with the last answer."""
        written: list[dict[str, Any]] = []
        if self.setting.instructions is not None:
            written.append({"role": "system", "content": self.setting.instructions})
        for turn in self.turns:
            written.append({"role": "user", "content": turn.user})
            if turn.calls:
                calls = [
                    {"type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in turn.calls
                ]
                written.append({"role": "assistant", "content": "", "tool_calls": calls})
                written.extend({"role": "tool", "content": result} for result in turn.results)
            written.append({"role": "assistant", "content": turn.answer})
        return written


STANDARD: Final = Setting(INSTRUCTIONS, TOOLS)
BARE: Final = Setting(None, ())
_OTHER_INSTRUCTIONS: Final = (
    "You are Ostinato's demo assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant. Use the tools.",
    "You are Ostinato's demo assistant. Use the tools for sums, for the time, and for notes.",
    "Answer briefly and use the tools where they help.",
    "You are a friendly assistant named Ostinato. Be brief.",
    "You help people with arithmetic, dates and notes.",
)
_REWORDED: Final = {
    "calculator": ("Evaluate arithmetic.", "Compute a sum.", "Calculate the value of an expression.", "Do arithmetic."),
    "clock": ("Return the current time.", "Say what time and date it is.", "Give the date and time."),
    "save_note": ("Save a note.", "Store a fact under a topic.", "Write down a fact for later."),
    "find_note": ("Find a note.", "Look up what was saved about a topic.", "Return the note on a topic."),
}
_TurnMaker = Callable[[World], Turn | None]
_MAKERS: Final[tuple[tuple[float, tuple[str, ...], _TurnMaker], ...]] = (
    (21, ("calculator",), sum_turn),
    (9, ("calculator",), onward_turn),
    (9, ("calculator",), pair_turn),
    (4, ("calculator",), again_turn),
    (1.5, ("calculator",), zero_turn),
    (0.7, ("calculator",), large_turn),
    (9, ("clock",), clock_turn),
    (4, ("calculator", "clock"), clock_and_sum_turn),
    (17, _NOTES, save_turn),
    (10, _NOTES, save_two_turn),
    (17, _NOTES, find_turn),
    (0.7, _NOTES, forget_turn),
    (4, (), greeting_turn),
    (7, (), exchange_turn),
    (7, (), decline_turn),
    (3, (), passing_turn),
    (22, (), recall_turn),
)
_PRACTISED: Final[dict[_TurnMaker, float]] = {save_two_turn: 1.4}
"""What is hardest comes up this much more often in training than in judging."""
_LENGTHS: Final = (1, 2, 3, 4, 5, 6)
_LENGTH_WEIGHTS: Final = (40, 22, 15, 10, 7, 6)


def draw_setting(chance: Random) -> Setting:
    """Draw what a conversation starts from: mostly the demo agent as it is."""
    roll = chance.random()
    if roll < 0.78:
        return STANDARD
    if roll < 0.88:
        return BARE
    tools = [copy.deepcopy(tool) for tool in TOOLS]
    instructions: str | None = INSTRUCTIONS
    for change in chance.sample(("instructions", "wording", "order", "fewer"), k=chance.choice((1, 1, 2))):
        match change:
            case "instructions":
                instructions = chance.choice((*_OTHER_INSTRUCTIONS, None))
            case "wording":
                function = chance.choice(tools)["function"]
                function["description"] = chance.choice(_REWORDED[function["name"]])
            case "order":
                chance.shuffle(tools)
            case _:
                tools = tools if len(tools) == 1 else chance.sample(tools, k=chance.choice((1, 2, 3, 3)))
                tools.sort(key=lambda tool: _ALL.index(tool["function"]["name"]))
    return Setting(instructions, tuple(tools))


def converse(seed: str, split: Split, setting: Setting) -> Conversation:
    """Make the one conversation that belongs to a seed, a split and a setting."""
    world = world_for(seed, split, setting.names)
    count = world.chance.choices(_LENGTHS, _LENGTH_WEIGHTS)[0]
    turns: list[Turn] = []
    before: dict[str, str] = {}
    while len(turns) < count:
        turn = _turn(world)
        if turn is None:
            continue
        turns.append(turn)
        saved = {call.arguments["topic"] for past in turns for call in past.calls if call.name == "save_note"}
        before |= {topic: text for topic, text in world.toolbox.notes.items() if topic not in saved}
    return Conversation(seed, setting, tuple(turns), before, world)


def training(seed: int, setting: Setting) -> Iterator[Conversation]:
    """Yield training conversations of one setting without end."""
    count = 0
    while True:
        yield converse(f"{seed}/{count}", "train", setting)
        count += 1


def held_out(count: int, first: int = 0) -> list[Conversation]:
    """Return the first `count` conversations that no training ever sees; always the same ones."""
    return [converse(f"{number}", "held_out", held_out_setting(number)) for number in range(first, first + count)]


def held_out_setting(number: int) -> Setting:
    """Return what one held-out conversation starts from."""
    return draw_setting(Random(f"held-out setting {number}"))


def _turn(world: World) -> Turn | None:
    if world.tools != _ALL and world.likely(0.25):
        missing = _missing(world)
        if missing is not None:
            return missing(world)
    more = _PRACTISED if world.split == "train" else {}
    makers = [(weight * more.get(make, 1.0), make) for weight, needed, make in _MAKERS if world.has(*needed)]
    make = world.chance.choices([make for _, make in makers], [weight for weight, _ in makers])[0]
    return make(world)


def _missing(world: World) -> _TurnMaker | None:
    absent: list[_TurnMaker] = []
    if not world.has("calculator"):
        absent.append(without_calculator_turn)
    if not world.has("clock"):
        absent.append(clock_turn)
    if not world.has("save_note") or not world.has("find_note"):
        absent.append(without_notes_turn)
    return world.chance.choice(absent) if absent else None
