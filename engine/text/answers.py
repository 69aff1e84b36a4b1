"""One answer, from its tokens to what it holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.text.parsers import OutputParser, Wanted
from engine.text.parts import Content, ParsedCall, Part, Reasoning, joined
from engine.text.tokenizer import Tokenizer


class AnswerReader:
    """Reads an answer while its tokens come."""

    def __init__(self, tokenizer: Tokenizer, wanted: Wanted, stop: Sequence[str] = ()) -> None:
        self._decoder = tokenizer.decoder(wanted.special)
        self._parser = OutputParser(stop, wanted)
        self.text = ""
        self.reasoning = ""
        self.reasoning_tokens = 0
        """Tokens of the reasoning, its tags included."""

    @property
    def calls(self) -> Sequence[ParsedCall]:
        """Tool calls that are whole."""
        return self._parser.calls

    @property
    def stopped(self) -> bool:
        """Whether the answer is over, whatever else is generated."""
        return self._parser.stopped

    def read(self, tokens: Iterable[int]) -> list[Part]:
        """Take tokens; return what is certain now."""
        parts: list[Part] = []
        for token in tokens:
            reasoned = self._parser.reasoning
            parts += self._parser.feed(self._decoder.push(token))
            self.reasoning_tokens += reasoned or self._parser.reasoning
        return self._noted(parts)

    def finish(self) -> list[Part]:
        """There are no more tokens: return what was held back."""
        return self._noted(self._parser.finish())

    def _noted(self, parts: Iterable[Part]) -> list[Part]:
        whole = joined(parts)
        for part in whole:
            match part:
                case Content(text):
                    self.text += text
                case Reasoning(text):
                    self.reasoning += text
                case _:
                    pass
        return whole
