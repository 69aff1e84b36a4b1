"""Talk that needs no tool: greetings, identity, what it can do, what it declines, and things said in passing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from infra.embedded import values
from infra.embedded.phrasebook import Phrasings, phrasings, read
from infra.embedded.world import Turn, World


@dataclass(frozen=True, slots=True)
class Exchange:
    """Something said and its one answer."""

    skill: str
    said: Phrasings
    answer: str
    one_of: tuple[str, ...]


def _exchange(entry: Mapping[str, Any]) -> Exchange:
    return Exchange(entry["skill"], phrasings(entry["said"]), entry["answer"], tuple(entry["one_of"]))


def _passing(entry: Mapping[str, Any]) -> tuple[Phrasings, Callable[[World], str], Phrasings, str]:
    return phrasings(entry["said"]), values.KINDS[entry["value"]], phrasings(entry["asked"]), entry["answer"]


_BOOK: Final = read("smalltalk")
GREETING: Final = _exchange(_BOOK["greeting"])
_EXCHANGES: Final = tuple(_exchange(entry) for entry in _BOOK["exchange"])
_WEIGHTS: Final = tuple(entry["weight"] for entry in _BOOK["exchange"])
_DECLINED: Final = phrasings(_BOOK["declined"])
_NAMED: Final = phrasings(_BOOK["named"])
_NAME_ASKED: Final = phrasings(_BOOK["name_asked"])
_PASSING: Final = {kind: _passing(entry) for kind, entry in _BOOK["passing"].items()}
_SORRY: Final = "Sorry, I cannot do that. {}"
_KINDS: Final = tuple(_PASSING)


def greeting_turn(world: World) -> Turn:
    """Say hello, now and then with a name."""
    if world.likely(0.3):
        name = values.name(world)
        world.told["name"] = name
        return Turn("greeting", world.say(_NAMED, v=name), f"Hello {name}! How can I help?", needs=(name,))
    return Turn("greeting", world.say(GREETING.said), GREETING.answer, one_of=GREETING.one_of)


def exchange_turn(world: World) -> Turn:
    """Ask who it is or what it can do, thank it, or say goodbye."""
    exchange = world.chance.choices(_EXCHANGES, _WEIGHTS)[0]
    answer = exchange.answer or _abilities(world)
    return Turn(exchange.skill, world.say(exchange.said), answer, one_of=exchange.one_of)


def decline_turn(world: World) -> Turn:
    """Ask for something that it cannot do."""
    user = world.say(
        _DECLINED,
        town=values.town(world),
        food=values.food(world),
        name=values.name(world),
        num=values.number(world),
        word=world.own(lambda: values.word(world)),
        time=values.time(world),
    )
    return Turn("declining", user, _SORRY.format(_abilities(world)), one_of=("cannot",))


def passing_turn(world: World) -> Turn:
    """Say something about oneself in passing; nothing is saved."""
    kind = world.pick(_KINDS)
    said, value, _, _ = _PASSING[kind]
    world.told[kind] = value(world)
    return Turn("in passing", world.say(said, v=world.told[kind]), "Good to know.", one_of=("good", "nice", "know"))


def recall_turn(world: World) -> Turn | None:
    """Ask for something said earlier in the conversation; no tool is needed."""
    if not world.told:
        return None
    kind = world.pick(tuple(world.told))
    told = world.told[kind]
    if kind == "name":
        return Turn("said earlier", world.say(_NAME_ASKED), f"You are {told}.", needs=(told,))
    _, _, asked, answer = _PASSING[kind]
    return Turn("said earlier", world.say(asked), answer.format(v=told), needs=(told,))


def _abilities(world: World) -> str:
    can = [
        text
        for text, tools in (
            ("do sums", ("calculator",)),
            ("tell the time", ("clock",)),
            ("keep notes", ("save_note", "find_note")),
        )
        if world.has(*tools)
    ]
    if not can:
        return "I can only chat here."
    return "I can " + (can[0] if len(can) == 1 else ", ".join(can[:-1]) + " and " + can[-1]) + "."
