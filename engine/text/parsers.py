"""Streaming parser of what a model writes: text, reasoning, tool calls in any described format, stop strings.

What comes out does not depend on where the input is cut: whatever may still become a mark is held back, from its
earliest possible beginning, until it has or has not. A call comes out as it is written, from where it certainly is one;
what never becomes one is text. What comes out joined up is the same however the input was cut.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from engine.text.calls import CallTeller
from engine.text.formats import HERMES, NONE, Channels, Format, Opener
from engine.text.layout import Layout
from engine.text.parts import CallArguments, Content, ParsedCall, Part, Reasoning
from engine.text.reading import Reading, plain
from engine.text.source import SPECIAL, Broken, Ended, Marks, Source, Waiting
from engine.text.steps import Arguments

_LONGEST_HEAD: Final = 512
_WORD: Final = re.compile(r"[^\s<]*")
_SPACE: Final = re.compile(r"\s*")
_PARAGRAPH: Final = "\n\n"


@dataclass(frozen=True, slots=True)
class Thinking:
    """The tags around reasoning."""

    name: str
    open: str
    close: str
    begun: bool = False
    """Whether answers always begin inside, whatever the prompt ends with."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one answer is parsed for."""

    format: Format = HERMES
    thinking: Thinking | None = None
    begun: bool = False
    """Whether the answer begins inside reasoning."""
    calls: bool = True
    """Whether tools may be called."""
    most_calls: int | None = None
    """After so many the answer ends."""
    schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """JSON Schemas of the arguments of the tools that were offered, by name."""
    special: frozenset[str] = frozenset()
    """Marks that are special tokens, and come with `SPECIAL` before them."""
    reasons: bool = True
    """Whether a format's channels of reasoning are told apart from text."""

    def hearing(self, special: Collection[str]) -> Wanted:
        """Say which of the marks are among a tokenizer's special tokens."""
        return replace(self, special=frozenset(mark for mark in self.marks() if mark in special))

    def marks(self) -> Iterator[str]:
        """Name every text that must be seen, special token or not."""
        if self.calls or self.format.channels is not None:
            yield from self.format.marks()
        if self.thinking is not None:
            yield from (self.thinking.open, self.thinking.close)

    def silent(self) -> Iterator[str]:
        """Name the texts that say nothing."""
        if self.calls or self.format.channels is not None:
            yield from self.format.silent
        if self.format.channels is not None:
            yield from self.format.channels.ends


NOTHING: Final = Wanted(NONE, calls=False)
"""Text alone."""


