"""What one made-up dialogue knows: its split, its chance, its notebook, and what was said so far.

Chance is a seeded `random.Random`: dialogues are made outside the system that replays, and the seed is the record.
Two things keep training and held-out dialogues apart by construction: every phrasing belongs to one split by being
listed there, and every free value (a name, a code, an expression, a date) belongs to one split by its own hash.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from infra.embedded.phrasebook import Phrasings, Split
from infra.embedded.toolbox import Toolbox


def split_of(text: str) -> Split:
    """Say which split a free value belongs to: one in eight is held out."""
    return "held_out" if zlib.crc32(text.lower().encode()) % 8 == 0 else "train"


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that a turn should lead to."""

    name: str
    arguments: dict[str, str]


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user says, what should be called, and what should be answered."""

    skill: str
    user: str
    answer: str
    calls: tuple[Call, ...] = ()
    results: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """Every one of these must be part of a right answer."""
    one_of: tuple[str, ...] = ()
    """At least one of these must be part of a right answer, where any are given."""


@dataclass(slots=True)
class World:
    """The state behind one dialogue while it is being made."""

    chance: Random
    split: Split
    tools: tuple[str, ...]
    toolbox: Toolbox
    result: str | None = None
    """The last number the calculator gave."""
    told: dict[str, str] = field(default_factory=dict)
    """What the user said in passing, by kind."""
    kept: dict[str, Any] = field(default_factory=dict)
    """The kinds of facts that this dialogue has noted, by topic."""
    absent: set[str] = field(default_factory=set)
    """Topics that were asked for and not found."""

    def has(self, *tools: str) -> bool:
        """Say whether all of these tools are on offer."""
        return all(tool in self.tools for tool in tools)

    def likely(self, share: float) -> bool:
        """Toss a coin that lands true with this share."""
        return self.chance.random() < share

    def pick(self, choices: Sequence[str]) -> str:
        """Take one of several values that both splits may use."""
        return self.chance.choice(choices)

    def own(self, make: Callable[[], str]) -> str:
        """Draw a free value until one belongs to this dialogue's split."""
        while split_of(drawn := make()) != self.split:
            pass
        return drawn

    def fill(self, phrasings: Phrasings, **values: str) -> str:
        """Fill a phrasing of this split, in the case and with the punctuation people use. Values stay as given."""
        text = self.chance.choice(phrasings.of(self.split))
        roll = self.chance.random()
        if roll < 0.2:
            text = text.lower()
        elif roll < 0.35 and not text.startswith("I"):
            text = text[0].lower() + text[1:]
        if self.likely(0.2) and text[-1] in ".?!":
            text = text[:-1]
        return text.format(**values)

    def say(self, phrasings: Phrasings, **values: str) -> str:
        """Fill a phrasing, now and then with a word or two around it."""
        text = self.fill(phrasings, **values)
        if self.likely(0.06):
            return self.pick(("please ", "Hey, ", "ok, ", "so, ", "Well, ", "Hi, ", "and ")) + text
        if self.likely(0.04) and text[-1] not in ".?!":
            return text + self.pick((" please", " please?", ", thanks", "??"))
        return text

    def call(self, *calls: Call) -> tuple[str, ...]:
        """Run calls for real and return their results."""
        return tuple(self.toolbox.run(call.name, call.arguments) for call in calls)


def world_for(seed: str, split: Split, tools: tuple[str, ...]) -> World:
    """Make an empty world; the seed's text fixes everything that follows."""
    chance = Random(f"{split} {seed}")
    while True:
        now = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(minutes=chance.randrange(60 * 24 * 365 * 20))
        if split_of(f"{now:%Y-%m-%d}") == split:
            return World(chance=chance, split=split, tools=tools, toolbox=Toolbox(now))
