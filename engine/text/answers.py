"""One answer, from its tokens to what it holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from engine.text.parsers import OutputParser, Wanted
from engine.text.parts import Content, ParsedCall, Part, Reasoning, joined
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
        self._count = 0
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
        """Take tokens; return what is certain now, which is nothing where no text is wanted."""
        if not self._detokenize:
            return []
        parts: list[Part] = []
        for token in tokens:
            self._count += 1
            text = self._decoder.push(token)
            if self._count <= self._least:
                self._parser.unstoppable += len(text)
            reasoned = self._parser.reasoning
            parts += self._parser.feed(text)
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
