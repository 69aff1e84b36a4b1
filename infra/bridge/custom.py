"""Custom tools, which are called with a text: to a model each is a function with one string, `input`. Pure."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from engine.errors import BadRequest
from engine.text.patterns import anchored
from schemas.messages import ToolSpec
from schemas.openai import ChatTool, CustomGrammar, CustomTool

MOST_GRAMMARS: Final = 16
"""Of the tools of one request: all are read before it is answered."""

_BEGIN: Final = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_WHOLE: Final = re.compile(
    r'(?:[^"\\]+|\\(?:["\\/bfnrt]|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}))*'
)
_BEGUN: Final = re.compile(r"\\(?:u[0-9a-fA-F]{0,4}(?:\\(?:u[0-9a-fA-F]{0,3})?)?)?")
"""What may become an escape, or a pair of them."""
_ODD: Final = re.compile(r"\\u[0-9a-fA-F]{4}|\\")


def as_functions(tools: Sequence[ChatTool], fields: Sequence[str]) -> list[ChatTool]:
    """Make of each custom tool the function that it is to a model; the others stay as they are.

    Args:
        tools: what a client offers.
        fields: what it calls each one's grammar, if there is one.

    Raises:
        BadRequest: a grammar is none, or not one that an argument could be bound to, or there are too many.
    """
    made, grammars = list[ChatTool](), 0
    for tool, field in zip(tools, fields, strict=True):
        if tool.custom is None:
            made.append(tool)
            continue
        grammars += tool.custom.format is not None and tool.custom.format.type == "grammar"
        if grammars > MOST_GRAMMARS:
            raise BadRequest(field, f"at most {MOST_GRAMMARS} tools may have a grammar: let its input be a text")
        made.append(msgspec.structs.replace(tool, function=_function(tool.custom, field)))
    return made


def _function(tool: CustomTool, field: str) -> ToolSpec:
    shape: dict[str, Any] = {"type": "string"}
    about, format_ = tool.description, tool.format
    if format_ is not None and format_.type == "grammar":
        if format_.grammar is None:
            raise BadRequest(field, "give its `syntax` and its `definition`")
        shape["pattern"] = anchored(_expression(format_.grammar, field))
        told = f"The input keeps to this {format_.grammar.syntax} grammar:\n{format_.grammar.definition}"
        about = f"{about}\n\n{told}" if about else told
    parameters = {"type": "object", "properties": {"input": shape}, "required": ["input"]}
    return ToolSpec(tool.name, about, {**parameters, "additionalProperties": False}, strict="pattern" in shape)


def _expression(grammar: CustomGrammar, field: str) -> str:
    # with it come numpy and llguidance, which most bridges never need
    regular = importlib.import_module("engine.structured.regular")
    found: str = regular.expression_of(grammar.syntax, grammar.definition, f"{field}.definition")
    return found


class InputReader:
    """Reads what a custom tool is called with out of the arguments of its function, as they come.

    A model that nothing binds may write other arguments: what has no `input` is told as it is, at the end.
    """

    def __init__(self) -> None:
        self._held = ""
        """What came, and could not be told yet."""
        self._within: bool | None = None
        """Whether the text has begun and goes on; None is not yet."""

    def feed(self, arguments: str) -> str:
        """Take more of the arguments; give what follows of the text."""
        if self._within is False:
            return ""
        self._held += arguments
        if self._within is None:
            begun = _BEGIN.match(self._held)
            if begun is None:
                return ""
            self._within, self._held = True, self._held[begun.end() :]
        return self._more()

    def end(self) -> str:
        """Give what is left when no more comes."""
        within, left = self._within, self._held
        self._within, self._held = False, ""
        if within is not None:
            return ""
        try:
            found = json.loads(left)
        except (ValueError, RecursionError):
            return left
        given = found.get("input") if isinstance(found, dict) else None
        # half of a pair of surrogates is no text
        return given.encode("utf-8", "replace").decode() if isinstance(given, str) else left

    def _more(self) -> str:
        said, at = list[str](), 0
        while at < len(self._held):
            whole = _WHOLE.match(self._held, at)
            assert whole is not None
            said.append(json.loads(f'"{whole[0]}"', strict=False))
            at = whole.end()
            if self._held.startswith('"', at):
                self._within, at = False, len(self._held)
            elif _BEGUN.fullmatch(self._held, at):
                break
            elif odd := _ODD.match(self._held, at):
                # no escape, or half of a pair
                said.append("\ufffd" if len(odd[0]) > 1 else odd[0])
                at = odd.end()
        self._held = self._held[at:]
        return "".join(said)
