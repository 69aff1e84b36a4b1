"""Texts, and pairs of texts, as a model that judges them sees them: with what its tokenizer puts around them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from tokenizers import Encoding
from tokenizers import Tokenizer as _Tokenizer

from engine.errors import BadRequest, CheckpointError
from engine.text.tokenizer import read_tokenizer, whole

Text = str | tuple[str, str]
"""One text, or two that are judged together."""

TooLong = Literal["cut", "refuse"]
"""What becomes of a text that the model's context does not hold."""

_WAYS: Final[tuple[TooLong, ...]] = get_args(TooLong)

_AT_ONCE: Final = 256
"""Texts that the library tokenises in one call: what it returns takes much more room than tokens do."""


@dataclass(frozen=True, slots=True)
class Framed:
    """The tokens of a text."""

    tokens: array[int]
    segments: array[int]
    """0 for those of a first text, 1 for those of a second."""


def listed(field: str, texts: Sequence[object]) -> None:
    """Look at what is to be a list of texts: a text is one too, of its characters.

    Raises:
        BadRequest: It is a text.
    """
    if isinstance(texts, str):
        raise BadRequest(field, "is one text; give a list of them")


class Framer:
    """A checkpoint's tokenizer, for whole texts."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Read a checkpoint folder; no text is to have more than `limit` tokens.

        Raises:
            CheckpointError: `tokenizer.json` is missing or cannot be read, or the limit leaves no room for a text.
        """
        self.limit = limit
        self._tokenizer = read_tokenizer(folder)
        around = self._tokenizer.num_special_tokens_to_add(is_pair=True)
        if limit < around + 2:
            raise CheckpointError(folder, f"{limit} tokens do not hold a pair of texts and {around} around it")
        self._tokenizer.enable_truncation(limit)

    def frame(self, field: str, texts: Sequence[Text], too_long: TooLong, before: str = "") -> list[Framed]:
        """Tokenise; of a pair that is too long, the longer text is cut first.

        Args:
            field: What errors call the texts.
            texts: None of them empty.
            too_long: What becomes of those that are.
            before: What every single text begins with.

        Raises:
            BadRequest: A text is empty, or too long where that is to be refused; or `too_long` is no way that we have.
        """
        listed(field, texts)
        if too_long not in _WAYS:
            raise BadRequest("too_long", f"{too_long!r} is none of {', '.join(_WAYS)}")
        for i, text in enumerate(texts):
            if not all(_parts(text)):
                raise BadRequest(f"{field}[{i}]", "is empty; leave it out")
            for part in _parts(text):
                whole(f"{field}[{i}]", part)
        full = [f"{before}{text}" if isinstance(text, str) else text for text in texts]
        framed = []
        for i, encoding in enumerate(self._encodings(full)):
            if encoding.overflowing and too_long == "refuse":
                problem = f"has {self._length(full[i])} tokens, the model takes {self.limit}; shorten or cut it"
                raise BadRequest(f"{field}[{i}]", problem)
            if not encoding.ids:
                raise BadRequest(f"{field}[{i}]", "is no token to the model; leave it out")
            framed.append(Framed(array("q", encoding.ids), array("q", encoding.type_ids)))
        return framed

    def taken(self, field: str, tokens: Sequence[int], too_long: TooLong) -> Framed:
        """Take the tokens of a text as they are, with what belongs around it.

        Raises:
            BadRequest: There are none, too many where that is to be refused, or one is not the model's.
        """
        size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        wrong = next((token for token in tokens if not 0 <= token < size), None)
        if not tokens or wrong is not None:
            problem = "is empty; leave it out" if wrong is None else f"has {wrong}, which is no token of the model's"
            raise BadRequest(field, problem)
        if len(tokens) > self.limit and too_long == "refuse":
            raise BadRequest(field, f"has {len(tokens)} tokens, the model takes {self.limit}; shorten or cut it")
        kept = array("q", tokens[: self.limit])
        return Framed(kept, array("q", bytes(8 * len(kept))))

    def _encodings(self, texts: Sequence[Text]) -> Iterator[Encoding]:
        for first in range(0, len(texts), _AT_ONCE):
            yield from self._tokenizer.encode_batch(list(texts[first : first + _AT_ONCE]))

    def _length(self, text: Text) -> int:
        """Return how many tokens a text has, uncut."""
        uncut = _Tokenizer.from_str(self._tokenizer.to_str())
        uncut.no_truncation()
        return len(uncut.encode_batch([text])[0].ids)


def _parts(text: Text) -> tuple[str, ...]:
    return text if isinstance(text, tuple) else (text,)
