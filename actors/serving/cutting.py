"""Cuts an answer into the pieces that its readers hear, each with the tokens whose text it holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from actors.models.provider import Piece, Spoken
from actors.serving.told import Telling
from engine.text.parts import Content, Part, Reasoning

MOST_TOLD: Final = 2_000
"""Numbers that a piece tells of its tokens at most: as JSON some 100 kB, which hold up nobody else's."""


@dataclass(slots=True)
class _Held:
    """What goes out next."""

    kind: Spoken
    texts: list[str]
    until: int
    """So many tokens have their text in it, or before."""


class Cutter:
    """Cuts one answer."""

    def __init__(self, interval: int, telling: Telling) -> None:
        """Begin; pieces come at least `interval` tokens apart, but for the first one and the last."""
        self._interval = interval
        self._telling = telling
        self._held: list[_Held] = []
        self._said: dict[Spoken, int] = {"text": 0, "reasoning": 0}
        self._told = self._due = 0

    def take(self, parts: Iterable[Part], until: int) -> None:
        """Take what was read: with it the text of the first `until` tokens is there, as far as they have one."""
        for part in parts:
            match part:
                case Content(text):
                    self._hold("text", text, until)
                case Reasoning(text):
                    self._hold("reasoning", text, until)
                case _:
                    # calls are told whole, with the answer: until then it may be broken off
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

    def _hold(self, kind: Spoken, text: str, until: int) -> None:
        if self._held and self._held[-1].kind == kind:
            self._held[-1].texts.append(text)
            self._held[-1].until = until
        else:
            self._held.append(_Held(kind, [text], until))

    def _pieces(self, held: _Held) -> Iterator[Piece]:
        """Make one piece; several, if there are too many tokens for one: the last has the text."""
        offset, text = self._said[held.kind], "".join(held.texts)
        self._said[held.kind] += len(text)
        most = max(1, MOST_TOLD // max(1, self._telling.width))
        while held.until - self._told > most and any(self._telling.between(self._told, self._told + 1)):
            yield self._piece(Piece(offset, "", held.kind), self._told + most)
        last = self._piece(Piece(offset, text, held.kind), held.until)
        if text or last.logprobs or last.token_ids:
            yield last

    def _piece(self, piece: Piece, until: int) -> Piece:
        """Add the tokens to a piece."""
        before, self._told = self._told, until
        logprobs, token_ids = self._telling.between(before, until)
        if not (logprobs or token_ids):
            return piece
        return Piece(piece.offset, piece.text, piece.kind, before, logprobs, token_ids)
