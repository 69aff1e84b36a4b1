"""Processors of answers: no word of the instructions gets out, and what is to be of a form is of that form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from actors.errors import DefinitionError
from actors.models.provider import ModelAnswer
from actors.processors.processor import About, Processor, Stream, Tripped


@dataclass(frozen=True)
class SystemPromptScrubber(Processor):
    """Takes out of an answer what it repeats of the instructions word for word.

    Raises:
        DefinitionError: the length is so short that plain words would be taken out.
    """

    length: int = 40
    """Characters in a row that count as repeated."""
    instead: str = "[…]"
    name: str = "system-prompt-scrubber"

    def __post_init__(self) -> None:
        if self.length < 12:
            raise DefinitionError(f"{self.name}: length={self.length}: give at least 12 characters")

    def stream(self, about: About) -> Stream | None:
        """Compare with the instructions of the call."""
        messages: Sequence[Any] = () if about.call is None else about.call.messages
        known = [message.content for message in messages if message.role == "system"]
        parts = {text[at : at + self.length] for text in known for at in range(len(text) - self.length + 1)}
        return _Scrubbing(self, parts, about) if parts else None


class _Scrubbing:
    def __init__(self, scrubber: SystemPromptScrubber, parts: set[str], about: About) -> None:
        self._scrubber = scrubber
        self._parts = parts
        self._about = about
        self._text = ""
        self._covered = 0
        """So much of its beginning is repeated, and was replaced."""

    def feed(self, text: str) -> str:
        self._text += text
        return self._give(len(self._text) - self._scrubber.length + 1)

    def end(self) -> str:
        return self._give(len(self._text))

    def _give(self, end: int) -> str:
        given, length = [], self._scrubber.length
        for at in range(max(0, end)):
            if self._text[at : at + length] in self._parts:
                if at >= self._covered:
                    given.append(self._scrubber.instead)
                    self._about.note(self._scrubber, "stream", "changed", 1, "instructions repeated")
                self._covered = at + length
            if at >= self._covered:
                given.append(self._text[at])
        self._text, self._covered = self._text[max(0, end) :], max(0, self._covered - max(0, end))
        return "".join(given)


@dataclass(frozen=True)
class SchemaValidator(Processor):
    """Sees that a run's last answer is JSON of a type, and has the model answer again where it is not."""

    type: Any = dict
    name: str = "schema-validator"
    holds: bool = True

    async def result(self, answer: ModelAnswer, about: About) -> ModelAnswer:
        """Decode it; the model is told which field does not fit, and not what stands there."""
        try:
            msgspec.json.decode(answer.text, type=self.type)
        except msgspec.ValidationError as error:
            place = str(error).rpartition(" - at ")[2]
            raise Tripped(f"not taken: it does not fit the schema at {place}", again=True) from error
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise Tripped("not taken: it is no JSON", again=True) from error
        return answer
