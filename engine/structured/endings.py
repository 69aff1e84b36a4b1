"""Tokens that may end an answer of a grammar, or a part of it, wherever it is: read off its source.

What an answer can end with may be text of its body as well (`[a-z ]+end`), and then nothing that may come next tells
the way to the end from a way around. The source tells it: a finite number of rests is all that a regular expression
leaves, and a grammar as far as it is not nested deeply. They are guesses none the less, and all are tried before they
are believed: a source that is not understood leaves fewer of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Final

from llguidance import LLTokenizer

from engine.structured.expressions import MOST_RESTS, Expression, Pieces, rests, rests_within
from engine.structured.lark import read_lark
from engine.structured.regexes import Unreadable, read_regex

Ways = tuple[tuple[int, ...], ...]

_MOST_PATTERNS: Final = 50
_START: Final = "start"


@dataclass(frozen=True, slots=True)
class Endings:
    """What may come last, in tokens, the fewest first."""

    whole: Ways = ()
    """Of an answer."""
    parts: Ways = ()
    """Of a part of it."""


def endings_of(source: str, tokenizer: LLTokenizer, special: Mapping[str, int]) -> Endings:
    """Read a grammar as llguidance takes it: Lark, or a JSON object with `grammars`."""
    try:
        rules, schemas = _read(source, special)
    except (Unreadable, RecursionError):
        return Endings()
    strings = dict[str, Expression]()
    for pattern in islice(_patterns(schemas), _MOST_PATTERNS):
        strings |= _pattern(pattern)

    def size(pieces: Pieces) -> int:
        return len(_spelt(pieces, tokenizer))

    whole = rests(rules, _START, size) if _START in rules else []
    parts = [*rests_within(rules, size), *map(_in_json, rests_within(strings, size))]
    return Endings(_ways(whole, tokenizer), _ways(parts, tokenizer))


def _read(source: str, special: Mapping[str, int]) -> tuple[dict[str, Expression], list[Any]]:
    if not source.lstrip().startswith("{"):
        return read_lark(source, special)
    rules, schemas = dict[str, Expression](), list[Any]()
    for one in json.loads(source)["grammars"]:
        if one.get("lark_grammar"):
            more, found = read_lark(one["lark_grammar"], special)
            rules |= more
            schemas += found
        else:
            schemas.append(one.get("json_schema"))
    return rules, schemas


def _patterns(schema: Any) -> Iterator[str]:
    """Find the regular expressions in a JSON schema."""
    if isinstance(schema, list):
        for one in schema:
            yield from _patterns(one)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if key == "pattern" and isinstance(value, str):
                yield value
            elif key == "patternProperties" and isinstance(value, dict):
                yield from value
            yield from _patterns(value)


def _pattern(source: str) -> dict[str, Expression]:
    try:
        return {source: read_regex(source)}
    except Unreadable:
        return {}


def _in_json(pieces: Pieces) -> Pieces:
    """Write a text as it stands in a string of JSON."""
    return tuple(json.dumps(piece, ensure_ascii=False)[1:-1] for piece in pieces)


def _spelt(pieces: Pieces, tokenizer: LLTokenizer) -> tuple[int, ...]:
    """Spell a rest as the tokenizer does."""
    tokens = list[int]()
    for _, run in groupby(pieces, type):
        some = list(run)
        tokens += _written("".join(piece for piece in some if isinstance(piece, str)), tokenizer)
        tokens += [piece for piece in some if isinstance(piece, int)]
    return tuple(tokens)


def _written(text: str, tokenizer: LLTokenizer) -> list[int]:
    """Spell a text; one that is spelled with a token that is no text character by character."""
    tokens: list[int] = tokenizer.tokenize_bytes(text.encode())
    if any(map(tokenizer.is_special_token, tokens)):
        return [token for char in text for token in tokenizer.tokenize_bytes(char.encode())]
    return tokens


def _ways(found: Iterable[Pieces], tokenizer: LLTokenizer) -> Ways:
    spelt = {_spelt(pieces, tokenizer) for pieces in found}
    return tuple(sorted((way for way in spelt if way), key=lambda way: (len(way), way))[:MOST_RESTS])
