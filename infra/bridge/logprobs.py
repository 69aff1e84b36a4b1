"""What a model made of tokens, in the shapes that OpenAI's and vLLM's clients read."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Sequence
from typing import Any

from schemas.answers import TokenTold


def content(told: Sequence[TokenTold]) -> dict[str, Any]:
    """Give `logprobs` of a chat choice."""
    return {"content": [_entry(one) for one in told], "refusal": None}


def _entry(one: TokenTold) -> dict[str, Any]:
    top = [_named(piece, logprob) for _, piece, logprob in one.top]
    return {**_named(one.piece, one.logprob), "top_logprobs": top}


def _named(piece: bytes, logprob: float | None) -> dict[str, Any]:
    return {"token": piece.decode(errors="replace"), "logprob": logprob, "bytes": list(piece)}


class Legacy:
    """`logprobs` of a completion's choice, some tokens at a time."""

    def __init__(self) -> None:
        self._offset = 0
        """Characters of the tokens so far."""
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")

    def next(self, told: Sequence[TokenTold]) -> dict[str, Any]:
        """Give those of the tokens that follow."""
        return {
            "tokens": [_readable(one.piece) for one in told],
            "token_logprobs": [one.logprob for one in told],
            "top_logprobs": [None if one.logprob is None else _likeliest(one) for one in told],
            "text_offset": [self._before(one.piece) for one in told],
        }

    def _before(self, piece: bytes) -> int:
        before = self._offset
        self._offset += len(self._decoder.decode(piece))
        return before


def _likeliest(one: TokenTold) -> dict[str, float | None]:
    return {_readable(piece): logprob for _, piece, logprob in one.top} | {_readable(one.piece): one.logprob}


def _readable(piece: bytes) -> str:
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
