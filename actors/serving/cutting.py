"""Cuts an answer into the pieces that its readers hear, each with the tokens whose text it holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from actors.models.provider import Piece, Spoken
from actors.serving.told import Telling
from engine.text.parts import CallArguments, CallBegun, Content, Part, Reasoning
from schemas.answers import CallTold

MOST_TOLD: Final = 2_000
"""Numbers that a piece tells of its tokens at most: as JSON some 100 kB, which hold up nobody else's."""


@dataclass(slots=True)
class _Held:
    """What goes out next."""

    kind: Spoken
    texts: list[str]
    until: int
    """So many tokens have their text in it, or before."""
    call: CallTold | None = None


class Cutter:
    """Cuts one answer."""

    def __init__(self, interval: int, telling: Telling, calls: str = "call") -> None:
        """Begin.

        Args:
            interval: pieces come at least so many tokens apart, but for the first one and the last.
            telling: of its tokens.
            calls: what the ids of its tool calls begin with.
        """
        self._interval = interval
        self._named = calls
        self._call: CallTold | None = None
        self._telling = telling
        self._held: list[_Held] = []
        self._said = dict[tuple[Spoken, CallTold | None], int]()
        self._told = self._due = 0

    def take(self, parts: Iterable[Part], until: int) -> None:
        """Take what was read: with it the text of the first `until` tokens is there, as far as they have one."""
        for part in parts:
            match part:
                case Content(text):
                    self._hold("text", text, until)
                case Reasoning(text):
                    self._hold("reasoning", text, until)
                case CallBegun(index, name):
                    self._call = CallTold(index, call_id(self._named, index), name)
                case CallArguments(_, text):
                    self._hold("call", text, until, self._call)
                case _:
                    pass

    def cut(self, read: int) -> Iterator[Piece]:
        """Give what goes out after so many tokens were read, if it is time."""
        if self._held and read >= self._due:
            self._due = read + self._interval
            yield from self.rest()

    def rest(self) -> Iterator[Piece]:
        """Give all that was held back."""
        held, self._held = self._held, []
        for one in held:
            yield from self._pieces(one)

    def _hold(self, kind: Spoken, text: str, until: int, call: CallTold | None = None) -> None:
        if self._held and (self._held[-1].kind, self._held[-1].call) == (kind, call):
            self._held[-1].texts.append(text)
            self._held[-1].until = until
        else:
            self._held.append(_Held(kind, [text], until, call))

    def _pieces(self, held: _Held) -> Iterator[Piece]:
        """Make one piece; several, if there are too many tokens for one: the last has the text."""
        about, text = (held.kind, held.call), "".join(held.texts)
        offset = self._said.get(about, 0)
        self._said[about] = offset + len(text)
        most = max(1, MOST_TOLD // max(1, self._telling.width))
        while held.until - self._told > most and any(self._telling.between(self._told, self._told + 1)):
            yield self._piece(Piece(offset, "", held.kind, call=held.call), self._told + most)
        last = self._piece(Piece(offset, text, held.kind, call=held.call), held.until)
        if text or last.logprobs or last.token_ids:
            yield last

    def _piece(self, piece: Piece, until: int) -> Piece:
        """Add the tokens to a piece."""
        before, self._told = self._told, until
        logprobs, token_ids = self._telling.between(before, until)
        if not (logprobs or token_ids):
            return piece
        return replace(piece, before=before, logprobs=logprobs, token_ids=token_ids)


def call_id(named: str, index: int) -> str:
    """Name a tool call of an answer."""
    return f"{named}-{index}"
