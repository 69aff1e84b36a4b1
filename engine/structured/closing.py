"""The shortest way to the end of a document, from wherever it is: what is to be written when the tokens run out.

No analysis of the grammar is needed. A parser can be copied in a microsecond and asked what may come next, so the way
is looked for by trying. Nearly always the closing characters, in the order in which they may come, are that way, and
what the grammar forces is known without looking. Where this does not lead to an end in time, ways are tried in the
order of their length: two that are equally long and leave the same choice are taken to be one, which keeps loops and
long strings from multiplying.

Where what comes last may be text of the body as well, what comes next does not tell the way: there the endings that
were read off the grammar are tried first.

A way that is found is one that the parser accepts, so what is promised of it holds; that there is no shorter one is
likely, not sure.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from engine.structured.alphabet import Alphabet
from engine.structured.endings import Endings, Ways

_SLACK: Final = 64
_WIDE: Final = 24
"""Single characters that may come next, beyond which only some are tried."""
_TRIES: Final = 200
_FEW: Final = 8
"""Ways that are all tried where a value begins."""
_DEEP: Final = 8
"""Characters that are tried to come out of a string."""
_STEPS: Final = 2000
"""Looks at the parser for one way, some ten microseconds each: a step of all requests waits for them."""
_STEPS_SOON: Final = 200
"""Of these, the ones in which nothing is made of what may end a part: in a list that would be what goes on with it."""
_STEPS_AT_FIRST: Final = 30_000
"""And where a grammar is compiled: other grammars wait for them."""
_PLACES: Final = 12
"""Places at which it is tried whether a way may be left."""
_OTHERS: Final = 4
"""And by what."""
_EXITS: Final = 4
"""Ways out of a string that are remembered."""


class _Exhausted(Exception):
    """Nothing was found with the looks there were."""


class _Effort:
    """What looking for one way has cost and taught so far."""

    def __init__(self, steps: int, parts: Ways = ()) -> None:
        self._left = steps
        self.parts = parts
        """What may end a part of an answer."""
        self.exits: list[tuple[int, ...]] = []
        """Ways out of strings that were found, the latest first."""

    def spend(self) -> None:
        """Look once at the parser.

        Raises:
            _Exhausted: That is one look too many.
        """
        self._left -= 1
        if self._left < 0:
            raise _Exhausted

    def learn(self, path: tuple[int, ...]) -> None:
        """Remember a way out of a string."""
        self.exits = [path, *[one for one in self.exits if one != path]][:_EXITS]


def fits(matcher: LLMatcher, tokens: Sequence[int], alphabet: Alphabet) -> bool:
    """Say whether these tokens may come next, and the answer may end after them."""
    return matcher.validate_tokens([*tokens, alphabet.end]) == len(tokens) + 1


def closing(
    matcher: LLMatcher, alphabet: Alphabet, most: int, endings: Endings, tries: int = _TRIES
) -> tuple[int, ...] | None:
    """Find at most so many tokens after which the answer may end; None if no such way is found."""
    ending = _ending(matcher, alphabet, most, endings)
    if ending is not None:
        return ending
    with suppress(_Exhausted):
        found = _Walk(matcher, alphabet, _Effort(_STEPS_SOON)).to_the_end(most)
        if found is not None and len(found) <= most:
            return found
    effort = _Effort(_STEPS - _STEPS_SOON, endings.parts)
    try:
        found = _Walk(matcher, alphabet, effort).to_the_end(most)
        if found is None or len(found) > most:
            found = _walked_straight(matcher, alphabet, most, tries, effort)
        if found is None or len(found) > most:
            found = _search(matcher, alphabet, most, tries, effort)
    except _Exhausted:
        return None
    return found


def shortest(matcher: LLMatcher, alphabet: Alphabet, most: int, tries: int, endings: Endings) -> tuple[int, ...] | None:
    """Find a way that is as short as can be found with so many tries."""
    known = _ending(matcher, alphabet, most, endings)
    # the cheapest first: what it finds bounds what others look for
    for look in (_walked_plainly, _walked, _walked_straight, _walked_carefully, _search):
        with suppress(_Exhausted):
            effort = _Effort(_STEPS_AT_FIRST, endings.parts)
            found = look(matcher, alphabet, most if known is None else len(known) - 1, tries, effort)
            known = known if found is None or (known is not None and len(known) <= len(found)) else found
    return known


def leads_on(matcher: LLMatcher, way: Sequence[int], alphabet: Alphabet, endings: Endings) -> bool:
    """Say whether an answer may leave a way to the end and still come to one, at each of the first places where it may
    leave it at all.
    """
    at = matcher.deep_copy()
    for token in way[:_PLACES]:
        allowed = alphabet.allowed(at)
        other = [one for one in alphabet.few[allowed[alphabet.few]].tolist() if one != token][:_OTHERS]
        others = [after for _, after in _steps(at, other, _Effort(len(other)))]
        if others and all(closing(after, alphabet, len(way) + _SLACK, endings) is None for after in others):
            return False
        if not at.consume_token(token):
            return False
    return True


def _ending(matcher: LLMatcher, alphabet: Alphabet, most: int, endings: Endings) -> tuple[int, ...] | None:
    """Choose the shortest of the known endings of answers that is one here."""
    if matcher.is_accepting():
        return ()
    if not endings.whole:
        return None
    allowed = alphabet.allowed(matcher)
    return next(
        (way for way in endings.whole if len(way) <= most and allowed[way[0]] and fits(matcher, way, alphabet)), None
    )


def _walked(matcher: LLMatcher, alphabet: Alphabet, most: int, tries: int, effort: _Effort) -> tuple[int, ...] | None:
    return _Walk(matcher, alphabet, effort).to_the_end(most)


def _walked_plainly(
    matcher: LLMatcher, alphabet: Alphabet, most: int, tries: int, effort: _Effort
) -> tuple[int, ...] | None:
    effort.parts = ()
    return _Walk(matcher, alphabet, effort).to_the_end(most)


def _walked_straight(
    matcher: LLMatcher, alphabet: Alphabet, most: int, tries: int, effort: _Effort
) -> tuple[int, ...] | None:
    """Walk without blanks that may end a part: they would be put wherever one may stand."""
    parts = effort.parts
    effort.parts = tuple(way for way in parts if alphabet.tokenizer.decode_bytes(list(way)).strip())
    try:
        return None if effort.parts == parts else _Walk(matcher, alphabet, effort).to_the_end(most)
    finally:
        effort.parts = parts


def _walked_carefully(
    matcher: LLMatcher, alphabet: Alphabet, most: int, tries: int, effort: _Effort
) -> tuple[int, ...] | None:
    return _Walk(matcher, alphabet, effort).carefully_to_the_end(most)


class _Walk:
    """Goes on from one place by what closes, and never comes back."""

    def __init__(self, matcher: LLMatcher, alphabet: Alphabet, effort: _Effort) -> None:
        self._start = matcher
        self._effort = effort
        self._matcher = matcher.deep_copy()
        self._alphabet = alphabet
        self._path: list[int] = []
        self._in_words = False
        """Whether no short way out of a string was found, so that it is filled with long words."""

    def to_the_end(self, most: int) -> tuple[int, ...] | None:
        """Take the first choice everywhere; None if this leads nowhere. The way may be longer than `most`, by some."""
        while not self._matcher.is_accepting():
            tokens = self._matcher.compute_ff_tokens() or self._choice()
            if not self._take(tokens) or len(self._path) > 2 * most + _SLACK:
                return None
        return _merged(self._start, tuple(self._path), self._alphabet)

    def carefully_to_the_end(self, most: int) -> tuple[int, ...] | None:
        """The same, but wherever a value begins try all that it can be, and take what leads to the end soonest."""
        while not self._matcher.is_accepting():
            tokens = self._matcher.compute_ff_tokens() or self._best_choice(most - len(self._path))
            if not self._take(tokens) or len(self._path) > most:
                return None
        return _merged(self._start, tuple(self._path), self._alphabet)

    def _take(self, tokens: list[int]) -> bool:
        self._path += tokens
        return bool(tokens) and self._matcher.consume_tokens(tokens)

    def _best_choice(self, most: int) -> list[int]:
        allowed = self._alphabet.allowed(self._matcher)
        singles = self._alphabet.singles[allowed[self._alphabet.singles]]
        if not 1 < singles.size <= _FEW or np.isin(singles[0], self._alphabet.closers):
            return self._choice()
        ways = []
        for token in singles.tolist():
            after = self._matcher.deep_copy()
            if after.consume_token(token):
                rest = _Walk(after, self._alphabet, self._effort).to_the_end(most)
                ways += [] if rest is None else [(len(rest), token)]
        return [min(ways)[1]] if ways else []

    def _choice(self) -> list[int]:
        """Choose what comes next."""
        self._effort.spend()
        alphabet, allowed = self._alphabet, self._alphabet.allowed(self._matcher)
        ending = self._ending_of_part(allowed)
        if ending:
            return ending
        singles = alphabet.singles[allowed[alphabet.singles]]
        digit, letter, quote = (
            token is not None and bool(allowed[token]) for token in (alphabet.digit, alphabet.letter, alphabet.quote)
        )
        if quote or not letter:
            self._in_words = False
        if letter:
            return [int(alphabet.quote or 0)] if quote else self._out_of_string(allowed)
        if quote and digit:
            return [int(alphabet.digit or 0)]  # any value: a number is the shortest
        found: list[int] = (singles if singles.size else np.flatnonzero(allowed))[:1].tolist()
        return found

    def _ending_of_part(self, allowed: npt.NDArray[np.bool_]) -> list[int]:
        """Go on by what ends a part of the answer: something else may come after it. If nothing does, by nothing."""
        if not self._effort.parts or self._alphabet.is_outside(self._matcher):
            return []
        singles, shut = self._alphabet.singles, list[int]()
        for way in self._effort.parts:
            if not allowed[way[0]]:
                continue
            self._effort.spend()
            after = self._matcher.deep_copy()
            if not after.consume_tokens(list(way)):
                continue
            following = self._alphabet.allowed(after)
            if after.is_accepting() or np.any(following[singles] > allowed[singles]):
                return list(way)
            if not following[way[0]]:
                shut = shut or list(way)
        return shut

    def _out_of_string(self, allowed: npt.NDArray[np.bool_]) -> list[int]:
        """Go to where a string may end: by few characters if some are found, else by long words."""
        found = None if self._in_words else _out_of_string(self._matcher, self._alphabet, self._effort)
        if found is not None:
            self._effort.learn(found)
            return list(found)
        self._in_words = True
        return [self._alphabet.longest(allowed)]


def _out_of_string(matcher: LLMatcher, alphabet: Alphabet, effort: _Effort) -> tuple[int, ...] | None:
    """Find a few characters after which a string may end, or the answer."""
    for path in effort.exits:
        effort.spend()
        after = matcher.deep_copy()
        if after.consume_tokens(list(path)) and alphabet.is_outside(after):
            return path
    level: list[tuple[tuple[int, ...], LLMatcher]] = [((), matcher)]
    tries = _TRIES
    for _ in range(_DEEP):
        following, seen = list[tuple[tuple[int, ...], LLMatcher]](), set[bytes]()
        for path, at in level:
            allowed = alphabet.allowed(at)
            mark = np.packbits(allowed).tobytes()
            tries -= 1
            if mark not in seen:
                seen.add(mark)
                singles = alphabet.singles[allowed[alphabet.singles]]
                if path and singles.size > _WIDE:
                    singles = alphabet.few[allowed[alphabet.few]]
                following += [((*path, token), after) for token, after in _steps(at, singles.tolist(), effort)]
            if tries <= 0:
                return None
        for path, at in following:
            if alphabet.is_outside(at):
                return path
        level = following
    return None


def _steps(matcher: LLMatcher, tokens: Sequence[int], effort: _Effort) -> Iterator[tuple[int, LLMatcher]]:
    """Go one character on, each that is given."""
    for token in tokens:
        effort.spend()
        after = matcher.deep_copy()
        if after.consume_token(token):
            yield token, after


def _search(matcher: LLMatcher, alphabet: Alphabet, most: int, tries: int, effort: _Effort) -> tuple[int, ...] | None:
    """Try ways in the order of their length in tokens."""
    number, seen = 0, set[tuple[int, bytes]]()
    heap: list[tuple[int, int, tuple[int, ...], LLMatcher]] = [(0, 0, (), matcher.deep_copy())]
    while heap and tries:
        length, _, path, at = heapq.heappop(heap)
        if at.is_accepting():
            return _merged(matcher, path, alphabet)
        tries -= 1
        for tokens in _following(at, path, alphabet, seen):
            if length + len(tokens) > most:
                continue
            effort.spend()
            after = at.deep_copy()
            if after.consume_tokens(tokens):
                number += 1
                heapq.heappush(heap, (length + len(tokens), number, (*path, *tokens), after))
    return None


def _following(
    matcher: LLMatcher, path: tuple[int, ...], alphabet: Alphabet, seen: set[tuple[int, bytes]]
) -> Iterator[list[int]]:
    """Name what may come next and is worth a try."""
    forced = matcher.compute_ff_tokens()
    if forced:
        yield forced
        return
    allowed = alphabet.allowed(matcher)
    mark = (len(alphabet.tokenizer.decode_bytes(list(path))), np.packbits(allowed).tobytes())
    if mark in seen:
        return
    seen.add(mark)
    singles = alphabet.singles[allowed[alphabet.singles]]
    if singles.size > _WIDE:
        singles = np.append(singles[: _WIDE // 2], alphabet.longest(allowed))
    elif not singles.size:
        singles = np.flatnonzero(allowed)[:_WIDE]
    for token in dict.fromkeys(singles.tolist()):
        yield [token]


def _merged(matcher: LLMatcher, path: tuple[int, ...], alphabet: Alphabet) -> tuple[int, ...]:
    """Spell a way with as few tokens as the tokenizer would."""
    merged = tuple(alphabet.tokenizer.tokenize_bytes(alphabet.tokenizer.decode_bytes(list(path))))
    return merged if len(merged) < len(path) and fits(matcher, merged, alphabet) else path
