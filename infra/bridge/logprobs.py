"""What a model made of tokens, in the shapes that OpenAI's and vLLM's clients read."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Callable, Sequence
from typing import Any

from schemas.answers import TokenTold

Naming = Callable[[int, bytes], str]
"""What a token is called, by its id and what it adds to a text."""


def by_id(token: int, piece: bytes) -> str:
    """Call a token by its id: every token has a name of its own."""
    return f"token_id:{token}"


def by_text(token: int, piece: bytes) -> str:
    """Call a token by its text, whatever stands for a part of a character."""
    return piece.decode(errors="replace")


def content(told: Sequence[TokenTold], naming: Naming = by_text) -> dict[str, Any]:
    """Give `logprobs` of a chat choice."""
    return {"content": [_entry(one, naming) for one in told], "refusal": None}


def _entry(one: TokenTold, naming: Naming) -> dict[str, Any]:
    top = [_named(naming(token, piece), piece, logprob) for token, piece, logprob in one.top]
    return {**_named(naming(one.token, one.piece), one.piece, one.logprob), "top_logprobs": top}


def _named(name: str, piece: bytes, logprob: float | None) -> dict[str, Any]:
    return {"token": name, "logprob": logprob, "bytes": list(piece)}


class Legacy:
    """`logprobs` of a completion's choice, some tokens at a time."""

    def __init__(self, *, naming: Naming | None = None) -> None:
        """Begin; tokens are called as OpenAI does it unless another `naming` is given."""
        self._naming = naming or _readable
        self._offset = 0
        """Characters of the tokens so far."""
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")

    def next(self, told: Sequence[TokenTold]) -> dict[str, Any]:
        """Give those of the tokens that follow."""
        return {
            "tokens": [self._naming(one.token, one.piece) for one in told],
            "token_logprobs": [one.logprob for one in told],
            "top_logprobs": [None if one.logprob is None else self._likeliest(one) for one in told],
            "text_offset": [self._before(one.piece) for one in told],
        }

    def _before(self, piece: bytes) -> int:
        before = self._offset
        self._offset += len(self._decoder.decode(piece))
        return before

    def _likeliest(self, one: TokenTold) -> dict[str, float | None]:
        top = {self._naming(token, piece): logprob for token, piece, logprob in one.top}
        return top | {self._naming(one.token, one.piece): one.logprob}


def _readable(token: int, piece: bytes) -> str:
    """Name a token; a part of a character as OpenAI does."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def prompt(told: Sequence[TokenTold]) -> list[dict[str, Any] | None]:
    """Give vLLM's `prompt_logprobs`: of each token but the first an object by token id."""
    return [None if one.logprob is None else _by_id(one) for one in told]


def _by_id(one: TokenTold) -> dict[str, Any]:
    found = {
        str(token): {"logprob": logprob, "rank": rank, "decoded_token": piece.decode(errors="replace")}
        for rank, (token, piece, logprob) in enumerate(one.top, 1)
    }
    own = {"logprob": one.logprob, "rank": one.rank, "decoded_token": one.piece.decode(errors="replace")}
    return {str(one.token): own} | {name: entry for name, entry in found.items() if name != str(one.token)}
