"""The regex filter: secrets and personal data are taken out, on the way to the model and on the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, NamedTuple, TypeVar, get_args

from msgspec.structs import replace

from actors.errors import DefinitionError
from actors.processors.processor import About, Processor, Stream, Tripped
from actors.processors.rules import PERSONAL, SECRETS, Rule
from schemas.messages import Message
from schemas.processing import Hook

T = TypeVar("T")
Strategy = Literal["mask", "hash", "remove", "block"]
_BEFORE = 256
"""Characters ahead of a match that its pattern may look at."""
_AT_ONCE = 20_000
"""Characters that are looked through on the event loop."""


class Found(NamedTuple):
    """What a rule found, and where."""

    start: int
    end: int
    rule: Rule


@dataclass(frozen=True)
class RegexFilter(Processor):
    """Masks, hashes, removes or blocks what rules find; no model is asked.

    Of an answer nothing is told before it is certain that no rule can find anything in it: as much is held back as
    could still become part of a match, at most the longest. A rule that does not know its longest match holds back the
    whole answer. Arguments of tools are left as they are: the tools need them.

    Raises:
        DefinitionError: there is no such strategy, no rule, or `hash` has no key.
    """

    rules: Sequence[Rule] = (*SECRETS, *PERSONAL)
    strategy: Strategy = "mask"
    """`mask` puts the rule's name there, `hash` that and a number that is the same for the same text, `block` ends the
    run, or of a tool's result keeps all of it back."""
    key: str = ""
    """Of the hash: without it, whoever guesses a text could see that it was this one."""
    name: str = "regex-filter"
    everywhere: bool = True

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            raise DefinitionError(f"{self.name}: no strategy {self.strategy!r}: use one of {get_args(Strategy)}")
        if not self.rules:
            raise DefinitionError(f"{self.name}: give rules, or leave them out for the usual ones")
        if self.strategy == "hash" and not self.key:
            raise DefinitionError(f"{self.name}: strategy 'hash' needs key=TEXT, which nobody can guess")

    async def prompt(self, messages: Sequence[Message], about: About) -> Sequence[Message]:
        """Take out what is found in all that was said, but not in the agent's own instructions."""
        size = sum(len(message.content) for message in messages)
        return await aside(size, lambda: tuple(self._cleaned(message, about) for message in messages))

    async def tool_result(self, tool: str, content: str, about: About) -> str:
        """Take out what is found in a tool's result."""
        return await aside(len(content), lambda: self.cleaned(content, about, "tool_result"))

    def stream(self, about: About) -> Stream:
        """Take out what is found in an answer, as it comes."""
        return _Filtering(self, about)

    def certain(self, text: str) -> int:
        """Say up to where in a text that goes on every match that begins is known."""
        return min(rule.certain(text) for rule in self.rules)

    def cleaned(self, text: str, about: About, hook: Hook) -> str:
        """Take out what is found.

        Raises:
            Tripped: something was found, and the strategy is `block`.
        """
        return self.taken(text, self.found(text, 0), 0, len(text), about, hook)

    def _cleaned(self, message: Message, about: About) -> Message:
        if message.role == "system":
            return message
        return replace(message, content=self.cleaned(message.content, about, "prompt"))

    def taken(self, text: str, found: Sequence[Found], start: int, end: int, about: About, hook: Hook) -> str:
        """Return a part of a text without what was found in it.

        Raises:
            Tripped: something was found, and the strategy is `block`.
        """
        parts, place = [], start
        for one in found:
            about.note(self, hook, "changed", 1, one.rule.name)
            if self.strategy == "block":
                raise Tripped(f"{one.rule.name} found")
            parts += [text[place : one.start], self._instead(one.rule.name, text[one.start : one.end])]
            place = one.end
        return "".join((*parts, text[place:end]))

    def found(self, text: str, start: int) -> list[Found]:
        """List what is found from a place on; what overlaps is one thing, of which nothing may be left."""
        every = [Found(begin, end, rule) for rule in self.rules for begin, end in rule.found(text, start)]
        kept: list[Found] = []
        for one in sorted(every, key=lambda found: (found.start, -found.end)):
            if kept and one.start < kept[-1].end:
                kept[-1] = kept[-1]._replace(end=max(kept[-1].end, one.end))
            else:
                kept.append(one)
        return kept

    def _instead(self, name: str, text: str) -> str:
        match self.strategy:
            case "remove":
                return ""
            case "hash":
                digest = blake2b(text.encode("utf-8", "replace"), digest_size=6, key=self.key.encode()[:64])
                return f"[{name}:{digest.hexdigest()}]"
            case _:
                return f"[{name}]"


async def aside(size: int, work: Callable[[], T]) -> T:
    """Look through long texts beside the event loop, which has others to serve."""
    return work() if size <= _AT_ONCE else await asyncio.to_thread(work)


class _Filtering:
    """Gives on what no match can begin in any more."""

    def __init__(self, regexes: RegexFilter, about: About) -> None:
        self._filter = regexes
        self._about = about
        self._text = ""
        self._place = 0
        """What is ahead of it was given on; it is there because patterns may look at it."""

    def feed(self, text: str) -> str:
        self._text += text
        return self._give(self._filter.certain(self._text))

    def end(self) -> str:
        return self._give(len(self._text))

    def _give(self, certain: int) -> str:
        """Give on what is ahead of `certain`, where every match that begins is known."""
        if certain <= self._place:
            return ""
        whole, found, end = certain == len(self._text), [], certain
        for one in self._filter.found(self._text, self._place):
            if one.start >= certain:
                break
            if one.end > certain and not whole:
                end = one.start  # something that overlaps with it may still come
                break
            found.append(one)
        given = self._filter.taken(self._text, found, self._place, end, self._about, "stream")
        spare = max(0, end - _BEFORE)
        self._text, self._place = self._text[spare:], end - spare
        return given
