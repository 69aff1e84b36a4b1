"""What a provider made of the tokens of its answer, in our words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.answers import TokenTold

NO_ID = 0
"""Stands for a token's id where a provider does not tell it."""

Candidate = tuple[int, bytes, float]
"""(token, piece, logprob)."""


def token_told(chosen: Candidate, top: Sequence[Candidate]) -> TokenTold:
    """Give a token and the likeliest ones of its place, as far as they were told."""
    token, piece, logprob = chosen
    likeliest = tuple(sorted(top, key=lambda one: -one[2]))
    rank = 1 + sum(one[2] > logprob for one in likeliest)
    return TokenTold(token, piece, logprob, rank, likeliest)


def of_openai(told: Any) -> list[TokenTold]:
    """Read the `logprobs` of a chunk's choice, where there are any."""
    entries = told.get("content") if isinstance(told, dict) else None
    return [
        token_told(_of_openai(entry), [_of_openai(other) for other in entry.get("top_logprobs") or ()])
        for entry in entries or ()
    ]


def _of_openai(entry: dict[str, Any]) -> Candidate:
    spelled = entry.get("bytes")
    piece = entry["token"].encode("utf-8", "replace") if spelled is None else bytes(spelled)
    return NO_ID, piece, float(entry["logprob"])


def of_gemini(told: Any) -> list[TokenTold]:
    """Read the `logprobsResult` of a candidate, where there is one."""
    if not isinstance(told, dict):
        return []
    tops = [place.get("candidates") or () for place in told.get("topCandidates") or ()]
    chosen = told.get("chosenCandidates") or ()
    tops += [()] * (len(chosen) - len(tops))
    return [
        token_told(_of_gemini(one), [_of_gemini(other) for other in top])
        for one, top in zip(chosen, tops, strict=False)
    ]


def _of_gemini(one: dict[str, Any]) -> Candidate:
    piece = one.get("token", "").encode("utf-8", "replace")
    return int(one.get("tokenId") or NO_ID), piece, float(one["logProbability"])
