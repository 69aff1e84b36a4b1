"""Facts to remember and to recall: through notes, or from what was said earlier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from infra.embedded import values
from infra.embedded.phrasebook import Phrasings, phrasings, read
from infra.embedded.world import Call, Turn, World


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fact: its topics, its values, how it is said, asked and answered."""

    topics: Phrasings
    value: tuple[Callable[[World], str], ...]
    said: Phrasings
    asked: Phrasings
    answer: str
    made_up: float
    """How often the topic is a made-up word."""


def _kind(entry: Mapping[str, Any]) -> Kind:
    return Kind(
        topics=phrasings(entry["topics"]),
        value=tuple(values.KINDS[name] for name in entry["values"]),
        said=phrasings(entry["said"]),
        asked=phrasings(entry["asked"]),
        answer=entry["answer"],
        made_up=entry["made_up"],
    )


_BOOK: Final = read("memories")
KINDS: Final = tuple(_kind(entry) for entry in _BOOK["kind"])
_KIND_WEIGHTS: Final = tuple(entry["weight"] for entry in _BOOK["kind"])
LIST: Final = _kind(_BOOK["list"])
_ASKING: Final = phrasings(_BOOK["asking"])
_TWO: Final = phrasings(_BOOK["two"])
_FORGET: Final = phrasings(_BOOK["forget"])
_SUFFIXES: Final = ("code", "number", "key", "box", "day", "plan", "colour", "class", "name", "list")
_PREFIXES: Final = ("favourite", "spare", "old", "second", "office", "garden", "next", "car", "kitchen")
_SAVED: Final = ("I will remember that.", "Noted.", "Done, I will remember that.")


def save_turn(world: World) -> Turn:
    """Ask to remember one fact, said with or without asking for it."""
    kind, topic, value = _fact(world)
    call = _save(world, kind, topic, value)
    return Turn("save note", _said(world, kind, topic, value), world.pick(_SAVED), (call,), world.call(call))


def save_two_turn(world: World) -> Turn:
    """Ask to remember two facts at once."""
    facts = [_fact(world), _fact(world)]
    if facts[0][1] == facts[1][1]:
        return save_turn(world)
    calls = tuple(_save(world, *fact) for fact in facts)
    one = _said(world, *facts[0]).rstrip(".")
    two = world.fill(facts[1][0].said, t=facts[1][1], v=facts[1][2])
    user = world.fill(_TWO, one=one, two=two)
    return Turn("two notes", user, "I will remember both.", calls, world.call(*calls))


def find_turn(world: World) -> Turn:
    """Ask for a fact: one of this dialogue, one from another day, or one never noted."""
    if world.kept and world.likely(0.75):
        topic = world.pick(tuple(world.kept))
        kind = world.kept[topic]
    else:
        kind, topic, value = _fact(world)
        if world.likely(0.65) and topic not in world.toolbox.notes and topic not in world.absent:
            world.toolbox.notes[topic] = value
            world.kept[topic] = kind
    call = Call("find_note", {"topic": topic})
    results = world.call(call)
    user = world.say(kind.asked, t=topic)
    if topic not in world.toolbox.notes:
        world.absent.add(topic)
        answer = f"I have nothing noted about {topic}."
        return Turn("nothing noted", user, answer, (call,), results, one_of=("nothing", "no note"))
    found = world.toolbox.notes[topic]
    answer = kind.answer.format(t=topic, v=found)
    return Turn("find note", user, answer, (call,), results, needs=(found,))


def forget_turn(world: World) -> Turn:
    """Ask to delete a note, which no tool does."""
    user = world.say(_FORGET, t=world.pick(tuple(world.kept)) if world.kept else _topic(world, KINDS[0]))
    return Turn("declining", user, "I cannot delete notes, only save and find them.", one_of=("cannot",))


def without_notes_turn(world: World) -> Turn:
    """Ask for a note where none can be kept."""
    kind, topic, value = _fact(world)
    missing = (
        "save_note" if not world.has("save_note") and (world.has("find_note") or world.likely(0.5)) else "find_note"
    )
    user = _asked_to_save(world, kind, topic, value) if missing == "save_note" else world.say(kind.asked, t=topic)
    answer = "I cannot save notes here." if missing == "save_note" else "I cannot look up notes here."
    return Turn("no such tool", user, answer, one_of=("cannot",))


def _fact(world: World) -> tuple[Kind, str, str]:
    kind = LIST if world.likely(0.28) else world.chance.choices(KINDS, _KIND_WEIGHTS)[0]
    return kind, _topic(world, kind), world.chance.choice(kind.value)(world)


def _topic(world: World, kind: Kind) -> str:
    if not world.likely(kind.made_up):
        return world.pick(kind.topics.of(world.split)).format(name=values.name(world))
    made_up = values.thing(world)
    match world.chance.randrange(5):
        case 0:
            return f"{made_up} {world.pick(_SUFFIXES)}"
        case 1:
            return f"{world.pick(_PREFIXES)} {made_up}"
        case 2:
            return f"{made_up} {values.thing(world)}"
        case _:
            return made_up


def _save(world: World, kind: Kind, topic: str, value: str) -> Call:
    world.kept[topic] = kind
    return Call("save_note", {"topic": topic, "text": value})


def _said(world: World, kind: Kind, topic: str, value: str) -> str:
    if kind is LIST or world.likely(0.35):
        return _opened(world.fill(kind.said, t=topic, v=value), topic, value)
    return _asked_to_save(world, kind, topic, value)


def _asked_to_save(world: World, kind: Kind, topic: str, value: str) -> str:
    if kind is LIST:
        return _opened(world.fill(kind.said, t=topic, v=value), topic, value)
    opener = world.pick(_ASKING.of(world.split))
    if world.likely(0.25):
        opener = opener[0].lower() + opener[1:]
    clause = world.fill(kind.said, t=topic, v=value)
    if opener.startswith("{}"):
        clause = _opened(clause.removesuffix("."), topic, value)
    return opener.format(clause)


def _opened(text: str, topic: str, value: str) -> str:
    """Begin with a capital letter, unless the text begins with a value, which stays as it is."""
    return text if text.startswith((topic, value)) else text[0].upper() + text[1:]
