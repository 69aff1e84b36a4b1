"""The grammar backend that is always there: llguidance (MIT), an Earley parser over a trie of the vocabulary.

It compiles JSON schemas in a millisecond however large their bounds are, and says what it does not know instead of
leaving it out. What a grammar costs is limited by it: fuel for the lexer, items for the parser, both at compilation and
at every step; what needs more is an error of that request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
from llguidance import LLMatcher, LLTokenizer, grammar_from
from llguidance.gbnf_to_lark import any_to_lark

from engine.structured.alphabet import Alphabet
from engine.structured.checks import closed, parsed, schema_of
from engine.structured.closing import closing, fits, leads_on, shortest
from engine.structured.endings import Endings, endings_of
from engine.structured.grammar import Bits, GrammarError, Vocabulary
from engine.structured.tags import lark_of_tags
from engine.structured.terminals import rewritten
from engine.text.values import JSON_SPACE
from schemas.structured import Structured

_MOST_TOLD: Final = 500
_MOST: Final = 4096
"""Tokens of the shortest answer, if it is to be found."""
_TRIES: Final = 1000
"""Steps of the search for it."""


class Guidance:
    """Compiles with llguidance."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Read the vocabulary; this takes from milliseconds to a second.

        Raises:
            GrammarError: The tokenizer is of a kind that llguidance does not know.
        """
        try:
            self._tokenizer = LLTokenizer(
                vocabulary.tokenizer, n_vocab=vocabulary.size, eos_token=list(vocabulary.ends)
            )
            found = msgspec.json.decode(vocabulary.tokenizer, type=_TokenizerFile)
        except (ValueError, msgspec.MsgspecError) as error:
            raise GrammarError(f"this model's tokenizer cannot be used with grammars: {error}") from error
        # some that the file does not call special are none the less: llguidance never reads these as text
        added = (one for one in found.added_tokens if one.id < vocabulary.size)
        self._special = {one.content: one.id for one in added if self._tokenizer.is_special_token(one.id)}
        self._alphabet = Alphabet(self._tokenizer, vocabulary.ends)

    def compile(self, structured: Structured) -> GuidedGrammar:
        """Compile one.

        Raises:
            GrammarError: It is none.
        """
        try:
            source = self._source(structured)
        except ValueError as error:
            raise GrammarError(_shortened(str(error))) from error
        first = self._first(source)
        if structured.kind == "grammar" and not self._comes_to_an_end(*first):
            first = next((other for other in self._rewritten(structured) if self._comes_to_an_end(*other)), first)
        return GuidedGrammar(first[0], self._alphabet, first[1])

    def _first(self, source: str) -> tuple[LLMatcher, Endings]:
        matcher = LLMatcher(self._tokenizer, source, log_level=0)
        if matcher.is_error():
            raise GrammarError(_shortened(matcher.get_error()))
        return matcher, endings_of(source, self._tokenizer, self._special)

    def _comes_to_an_end(self, matcher: LLMatcher, endings: Endings) -> bool:
        """Say whether a way to an end is found soon, and others from places where an answer would leave it."""
        way = closing(matcher, self._alphabet, _MOST, endings)
        return way is not None and leads_on(matcher, way, self._alphabet, endings)

    def _rewritten(self, structured: Structured) -> Iterator[tuple[LLMatcher, Endings]]:
        """Give the same grammar in which terminals do not take from one another what they need."""
        for source in rewritten(any_to_lark(structured.text)):
            with suppress(GrammarError, ValueError):
                yield self._first(LLMatcher.grammar_from_lark(source))

    def _source(self, structured: Structured) -> str:
        """Write a grammar as llguidance reads it."""
        match structured.kind:
            case "json_schema" | "json_object":
                return LLMatcher.grammar_from_json_schema(_spaced(schema_of(structured), structured))
            case "regex":
                return LLMatcher.grammar_from_regex(structured.text)
            case "choice":
                return grammar_from("choice", json.dumps(structured.choices))
            case "grammar":
                return grammar_from("grammar", structured.text)
            case "structural_tag":
                tags: Mapping[str, Any] = parsed(structured)
                lark = lark_of_tags(tags, lambda schema: _inline(schema, structured), self._special)
                return LLMatcher.grammar_from_lark(lark)


class GuidedGrammar:
    """A compiled grammar."""

    def __init__(self, first: LLMatcher, alphabet: Alphabet, endings: Endings) -> None:
        self._first = first
        self._alphabet = alphabet
        self._endings = endings
        self.shortest = shortest(first, alphabet, _MOST, _TRIES, endings)

    def matcher(self) -> GuidedMatcher:
        """Return a matcher that stands at the beginning."""
        return GuidedMatcher(self._first.deep_copy(), self._alphabet, self._endings)


class GuidedMatcher:
    """Follows one answer."""

    def __init__(self, matcher: LLMatcher, alphabet: Alphabet, endings: Endings) -> None:
        self._matcher = matcher
        self._alphabet = alphabet
        self._endings = endings
        self._last = 0
        """The token that was taken last."""

    def mask(self, row: Bits) -> None:
        """Set the bits of all tokens that may come next, and clear those of all others.

        Raises:
            GrammarError: The parser needs more than it may.
        """
        self._alphabet.fill(self._matcher, row)
        if self._matcher.is_error():
            raise GrammarError(_shortened(self._matcher.get_error()))

    def accept(self, token: int) -> bool:
        """Take the next token; false if it may not come."""
        self._last = token
        return self._matcher.consume_token(token)

    def is_accepting(self) -> bool:
        """Say whether the answer may end here."""
        return self._matcher.is_accepting()

    def is_whole(self) -> bool:
        """Say whether the answer may end here and do nothing else."""
        return self._matcher.is_accepting() and self._matcher.is_stopped()

    def copy(self) -> GuidedMatcher:
        """Return another one that stands at the same place."""
        return GuidedMatcher(self._matcher.deep_copy(), self._alphabet, self._endings)

    def closing(self, most: int, likely: Sequence[int]) -> tuple[int, ...] | None:
        """Name tokens, at most so many, after which the answer may end."""
        for rest in self._what_is_left(likely):
            if len(rest) <= most and fits(self._matcher, rest, self._alphabet):
                return rest
        return closing(self._matcher, self._alphabet, most, self._endings)

    def _what_is_left(self, likely: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Give what a way may have become by the last token: the same, the rest of it, or what is behind its text."""
        for start in range(min(len(likely), 3)):
            yield tuple(likely[start:])
        if likely:
            # where a number of characters is to come, the token stands for as many of them as it has
            yield self._alphabet.behind(self._last, likely)


class _AddedToken(msgspec.Struct):
    id: int
    content: str


class _TokenizerFile(msgspec.Struct):
    added_tokens: list[_AddedToken] = []


def _inline(schema: Any, structured: Structured) -> str:
    return f"%json {_spaced(closed(schema, structured), structured)}"


def _spaced(schema: Any, structured: Structured) -> str:
    """Write a schema with what may stand between the tokens of its JSON."""
    options: dict[str, Any] = {"whitespace_flexible": structured.any_whitespace}
    if structured.any_whitespace:
        options["whitespace_pattern"] = structured.whitespace or JSON_SPACE
    if schema is True:
        schema = {}
    return json.dumps({**schema, "x-guidance": options} if isinstance(schema, dict) else schema)


def _shortened(problem: str) -> str:
    """Leave the parser's state out of a message: it is long, and of no use to whoever wrote the grammar."""
    told = re.split(r"\n\s*<state>", problem)[0].strip()
    return told if len(told) <= _MOST_TOLD else f"{told[:_MOST_TOLD]}…"
