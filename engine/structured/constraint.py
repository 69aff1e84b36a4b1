"""One answer that keeps to a grammar: what may come next, and the way to its end while there are tokens left for one.

A document that is cut off in the middle is worth nothing. So a way to its end is known at every position, and always
one that the tokens left are enough for. A token that was drawn is taken only if there is such a way after it, too;
otherwise the first token of the known way is taken instead. Most tokens leave the known way as it was, which is cheap
to see. Where even the shortest document needs more tokens than there are, nothing is promised, and the answer is
broken off at its limit.

Until the tokens have come after which the answer is to keep to its grammar (the end of a model's thinking), everything
may come. Where a model may think or not, its first tokens decide: they open what is thought, or belong to the grammar.
Thinking is ended for it when it has had its budget, and when it leaves just enough tokens for the shortest document; it
cannot end the answer. Both depend on positions alone, so an answer that is followed anew goes on as it would have. An
answer without a grammar may have a budget, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from engine.structured.grammar import Bits, Grammar, GrammarError
from engine.structured.unbound import Unbound
from schemas.generation import Sampling

Stage = Literal["opening", "before", "within", "over"]

_NOT_ALLOWED: Final = "the output does not keep to its grammar"


class Taken(NamedTuple):
    """What became of a token that was drawn."""

    token: int
    """The one that is taken."""
    whole: bool
    """Whether nothing may follow it: the document has come to its end."""
    closed: bool = False
    """Whether it stands in place of the one that was drawn, for the document to end in time."""


class Constraint:
    """Follows one answer."""

    def __init__(self, grammar: Grammar | None, sampling: Sampling, output: Sequence[int] = ()) -> None:
        """Begin one, or go on after some output.

        Raises:
            GrammarError: The output does not keep to the grammar.
        """
        self.ends = sampling.stop_tokens
        """Tokens that end the answer."""
        self.count = 0
        """Tokens of the output so far."""
        self.stage: Stage = "before"
        self._bound = grammar is not None
        self._grammar = grammar or Unbound()
        self._matcher = self._grammar.matcher()
        self._left = sampling.max_tokens
        self._after = sampling.structured_after
        self._last = deque[int](maxlen=len(self._after))
        self._way: tuple[int, ...] | None = None
        self._tight = False
        """Whether the known way takes all tokens that are left, and no shorter one was found."""
        self._opening = sampling.thinking_opening if self._after else ()
        self._closing = sampling.thinking_closing or self._after
        self._budget = sampling.thinking_budget
        self._thoughts = 0
        """Tokens of thinking so far."""
        self._forced = deque[int]()
        """What is left of the tokens that end it."""
        self._hurried = False
        """Whether it is ended for lack of tokens, and not because it has had its budget."""
        if self._opening or not self._after:
            self._begin()
        if self._opening:
            self.stage = "opening"
        self._replay(output)

    def mask(self, row: Bits) -> bool:
        """Set the bits of what may come next; say whether nothing but an end may.

        Raises:
            GrammarError: The grammar has become too complex.
        """
        if self.stage == "before":
            # an answer that is to have a form does not end with what is thought
            row[:] = 255
            for token in self.ends:
                if token >> 3 < len(row):
                    row[token >> 3] = int(row[token >> 3]) & (255 - (1 << (token & 7)))
            return False
        if self.stage == "opening" and self.count:
            row[:] = 0
            self._let_open(row)
            return False
        self._matcher.mask(row)
        may_end = self._matcher.is_accepting()
        only_end = may_end and not row.any()
        for token in self.ends:
            if token >> 3 < len(row):
                bit = 1 << (token & 7)
                row[token >> 3] = (int(row[token >> 3]) & (255 - bit)) | (bit if may_end else 0)
        if self.stage == "opening" and self._has_room():
            self._let_open(row)
            return False
        return only_end

    @property
    def masks(self) -> bool:
        """Whether not everything may come next."""
        return self.stage != "over" and self._bound

    def _has_room(self) -> bool:
        """Say whether a document fits in what is left when nothing is thought but its tags."""
        if not self._bound:
            return True
        return self._left >= len(self._opening) + len(self._closing) + len(self._grammar.shortest or ())

    def _let_open(self, row: Bits) -> None:
        token = self._opening[self.count]
        if token >> 3 >= len(row):
            raise GrammarError("the model has no token that begins what it thinks")
        row[token >> 3] |= 1 << (token & 7)

    def _enter(self, token: int) -> None:
        """See by one of the first tokens whether the answer thinks first."""
        if token != self._opening[self.count] or (not self.count and not self._has_room()):
            self.stage = "within" if self._bound else "over"
        elif self.count + 1 == len(self._opening):
            self.stage, self._way = "before", None

    def leads_on(self, token: int) -> bool:
        """Say whether a token that may come next would be taken: whether a way to an end in time is left after it."""
        certain = self.certain
        if self.stage == "before":
            return certain is None
        opens = self.stage == "opening" and token == self._opening[self.count]
        way = self._shorter_if_tight()
        if opens or way is None or self._is_end(token):
            return True
        trial = self._matcher.copy()
        return not self._tight and trial.accept(token) and trial.closing(self._left - 1, way) is not None

    @property
    def certain(self) -> int | None:
        """A token that leads on for certain, if one is known; of what is thought the one that must come."""
        if self.stage == "before":
            forced = self._forced or (self._closing if self._is_short() else ())
            return forced[0] if forced else None
        way = self._shorter_if_tight()
        return way[0] if way else None

    def take(self, token: int) -> Taken:
        """Take a token that was drawn, or another one that leads to an end in time.

        Raises:
            GrammarError: It may not come.
        """
        drawn = token
        if self.stage == "opening":
            self._enter(token)
        elif self.stage == "before":
            token = self._think(token)
        taken = token if self.stage != "within" or self._is_end(token) else self._choose(token)
        closed = taken != drawn and (self.stage == "within" or self._hurried)
        self._pass(taken)
        whole = self.stage == "within" and self._matcher.is_whole()
        if whole:
            self.stage = "over"
        return Taken(taken, whole, closed)

    def _is_end(self, token: int) -> bool:
        return token in self.ends and self._matcher.is_accepting()

    def _pass(self, token: int) -> None:
        """Count a token, and see whether another stage begins after it."""
        self.count += 1
        self._left -= 1
        if self.stage == "within" and token in self.ends:
            self.stage = "over"
        if self.stage == "before":
            self._last.append(token)
            if tuple(self._last) == self._after:
                self._begin()

    def _think(self, token: int) -> int:
        """Give a token of what is thought, or one of those that end it when it is time."""
        if not self._forced:
            spent = self._budget is not None and self._thoughts >= self._budget
            self._hurried = not spent and self._is_short()
            if spent or self._hurried:
                self._forced.extend(self._closing)
        self._thoughts += 1
        return self._forced.popleft() if self._forced else token

    def _is_short(self) -> bool:
        """Say whether just enough tokens are left to end what is thought and write the shortest document."""
        return self._bound and self._left <= len(self._closing) + len(self._grammar.shortest or ())

    def _begin(self) -> None:
        self.stage = "within" if self._bound else "over"
        shortest = self._grammar.shortest
        if shortest is not None and len(shortest) <= self._left:
            self._way = shortest

    def _choose(self, token: int) -> int:
        """Go on with a token, or with the next one of the known way."""
        way = self._shorter_if_tight()
        if way is not None and token not in way[:1]:
            if not self._tight and self._try(token, way):
                return token
            way = self._way_from_here(way)
            if not way and self.ends:
                return self.ends[0]  # the document is whole, and what was drawn would not leave it so
            token = way[0] if way else token
        self._go_on(token)
        self._way = way[1:] if way else None
        return token

    def _shorter_if_tight(self) -> tuple[int, ...] | None:
        """Look once more for a shorter way when the known one takes all that is left."""
        if self._way is not None and len(self._way) >= self._left and not self._tight:
            shorter = self._matcher.closing(self._left - 1, ())
            self._tight = shorter is None
            self._way = self._way if shorter is None else shorter
        return self._way

    def _try(self, token: int, way: tuple[int, ...]) -> bool:
        """Go on with a token if there is a way to an end after it."""
        trial = self._matcher.copy()
        if not trial.accept(token):
            raise GrammarError(_NOT_ALLOWED)
        found = trial.closing(self._left - 1, way)
        if found is None:
            return False
        self._matcher, self._way = trial, found
        return True

    def _way_from_here(self, known: tuple[int, ...]) -> tuple[int, ...]:
        """Choose the way that is taken: it depends on the tokens so far, and not on how they were followed."""
        found = self._matcher.closing(self._left, ())
        return known if found is None else found

    def _go_on(self, token: int) -> None:
        if not self._matcher.accept(token):
            raise GrammarError(_NOT_ALLOWED)

    def _replay(self, output: Sequence[int]) -> None:
        """Take in what was put out before, as it was: first without ways, which are seldom needed."""
        promised, written = False, list[int]()
        for token in output:
            promised = promised or self._way is not None
            self._way = None
            if self.stage == "opening":
                self._enter(token)
            elif self.stage == "before":
                self._think(token)
            if self.stage == "within" and not self._is_end(token):
                self._go_on(token)
                written.append(token)
            self._pass(token)
        if output and promised and self.stage == "within":
            self._way = self._matcher.closing(self._left, ())
            if self._way is None:
                self._way = self._followed(written)

    def _followed(self, written: Sequence[int]) -> tuple[int, ...] | None:
        """Find the way to the end from what was written of the document, as it was known while it was written."""
        matcher, left = self._grammar.matcher(), self._left + len(written)
        way = self._grammar.shortest
        for token in written:
            left -= 1
            if way is None or not matcher.accept(token):
                return None
            way = way[1:] if token in way[:1] else matcher.closing(left, way)
        return way
