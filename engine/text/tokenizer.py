"""A checkpoint's tokenizer: text to token ids, and token ids back to text as they come.

Special tokens in a rendered chat template are control; the same characters in what a user wrote are text. `quoted`
marks the latter, and `encode` then spells them out instead of reading them as control tokens, so that nobody can
close his own message and open the system's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import msgspec
from tokenizers import Tokenizer as _Tokenizer

from engine.errors import BadRequest, CheckpointError
from engine.text.pieces import Pieces
from engine.text.segments import Segments, seams
from engine.text.source import SPECIAL

# two private-use characters around text that must not be read as control; they never leave this module's callers
_OPEN, _CLOSE = "\uf8f0", "\uf8f1"
_BAD: Final = "\ufffd"
"""What bytes that are no character are read as; the beginning of one is, too, until the rest has come."""
_MOST_BYTES: Final = 3
"""Of a character that is not whole yet."""
_MOST_WAITING: Final = 8
"""So many tokens may bring no whole character; that only happens where there are bytes that are none."""
_QUOTED = re.compile(f"{_OPEN}(.*?){_CLOSE}", re.DOTALL)
_HALF = re.compile("[\ud800-\udfff]")


def whole(field: str, text: str) -> str:
    """Give a text back, unless it has half of a character, as Python's texts may: no tokenizer takes that.

    Raises:
        BadRequest: It has.
    """
    if not text.isascii() and _HALF.search(text):
        raise BadRequest(field, "holds half of a surrogate pair, which is no character: take it out")
    return text


class Decoder:
    """Turns one generation's tokens into text, never in the middle of a character; special tokens are silent but for
    those that are to be heard: `SPECIAL` stands before their text, and nowhere else.

    What a token says can depend on the tokens before it, so a few of those are decoded again with it. The library's own
    stream does the same, but it keeps every token since the last whole character, and gives up where bytes that are
    none change how those before them are read.
    """

    def __init__(
        self, tokenizer: _Tokenizer, silent: Collection[int], heard: Mapping[int, str], between: str = ""
    ) -> None:
        self._tokenizer = tokenizer
        self._between = between
        """What stands between two special tokens that are to be heard."""
        self._after_special = False
        self._silent = silent
        self._heard = heard
        self._tokens: list[int] = []
        """What is decoded again."""
        self._said = 0
        """So many characters of their text were returned."""
        self._whole = 0
        """So many of the tokens ended with a whole character, and are no more needed after the next."""
        self._waiting = 0
        """Tokens since then."""

    def push(self, token: int) -> str:
        """Return the text that this token completes; empty while a character is incomplete."""
        between = self._between if self._after_special else ""
        self._after_special = token in self._heard
        if token in self._heard:
            return between + SPECIAL + self._heard[token]
        if token in self._silent:
            return ""
        self._tokens.append(token)
        self._waiting += 1
        text = self._decoded()
        if len(text) > self._said and not text.endswith(_BAD):
            said, self._tokens = text[self._said :], self._tokens[self._whole :]
            self._said, self._whole, self._waiting = len(self._decoded()), len(self._tokens), 0
        elif self._waiting > _MOST_WAITING:
            said = self._forced(text)
        else:
            return ""
        return said.replace(SPECIAL, "")

    def _forced(self, text: str) -> str:
        """Return what there is but for what may still become a character: most of it never will."""
        self._tokens = self._tokens[-_MOST_BYTES - 1 :]
        left = len(self._decoded())
        until = max(self._said, len(text.rstrip(_BAD)), len(text) - min(_MOST_BYTES, left))
        said, self._said = text[self._said : until], max(0, left - len(text) + until)
        self._whole = self._waiting = 0
        return said

    def _decoded(self) -> str:
        return str(self._tokenizer.decode(self._tokens, skip_special_tokens=True))


class Tokenizer:
    """What a checkpoint's `tokenizer.json` and its companions say."""

    def __init__(self, tokenizer: _Tokenizer, stop_tokens: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self.stop_tokens = frozenset(stop_tokens)
        """Ids that end an answer."""
        added: Mapping[int, Any] = tokenizer.get_added_tokens_decoder()
        self.special: Mapping[str, int] = {token.content: at for at, token in added.items() if token.special}
        """Special tokens: their text and their ids."""
        tags = {token.content: at for at, token in added.items() if re.fullmatch(r"<.*>", token.content, re.DOTALL)}
        self.tags: Mapping[str, int] = {**self.special, **tags}
        """Those, and added tokens that look like tags, which llguidance takes for special ones too: many tokenizers add
        `<tool_call>` without calling it special."""
        self._seams = seams(added.values())
        self._special = re.compile("|".join(map(re.escape, self.special))) if self.special else None

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read a checkpoint folder.

        Raises:
            CheckpointError: `tokenizer.json` is missing or cannot be read.
        """
        tokenizer = read_tokenizer(folder)
        return cls(tokenizer, _stop_tokens(folder, tokenizer))

    @cached_property
    def size(self) -> int:
        """One more than the largest token id, special ones included; there may be ids below that are no token."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def quoted(self, text: str) -> str:
        """Mark special tokens in text from outside, so that `encode` spells them out."""
        text = text.replace(_OPEN, "").replace(_CLOSE, "")
        if self._special is None:
            return text
        return self._special.sub(lambda found: f"{_OPEN}{found.group()}{_CLOSE}", text)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of text; special tokens that are not `quoted` become their one id."""
        ids: list[int] = []
        for index, piece in enumerate(_QUOTED.split(text)):
            if index % 2:
                # a special token as text: half of it at a time is no token, whatever the vocabulary
                for half in (piece[: len(piece) // 2], piece[len(piece) // 2 :]):
                    ids += self._tokenizer.encode(half, add_special_tokens=False).ids
            elif piece:
                ids += self._tokenizer.encode(piece, add_special_tokens=False).ids
        return ids

    def segments(self) -> Segments:
        """Begin to encode texts that grow: their tokens are those that `encode` gives, and what is known is spared."""
        return Segments(self.encode, self._seams, (_OPEN, _CLOSE))

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of whole token sequences, special tokens left out."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def piece(self, token: int) -> bytes:
        """Return the bytes that a token adds to a text, which may be a part of a character."""
        return self._pieces.piece(token)

    @cached_property
    def _pieces(self) -> Pieces:
        return Pieces(self._tokenizer)

    def decoder(self, heard: Iterable[str] = (), *, between: str = "") -> Decoder:
        """Begin to decode a generation; special tokens in `heard` are not silent, and have `between` between them."""
        said = {self.special[text]: text for text in heard if text in self.special}
        return Decoder(self._tokenizer, frozenset(self.special.values()), said, between)

    @cached_property
    def between(self) -> str:
        """What the tokenizer puts between special tokens: most put nothing there."""
        for text, token in self.special.items():
            twice = str(self._tokenizer.decode([token, token], skip_special_tokens=False))
            if len(twice) >= 2 * len(text) and twice.startswith(text) and twice.endswith(text):
                return twice[len(text) : len(twice) - len(text)]
        return ""


def read_tokenizer(folder: Path) -> _Tokenizer:
    """Read a checkpoint folder's `tokenizer.json`.

    Raises:
        CheckpointError: It is missing or cannot be read.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(folder, "it has no tokenizer.json")
    try:
        tokenizer = _Tokenizer.from_file(str(path))
    except Exception as error:
        # the library raises a bare Exception
        raise CheckpointError(folder, f"its tokenizer.json cannot be read: {error}") from error
    # what is saved with it is how it was trained with: here every text is whole, and nothing is put behind it
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _stop_tokens(folder: Path, tokenizer: _Tokenizer) -> set[int]:
    """Collect what ends an answer: `eos_token_id` of the configurations, `eos_token` of the tokenizer's."""
    stops: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        found = _read(folder / name).get("eos_token_id")
        stops |= {found} if isinstance(found, int) else set(found or ())
    eos = _read(folder / "tokenizer_config.json").get("eos_token")
    text = eos.get("content") if isinstance(eos, dict) else eos
    token = tokenizer.token_to_id(text) if isinstance(text, str) else None
    return stops if token is None else stops | {token}


def _read(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise CheckpointError(path.parent, f"its {path.name} cannot be read: {error}") from error
