"""Formats as grammars: what binds an answer to calls of the tools that were offered, as llguidance reads Lark.

The same description that calls are read by says how they are written; of what it leaves open, a grammar takes what
the templates of such models have. Whatever a grammar lets through is read as the call that it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from engine.text.formats import Channels, Format, Opener
from engine.text.parsers import Thinking, Wanted
from engine.text.patterns import as_terminal, unanchored
from engine.text.steps import (
    Arguments,
    Calls,
    Either,
    End,
    Mark,
    Maybe,
    Name,
    Pairs,
    PythonCalls,
    Skipped,
    Space,
    Step,
)
from engine.text.values import JSON_SPACE, properties, required, types
from schemas.messages import ToolSpec

_COMMA: Final = ' "," SPACE? '
_TERMINALS: Final = r"""TEXT: /(.|\n)*/
SPACE: /[ \n]{1,4}/
LABEL: /[-:._a-zA-Z0-9]{0,64}/
KEY: /[_a-zA-Z][-._a-zA-Z0-9]{0,64}/"""


def calling_grammar(
    wanted: Wanted, tools: Sequence[ToolSpec], special: Mapping[str, int], *, required: bool = True
) -> str:
    """Write the grammar of an answer that calls tools.

    Where the answer begins inside reasoning the grammar is of what follows after it.

    Args:
        wanted: how the answer is read; after `most_calls` calls there may be no more.
        tools: of which one is called, or more.
        special: the tokenizer's special tokens and those like them (`Tokenizer.tags`), which stand for themselves.
        required: whether there is nothing but calls; otherwise there may be text, and what begins as a call is one.

    Returns:
        The grammar; empty where the format has no calls, or there is no way to tell text from them.
    """
    format_ = wanted.format
    writer = _Writer(special)
    if format_.channels is not None:
        start = writer.addressed(format_.channels, tools, json_mark=format_.silent[0]) if required else ""
    elif required:
        start = writer.calls(format_, tools, single=wanted.most_calls == 1)
    else:
        start = writer.among_text(format_, tools)
    if not start:
        return ""
    if wanted.thinking is not None and not wanted.begun:
        start = f"{writer.thought(wanted.thinking)}? {start}"
    return "\n".join((f"start: {start}", *writer.rules, _TERMINALS))


def calls_after_thought(wanted: Wanted, tools: Sequence[ToolSpec], special: Mapping[str, int]) -> str:
    """Write the grammar of an answer in channels that calls a tool, without what is thought before.

    Returns:
        The grammar; empty where the format has no channels.
    """
    writer, format_ = _Writer(special), wanted.format
    if format_.channels is None:
        return ""
    start = writer.addressed_at_once(format_.channels, tools, json_mark=format_.silent[0])
    return "\n".join((f"start: {start}", *writer.rules, _TERMINALS))


class _Writer:
    """Collects the rules of one grammar."""

    def __init__(self, special: Mapping[str, int]) -> None:
        self.rules: list[str] = []
        self._special = special
        names = "|".join(re.escape(name) for name in sorted(special, key=len, reverse=True))
        self._split = re.compile(f"({names})") if names else None
        self._writers: dict[type[Any], Callable[[Any, ToolSpec], str]] = {
            Space: lambda step, tool: "SPACE?",
            Mark: lambda step, tool: self._literal(step.text),
            Maybe: lambda step, tool: f"({self._literal(step.text)})?",
            End: lambda step, tool: self._literal(step.text),
            Skipped: lambda step, tool: f"LABEL {self._literal(step.end)}",
            Name: self._name,
            Arguments: lambda step, tool: self._json(_object(tool.parameters)),
            Calls: self._object,
            Pairs: self._pairs,
            Either: self._either,
        }

    def thought(self, thinking: Thinking) -> str:
        """Write reasoning with its tags, and the space after it."""
        return self._rule(f"{self._literal(thinking.open)} {self._until(thinking.close)} SPACE?")

    def calls(self, format_: Format, tools: Sequence[ToolSpec], *, single: bool) -> str:
        """Write one call or, if not `single`, any number of them."""
        ways = [self._call(opener, tools, single=single) for opener in format_.openers if opener.first]
        if not ways:
            return ""
        call = self._any_of(ways)
        parting = self._literal(format_.parting) if format_.parting else "SPACE?"
        more = "" if single else f" ({parting} {call})*"
        if len(format_.silent) != 2:
            return self._rule(f"{call}{more}")
        begin, end = map(self._literal, format_.silent)
        return self._rule(f"({begin} SPACE?)? {call}{more} (SPACE? {end})?")

    def among_text(self, format_: Format, tools: Sequence[ToolSpec]) -> str:
        """Write text in which every call is whole."""
        openers = [opener for opener in format_.openers if opener.first]
        if not openers or any(opener.fresh for opener in openers):
            # what begins with no tag cannot be told from text
            return ""
        calls = [f"{self._until(opener.mark)} {self._rest(opener, tools, single=False)}" for opener in openers]
        return self._rule(f"{self._any_of(calls)}* TEXT")

    def addressed(self, channels: Channels, tools: Iterable[ToolSpec], json_mark: str) -> str:
        """Write a message to a tool, after any number of thoughts."""
        thoughts = [
            f"{self._literal(channels.channel + name + channels.message)} {self._until(channels.ends[0])}"
            for name in sorted(channels.reasoning)
        ]
        call = self._message(channels, tools, json_mark)
        return self._rule(f"({self._any_of(thoughts)} {self._literal(channels.speaker)})* {call}")

    def addressed_at_once(self, channels: Channels, tools: Sequence[ToolSpec], json_mark: str) -> str:
        """Write a message to a tool, at the beginning or behind another message.

        Without a speaker it begins with its channel: an address alone is one at the beginning only.
        """
        call = self._message(channels, tools, json_mark)
        bare = self._message(channels, tools, json_mark, begins=channels.channel)
        return self._rule(f"{self._literal(channels.speaker)} {call} | {bare}")

    def _message(self, channels: Channels, tools: Iterable[ToolSpec], json_mark: str, begins: str = "") -> str:
        """Write a message to a tool whose head begins in some way."""
        ways = []
        for tool in tools:
            address = channels.addressed + channels.functions + tool.name
            heads = (
                channels.calling.format(address),
                f" {address}{channels.calling.replace(' {}', '')}",
                channels.calling.format(address).replace(f" {json_mark}", " "),
            )
            head = self._any_of(self._literal(head + channels.message) for head in heads if head.startswith(begins))
            ways.append(f"{head} {self._json(_object(tool.parameters))}")
        return self._any_of(ways)

    def _call(self, opener: Opener, tools: Sequence[ToolSpec], *, single: bool) -> str:
        mark = "" if opener.kept else f"{self._literal(opener.mark)} "
        return mark + self._rest(opener, tools, single=single)

    def _rest(self, opener: Opener, tools: Sequence[ToolSpec], *, single: bool) -> str:
        """Write what follows on an opener's mark."""
        parts = [
            self._python(step, tools, single=single) if isinstance(step, PythonCalls) else None for step in opener.steps
        ]
        if any(parts):
            return " ".join(part or "SPACE?" for part in parts)
        return self._any_of(self._steps(opener.steps, tool) for tool in tools)

    def _steps(self, steps: Iterable[Step], tool: ToolSpec) -> str:
        return " ".join(self._writers[type(step)](step, tool) for step in steps if type(step) in self._writers)

    def _name(self, step: Name, tool: ToolSpec) -> str:
        return self._literal(tool.name + ("" if step.stay else step.ends[0])) + (" SPACE?" if step.stay else "")

    def _object(self, step: Calls, tool: ToolSpec) -> str:
        """Write a call that is one JSON object."""
        shared = {name: tool.parameters[name] for name in _shared(tool.parameters)}
        arguments = {name: value for name, value in tool.parameters.items() if name not in shared}
        shape: dict[str, Any] = {
            "type": "object",
            "properties": {"name": {"const": tool.name}, step.arguments: _object(arguments)},
            "required": ["name", step.arguments],
            "additionalProperties": False,
        }
        whole = {"type": "array", "items": shape, "minItems": 1, "maxItems": 1} if step.many else shape
        return self._json(shared | whole)

    def _either(self, step: Either, tool: ToolSpec) -> str:
        return self._any_of(self._steps(way, tool) for way in step.ways)

    def _pairs(self, step: Pairs, tool: ToolSpec) -> str:
        """Write arguments as bare text, in the schema's order."""
        schema, line = tool.parameters, "\n" if step.lines else ""
        needed = required(schema)
        written = []
        for name, shape in properties(schema).items():
            pair = f"{self._literal(step.key[0] + name + step.key[1])} {self._value(step, shape, schema)}"
            written.append(f"{pair} SPACE?" if name in needed else f"({pair} SPACE?)?")
        if not written and schema.get("additionalProperties") is not False:
            key = f"{self._literal(step.key[0])} KEY {self._literal(step.key[1])}"
            written.append(f"({key} {self._value(step, None, schema)} SPACE?)*")
        return self._rule(f"{self._literal(line) if line else ''} {' '.join(written)} {self._literal(step.end)}")

    def _value(self, step: Pairs, shape: Any, root: Mapping[str, Any]) -> str:
        line = "\n" if step.lines else ""
        begin = f"SPACE? {self._literal(step.value[0])}" if step.value[0] else self._literal(line)
        end = line + step.value[1]
        allowed = types(shape, root)
        named = shape.get("enum") if isinstance(shape, dict) else None
        if allowed == {"string"} and named:
            return f"{begin} {self._any_of(map(self._literal, map(str, named)))} {self._literal(end)}"
        source = unanchored(shape.get("pattern")) if isinstance(shape, dict) else None
        if allowed == {"string"} and source is not None:
            return f"{begin} {self._bound(source, end)}"
        if not allowed or "string" in allowed:
            # not at the line end before it: the text would go on where it is read as ended, and could begin a key
            return f"{begin} {self._until(step.value[1])}"
        return f"{begin} {self._json(_rooted(shape, root))} {self._literal(end)}"

    def _python(self, step: PythonCalls, tools: Iterable[ToolSpec], *, single: bool) -> str:
        calls = [f"{self._literal(tool.name + '(')} {self._keywords(tool)} {self._literal(')')}" for tool in tools]
        call = self._any_of(calls)
        more = "" if single else f" ({_COMMA} {call})*"
        return f"{call}{more} SPACE? {self._literal(step.end)}"

    def _keywords(self, tool: ToolSpec) -> str:
        """Write `a=1, b=2`: those that are required first, and commas between whichever there are."""
        schema = tool.parameters
        known, musts = properties(schema), required(schema)
        pairs = {
            name: f"{json.dumps(f'{name}=')} {self._json(_rooted(shape, schema))}" for name, shape in known.items()
        }
        needed = [pair for name, pair in pairs.items() if name in musts]
        others = [pair for name, pair in pairs.items() if name not in musts]
        rest = " ".join(f"({_COMMA} {pair})?" for pair in others)
        if needed:
            return self._rule(f"{_COMMA.join(needed)} {rest}")
        ways = [
            " ".join((pair, *(f"({_COMMA} {later})?" for later in others[at + 1 :]))) for at, pair in enumerate(others)
        ]
        return self._any_of(ways) + "?" if ways else ""

    def _json(self, schema: Mapping[str, Any]) -> str:
        """Write a value of a JSON Schema; what of it cannot be bound is left open."""
        how = {"lenient": True, "whitespace_pattern": JSON_SPACE}
        text = json.dumps({**schema, "x-guidance": how}, ensure_ascii=False)
        return self._rule(f"%json {text}")

    def _until(self, text: str) -> str:
        """Write free text up to and with a text."""
        first, *rest = self._pieces(text)
        after = " ".join(map(self._piece, rest))
        if first in self._special:
            return f"TEXT? {self._piece(first)} {after}"
        return f"{self._rule(f'TEXT {json.dumps(first, ensure_ascii=False)}', '[lazy]')} {after}"

    def _bound(self, source: str, end: str) -> str:
        """Write text of a regular expression up to and with a text: the first one, where it is not told by a token."""
        first, *rest = self._pieces(end)
        if first in self._special:
            return f"{as_terminal(source)} {self._literal(end)}"
        fused = f"{as_terminal(source)} {self._piece(first)}"
        if not rest:
            return self._rule(fused, "[lazy]")
        name = f"PART_{len(self.rules)}"
        self.rules.append(f"{name}: {fused}")
        return f"{name} {' '.join(map(self._piece, rest))}"

    def _literal(self, text: str) -> str:
        return " ".join(map(self._piece, self._pieces(text)))

    def _pieces(self, text: str) -> list[str]:
        """Part a text where special tokens are."""
        return [piece for piece in (self._split.split(text) if self._split else [text]) if piece]

    def _piece(self, piece: str) -> str:
        return f"<[{self._special[piece]}]>" if piece in self._special else json.dumps(piece, ensure_ascii=False)

    def _any_of(self, ways: Iterable[str]) -> str:
        return self._rule(" | ".join(ways))

    def _rule(self, body: str, options: str = "") -> str:
        name = f"part_{len(self.rules)}"
        self.rules.append(f"{name}{options}: {body}")
        return name


def _object(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Give the schema of a call's arguments, which are an object whether or not it says so."""
    return {**schema, "type": "object"}


def _rooted(shape: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """Give a part of a schema what its references go by."""
    inside = dict(shape) if isinstance(shape, dict) else {}
    return inside | {name: root[name] for name in _shared(root)}


def _shared(root: Collection[str]) -> list[str]:
    return [name for name in ("$defs", "definitions") if name in root]
