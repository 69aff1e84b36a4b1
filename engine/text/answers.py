"""One answer, from its tokens to what it holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from engine.text.parsers import OutputParser, Wanted
from engine.text.parts import CallArguments, Content, ParsedCall, Part, Reasoning, joined
from engine.text.tokenizer import Tokenizer
from schemas.generation import Sampling

_PLAIN: Final = Sampling()


class AnswerReader:
    """Reads an answer while its tokens come."""

    def __init__(
        self, tokenizer: Tokenizer, wanted: Wanted, stop: Sequence[str] = (), sampling: Sampling = _PLAIN
    ) -> None:
        """Begin to read one.

        Args:
            tokenizer: of the model.
            wanted: how its answers are read.
            stop: texts that end it.
            sampling: how it is drawn: it says when stop texts count, and whether special tokens can be read.
        """
        heard = set(wanted.special)
        if not sampling.skip_special_tokens:
            heard |= {text for text, token in tokenizer.special.items() if token not in sampling.stop_tokens}
        spaced = sampling.spaces_between_special_tokens and not sampling.skip_special_tokens
        self._decoder = tokenizer.decoder(heard, between=tokenizer.between if spaced else "")
        self._detokenize = sampling.detokenize
        self._parser = OutputParser(stop, wanted, keeps_stop=sampling.include_stop_str_in_output)
        self._least = sampling.min_tokens
        self.count = 0
        """Tokens read, up to the one that ended it."""
        self.shown = 0
        """So many tokens have their text in what was returned, or before it: the last may have a part of it."""
        self._written = 0
        self._begins = deque[int]()
        """Characters that were written before each of the others."""
        self.text = ""
        self.reasoning = ""
        self.reasoning_tokens = 0
        """Tokens of the reasoning, its tags included."""

    @property
    def calls(self) -> Sequence[ParsedCall]:
        """Tool calls that are over."""
        return self._parser.calls

    @property
    def stopped(self) -> bool:
        """Whether the answer is over, whatever else is generated."""
        return self._parser.stopped

    @property
    def met(self) -> str:
        """The stop text that ended it; empty where none did."""
        return self._parser.met

    def read(self, tokens: Iterable[int]) -> list[Part]:
        """Take tokens; return what is certain now: content without a text where none is wanted."""
        if not self._detokenize:
            self.count = self.shown = self.count + len(tuple(tokens))
            return [Content("")]
        parts: list[Part] = []
        for token in tokens:
            if self.stopped:
                break
            self.count += 1
            text = self._decoder.push(token)
            if self.count <= self._least:
                self._parser.unstoppable += len(text)
            self._begins.append(self._written)
            self._written += len(text)
            reasoned = self._parser.reasoning
            fresh = self._parser.feed(text)
            if fresh:
                self._show(fresh)
                parts += fresh
            self.reasoning_tokens += reasoned or self._parser.reasoning
        return self._noted(parts)

    def finish(self) -> list[Part]:
        """There are no more tokens: return what was held back."""
        self.shown = self.count
        return self._noted(self._parser.finish())

    def _show(self, parts: Iterable[Part]) -> None:
        """Note whose text is out."""
        if any(isinstance(part, Content | Reasoning | CallArguments) for part in parts):
            while self._begins and self._begins[0] < self._parser.done:
                self._begins.popleft()
            self.shown = self.count - len(self._begins)

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