class OutputParser:
    """Parses one answer."""

    def __init__(self, stop: Sequence[str] = (), wanted: Wanted | None = None, *, keeps_stop: bool = False) -> None:
        """Begin one.

        Args:
            stop: texts that end it.
            wanted: how it is read; as text without calls and reasoning if `None`.
            keeps_stop: whether the text that ends it belongs to it.
        """
        self._wanted = wanted = wanted or Wanted()
        self._source = Source()
        self._parts: list[Part] = []
        self._said, self._thought, self._called = Layout(), Layout(), Layout()
        self._spoke = self._said
        """That of the three which returned something last; calls have all of their white space."""
        self._teller = CallTeller(self._tell, wanted.most_calls)
        self._fresh = True
        """Whether nothing was said since the beginning, or the last call or reasoning."""
        self._openers: dict[str, Opener | Channels | Thinking] = {}
        self._fresh_openers: dict[str, Opener | Channels | Thinking] = {}
        self._stops = dict.fromkeys(text for text in stop if text)
        self._list_openers()
        self._marks = Marks([*self._openers, *map(self._spell, wanted.silent()), *stop])
        self.stopped = False
        """Whether a stop string was met, or the last call that is wanted: what follows it is dropped."""
        self.met = ""
        """The stop string that was."""
        self.unstoppable = 0
        """A stop string that ends within so many characters of what was fed is text."""
        self._keeps_stop = keeps_stop
        self.reasoning = wanted.begun and wanted.thinking is not None
        """Whether what comes next is reasoning."""
        self._reader = self._read()

    def _list_openers(self) -> None:
        wanted = self._wanted
        for opener in wanted.format.openers if wanted.calls else ():
            (self._fresh_openers if opener.fresh else self._openers)[self._spell(opener.mark)] = opener
        channels = wanted.format.channels
        if channels is not None:
            self._openers |= {self._spell(mark): channels for mark in channels.begins}
            self._fresh_openers[channels.addressed] = channels
        if wanted.thinking is not None:
            self._fresh_openers[self._spell(wanted.thinking.open)] = wanted.thinking

    def _spell(self, mark: str) -> str:
        return SPECIAL + mark if mark in self._wanted.special else mark

    @property
    def calls(self) -> Sequence[ParsedCall]:
        """Tool calls that are over."""
        return self._teller.calls

    @property
    def done(self) -> int:
        """Characters up to the end of what was returned last, or a little further: what is read already."""
        return self._source.dropped + self._source.at - self._spoke.held

    def feed(self, text: str) -> list[Part]:
        """Take what the model wrote; return what is certain now."""
        if not self.stopped:
            self._source.text += text
            next(self._reader, None)
        return self._drained()

    def finish(self) -> list[Part]:
        """The answer is over: return what was held back. A call without its end tag counts if it is whole."""
        self._source.ended = True
        next(self._reader, None)
        if space := self._said.end():
            self._parts.append(Content(space))
        return self._drained()

    def _drained(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return [part for kind, run in itertools.groupby(parts, type) for part in _as_one(kind, run)]

    def _read(self) -> Waiting[None]:
        """Read the answer from beginning to end."""
        if self.reasoning and self._wanted.thinking is not None:
            yield from self._source.space()
            # some repeat the tag that the prompt ends with
            yield from self._source.took(self._spell(self._wanted.thinking.open))
            yield from self._think(self._wanted.thinking)
        while not self.stopped:
            mark = yield from self._text()
            if not mark:
                return
            found = self._openers.get(mark) or (self._fresh_openers.get(mark) if self._fresh else None)
            match found:
                case Opener():
                    yield from self._call(found, mark)
                case Thinking():
                    self._source.at += len(mark)
                    yield from self._think(found)
                case Channels():
                    yield from self._message(found, mark)
                case None:
                    self._source.at += len(mark)
                    if mark in self._stops:
                        self._stop(mark)

    def _stop(self, mark: str) -> None:
        self.stopped, self.met = True, mark
        if self._keeps_stop:
            self._say(mark)

    def _text(self) -> Waiting[str]:
        """Pass text on up to a mark, which is not read; give it, or nothing at the end."""
        source = self._source
        while True:
            until, mark = self._next()
            self._say(source.text[source.at : until])
            source.at = until
            source.drop()
            if mark or source.ended:
                return mark
            yield

    def _next(self) -> tuple[int, str]:
        """Look for the next mark; without one, up to where there is certainly none."""
        source = self._source
        until, mark = self._marks.find(source.text, source.at, source.ended)
        while mark in self._stops and mark not in self._openers and not self._counts(mark, until):
            if (later := self._later_stop(until)) is not None:
                mark = later
                break
            until, mark = self._marks.find(source.text, until + 1, source.ended)
        space = _SPACE.match(source.text, source.at) if self._fresh else None
        if space is not None and (begin := space.end()) < until:
            for opener in self._fresh_openers:
                rest = source.text[begin : begin + len(opener)]
                if rest == opener:
                    return begin, opener
                if opener.startswith(rest) and not source.ended:
                    return begin, ""
        return until, mark

    def _counts(self, stop: str, begin: int) -> bool:
        """Say whether a stop string that begins there does not end too early."""
        return self._source.dropped + begin + len(stop) > self.unstoppable

    def _later_stop(self, begin: int) -> str | None:
        """Give the stop string that begins there like one that ends too early, and counts: empty if one may come."""
        source = self._source
        for stop in self._stops:
            rest = source.text[begin : begin + len(stop)]
            if self._counts(stop, begin) and stop.startswith(rest) and (rest == stop or not source.ended):
                return stop if rest == stop else ""
        return None

    def _say(self, text: str) -> None:
        self._fresh = self._fresh and not text.strip()
        if content := self._said.text(plain(text)):
            self._parts.append(Content(content))
            self._spoke = self._said

    def _tell(self, part: Part) -> None:
        """Take what is told of a call."""
        self._parts.append(part)
        if isinstance(part, CallArguments):
            self._spoke = self._called

    def _call(self, opener: Opener, mark: str) -> Waiting[None]:
        """Read calls; where there are none the mark was text, and what follows it is read as such."""
        reading = self._reading(known=opener.known)
        begin = self._source.at
        self._source.at += 0 if opener.kept else len(mark)
        try:
            for step in opener.steps:
                yield from step.read(reading)
                reading.keep()
        except Broken as broken:
            if not reading.told:
                self._source.at = begin + len(mark)
                self._say(mark)
                return
            self._break_off(reading, broken)
        self._take()

    def _reading(self, name: str = "", *, known: bool = False) -> Reading:
        return Reading(self._source, self._spell, self._wanted.schemas, self._teller, known, name)

    def _break_off(self, reading: Reading, broken: Broken) -> None:
        """What was told of is a call, and what follows it is text; what an answer is cut off in says nothing."""
        source = self._source
        if isinstance(broken, Ended):
            source.at = len(source.text)
        else:
            source.place = reading.kept
        if self._teller.open:
            self._teller.break_off()

    def _take(self) -> None:
        """Go on after calls."""
        self._source.drop()
        self.stopped = self._teller.enough
        self._said.part()
        self._fresh = True

    def _think(self, thinking: Thinking) -> Waiting[None]:
        """Read reasoning and the tag after it."""
        close = self._spell(thinking.close)
        yield from self._reason(Marks((close,)))
        yield from self._source.took(close)
        self._said.part()
        self._fresh = True

    def _reason(self, ends: Marks) -> Waiting[None]:
        """Read reasoning up to a mark."""
        source, self.reasoning = self._source, True
        self._thought.part(_PARAGRAPH)
        while True:
            until, mark = ends.find(source.text, source.at, source.ended)
            if thought := self._thought.text(plain(source.text[source.at : until])):
                self._parts.append(Reasoning(thought))
                self._spoke = self._thought
            source.at = until
            source.drop()
            if mark or source.ended:
                self.reasoning = False
                return
            yield

    def _message(self, channels: Channels, mark: str) -> Waiting[None]:
        """Read a message's head, and its body if that is no text."""
        source, begin = self._source, self._source.at
        try:
            _, end = yield from source.until(Marks((self._spell(channels.message),)), _LONGEST_HEAD)
        except Broken:
            # an answer that is cut off in a head has said nothing with it
            cut = source.ended and mark != channels.addressed
            source.at = len(source.text) if cut else begin + len(mark)
            self._say("" if source.at > begin + len(mark) else mark)
            return
        head = plain(source.text[begin : source.at])
        source.at += len(end)
        tool = _after(channels.addressed, head).removeprefix(channels.functions)
        if tool and self._wanted.calls and (yield from self._addressed(channels, tool)):
            return
        source.drop()
        self._fresh = False
        if self._wanted.reasons and _after(channels.channel, head) in channels.reasoning:
            yield from self._reason(Marks([self._spell(end) for end in (*channels.ends, *channels.begins)]))
        self._said.part(_PARAGRAPH)

    def _addressed(self, channels: Channels, tool: str) -> Waiting[bool]:
        """Read the body of a message to a tool; say whether it is a call. It is text, if not."""
        source, begin, reading = self._source, self._source.at, self._reading(tool)
        try:
            yield from source.space()
            yield from Arguments().read(reading)
            yield from source.space()
            for end in (*channels.ends, *channels.begins):
                if (yield from source.ahead(self._spell(end))):
                    break
            else:
                if (yield from source.char()):
                    raise Broken  # noqa: TRY301
        except Broken as broken:
            if not reading.told:
                source.at = begin
                return False
            self._break_off(reading, broken)
        self._take()
        return True


def _as_one(kind: type[Part], run: Iterable[Part]) -> Iterator[Part]:
    """Join the pieces of a text; of calls each says of which it is."""
    if kind is Content or kind is Reasoning:
        yield kind("".join(part.text for part in run if isinstance(part, kind)))
    else:
        yield from run


def _after(sign: str, head: str) -> str:
    """Give the word that follows a sign in a message's head."""
    word = _WORD.match(head.partition(sign)[2])
    return "" if word is None else word.group()
