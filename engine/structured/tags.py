"""Structural tags as a Lark grammar: free text in which some beginnings must be followed by what they promise.

Two spellings are read. The first is `{"structures": [{"begin", "schema", "end"}], "triggers": [...]}`: text is free
until one of the triggers comes up in it; then one of the structures that begin with it has to follow, with JSON of its
schema inside. The second is `{"format": {...}}`, a tree of `const_string`, `json_schema`, `regex`, `any_text`,
`sequence`, `or`, `tag`, `triggered_tags` and `tags_with_separator`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llguidance import regex_to_lark

from engine.structured.grammar import GrammarError

Embed = Callable[[Any], str]
"""Writes a JSON schema as a part of a Lark grammar."""


def lark_of_tags(tags: Mapping[str, Any], embed: Embed, special: Mapping[str, int]) -> str:
    """Translate structural tags.

    Args:
        tags: in either spelling.
        embed: how schemas are written.
        special: tokens of the model that stand for themselves, and are no text.

    Raises:
        GrammarError: A part is missing or of no known type.
    """
    writer = _Writer(embed, special)
    try:
        start = writer.part(tags["format"] if "format" in tags else _triggered(tags))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GrammarError(f"structural tags: {type(error).__name__}: {error}") from error
    return "\n".join((f"start: {start}", "TEXT: /(.|\\n)*/", *writer.rules))


def _triggered(tags: Mapping[str, Any]) -> dict[str, Any]:
    """Spell the first spelling as the second."""
    return {
        "type": "triggered_tags",
        "triggers": tags["triggers"],
        "tags": [
            {
                "begin": one["begin"],
                "content": {"type": "json_schema", "json_schema": one.get("schema", {})},
                "end": one["end"],
            }
            for one in tags["structures"]
        ],
    }


class _Writer:
    """Collects the rules of one grammar."""

    def __init__(self, embed: Embed, special: Mapping[str, int]) -> None:
        self.rules: list[str] = []
        self._embed = embed
        self._special = special
        names = "|".join(re.escape(name) for name in sorted(special, key=len, reverse=True))
        self._split = re.compile(f"({names})") if names else None

    def part(self, format_: Mapping[str, Any]) -> str:
        """Write one node of a format as an expression."""
        writers: dict[Any, Callable[[Mapping[str, Any]], str]] = {
            "const_string": lambda node: self._literal(node["value"]),
            "json_schema": lambda node: self._embed(node["json_schema"]),
            "regex": lambda node: f"/{regex_to_lark(node['pattern'])}/",
            "any_text": lambda node: self._rule("TEXT"),
            "sequence": lambda node: self._rule(self._sequence(node["elements"])),
            "or": lambda node: self._any_of(self.part(one) for one in node["elements"]),
            "tag": lambda node: self._tag(node, self._literal(node["begin"])),
            "triggered_tags": self._triggered_tags,
            "tags_with_separator": self._separated,
        }
        kind = format_["type"]
        if kind not in writers:
            raise GrammarError(f"structural tags: there is no format of type {kind!r} here")
        return writers[kind](format_)

    def _any_of(self, parts: Iterable[str]) -> str:
        return self._rule(" | ".join(parts))

    def _tag(self, tag: Mapping[str, Any], begin: str) -> str:
        """Write a tag whose beginning, or what is left of it, is `begin`."""
        return self._rule(f"{begin} {self._followed(tag['content'], tag['end'])}")

    def _sequence(self, elements: Sequence[Mapping[str, Any]]) -> str:
        """Write one part after another."""
        parts, rest = list[str](), list(elements)
        while rest:
            one = rest.pop(0)
            following = rest[0]["type"] if rest else None
            if following == "const_string":
                parts.append(self._followed(one, rest.pop(0)["value"]))
            elif following == "tag":
                tag = rest.pop(0)
                parts.append(self._tag(tag, self._followed(one, tag["begin"])))
            else:
                parts.append(self.part(one))
        return " ".join(parts)

    def _followed(self, format_: Mapping[str, Any], text: str) -> str:
        """Write a part that a text comes after. Where the text may be in the part, too, its first one counts."""
        match format_["type"]:
            case "any_text":
                return self._until(text)
            case "regex":
                return self._until(text, f"/{regex_to_lark(format_['pattern'])}/")
        return f"{self.part(format_)} {self._literal(text)}"

    def _triggered_tags(self, format_: Mapping[str, Any]) -> str:
        triggers, tags = list(format_["triggers"]), []
        for tag in format_["tags"]:
            trigger = next((one for one in triggers if one and tag["begin"].startswith(one)), None)
            if trigger is None:
                raise GrammarError(f"structural tags: {tag['begin']!r} begins with none of the triggers {triggers}")
            tags.append(self._tag(tag, f"{self._until(trigger)} {self._literal(tag['begin'][len(trigger) :])}"))
        if not tags:
            raise GrammarError("structural tags: give at least one")
        least, once, tail = bool(format_.get("at_least_one")), bool(format_.get("stop_after_first")), self._rule("TEXT")
        if once:
            return self._any_of(tags if least else [*tags, tail])
        return self._rule(f"{self._any_of(tags)}{'+' if least else '*'} {tail}")

    def _separated(self, format_: Mapping[str, Any]) -> str:
        tag = self._any_of(self._tag(one, self._literal(one["begin"])) for one in format_["tags"])
        more = "" if format_.get("stop_after_first") else f"({self._literal(format_['separator'])} {tag})*"
        return self._rule(f"({tag} {more})" + ("" if format_.get("at_least_one") else "?"))

    def _until(self, text: str, before: str = "TEXT") -> str:
        """Write free text, or what is given, up to and with a text: as little of it as there is."""
        if not text:
            return self._rule(before)
        first, *rest = self._pieces(text)
        if first in self._special:
            return " ".join((self._rule(before), *map(self._piece, (first, *rest))))
        lazy = self._rule(f"{before} {json.dumps(first)}", "[lazy]")
        return " ".join((lazy, *map(self._piece, rest)))

    def _literal(self, text: str) -> str:
        return " ".join(map(self._piece, self._pieces(text))) or '""'

    def _pieces(self, text: str) -> list[str]:
        """Part a text where special tokens are."""
        return [piece for piece in (self._split.split(text) if self._split else [text]) if piece]

    def _piece(self, piece: str) -> str:
        return f"<[{self._special[piece]}]>" if piece in self._special else json.dumps(piece)

    def _rule(self, body: str, options: str = "") -> str:
        name = f"part_{len(self.rules)}"
        self.rules.append(f"{name}{options}: {body}")
        return name
