"""What a request's parameters mean for one tokenizer: texts become tokens, and ids are looked at."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import inf, isnan
from typing import Final

from msgspec.structs import replace

from engine.errors import BadRequest
from engine.structured.checks import check
from engine.text.tokenizer import Tokenizer, whole
from schemas.generation import Sampling

_BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "temperature": (0, inf),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "top_k": (-1, inf),
    "presence_penalty": (-inf, inf),
    "frequency_penalty": (-inf, inf),
    "max_tokens": (1, inf),
    "min_tokens": (0, inf),
    "logprobs": (0, inf),
    "prompt_logprobs": (0, inf),
    "prompt_logprob_start": (0, inf),
    "thinking_budget": (0, inf),
    "truncate_prompt_tokens": (-1, inf),
}
"""What can be computed; services bear less."""


_COLDEST: Final = 1e-5
"""A temperature below is greedy: logits divided by it are no numbers any more."""


def settled(
    sampling: Sampling, tokenizer: Tokenizer, bad_words: Iterable[str] = (), more_stops: Iterable[int] = ()
) -> Sampling:
    """Give the parameters as the engine takes them.

    Args:
        sampling: what was asked for.
        tokenizer: of the model.
        bad_words: texts that must not come up, beside the sequences in `sampling`.
        more_stops: what else the model ends its answers with, beside the tokenizer's own.

    Raises:
        BadRequest: a number is out of bounds, a token id is not one of the model's, `min_tokens` is more than
            `max_tokens`, the grammar is none, or the answer's tokens are given and something else decides about them.
    """
    _check_bounds(sampling)
    if sampling.temperature < _COLDEST:
        sampling = replace(sampling, temperature=0.0)
    if sampling.prompt_logprob_token_ids and sampling.prompt_logprobs is None:
        sampling = replace(sampling, prompt_logprobs=0)
    named = {
        "stop_token_ids": sampling.stop_tokens,
        "logit_bias": sampling.logit_bias,
        "allowed_token_ids": sampling.allowed_token_ids,
        "structured_after": sampling.structured_after,
        "thinking_opening": sampling.thinking_opening,
        "thinking_closing": sampling.thinking_closing,
        "trace_decode_token_ids": sampling.trace_decode_token_ids,
    }
    for field, ids in named.items():
        for token in ids:
            if not 0 <= token < tokenizer.size:
                raise BadRequest(field, f"token {token} is not one of the model's, 0 to {tokenizer.size - 1}")
    if sampling.trace_decode_token_ids:
        return _forced(sampling, bad_words)
    if sampling.min_tokens > sampling.max_tokens:
        message = f"{sampling.min_tokens} is more than max_tokens, {sampling.max_tokens}"
        raise BadRequest("min_tokens", message)
    if sampling.allowed_token_ids and not _possible(sampling, tokenizer, more_stops):
        raise BadRequest("allowed_token_ids", "none of them may come first: see bad_words and min_tokens")
    sampling = replace(sampling, structured_after=_after(sampling, tokenizer))
    # a document that is whole has to end somehow
    goes_on = sampling.ignore_eos and sampling.structured is None
    ends = () if goes_on else (*tokenizer.stop_tokens, *more_stops)
    return replace(
        sampling,
        stop_tokens=tuple(sorted({*sampling.stop_tokens, *ends})),
        allowed_token_ids=tuple(sorted(set(sampling.allowed_token_ids))),
        bad_words=(*sampling.bad_words, *_sequences(bad_words, tokenizer)),
    )


def _check_bounds(sampling: Sampling) -> None:
    for field, (least, most) in _BOUNDS.items():
        value = getattr(sampling, field)
        # written so that what is no number is out of them
        if value is not None and not least <= value <= most:
            bounds = f"{least} to {most}" if most < inf else f"{least} on"
            raise BadRequest(field, f"{value} is not from {bounds}")
    if not sampling.repetition_penalty > 0:
        raise BadRequest("repetition_penalty", f"{sampling.repetition_penalty} is not more than 0")
    if any(isnan(bias) for bias in sampling.logit_bias.values()):
        raise BadRequest("logit_bias", "nan is no number")
    if not all(sampling.bad_words):
        raise BadRequest("bad_words", "there is a sequence without tokens: leave it out")
    wanted = sampling.repetition
    if wanted is not None and (wanted.shortest < 1 or wanted.times < 2):
        raise BadRequest("repetition", "a pattern has at least one token, and stands there at least 2 times")
    given = sampling.prompt_logprob_token_ids
    if len({isinstance(one, int) for one in given}) > 1:
        raise BadRequest("prompt_logprob_token_ids", "give token ids, or lists of them, not both")
    several = [one for some in given for one in ((some,) if isinstance(some, int) else some)]
    for field, ids in {"logprob_token_ids": sampling.logprob_token_ids, "prompt_logprob_token_ids": several}.items():
        if min(ids, default=0) < 0:
            raise BadRequest(field, f"{min(ids)} is no token id")


def check_adapter(sampling: Sampling, known: Collection[str]) -> None:
    """See that there is the adapter that is asked for.

    Raises:
        BadRequest: there is not.
    """
    if sampling.adapter and sampling.adapter not in known:
        there = f"there are {', '.join(sorted(known))}" if known else "it has none"
        raise BadRequest("adapter", f"the model has no adapter {sampling.adapter!r}: {there}")


def raw_tokens(prompt: str | Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """Give the tokens of a prompt that stands for itself: control tokens in its text are control tokens.

    Raises:
        BadRequest: an id is not one of the model's, or the text has half of a character.
    """
    if isinstance(prompt, str):
        return tokenizer.encode(whole("prompt", prompt))
    for token in prompt:
        if not 0 <= token < tokenizer.size:
            raise BadRequest("prompt", f"token {token} is not one of the model's, 0 to {tokenizer.size - 1}")
    return list(prompt)


def truncated(prompt: Sequence[int], sampling: Sampling, context_length: int) -> tuple[int, ...]:
    """Give as much of a prompt as its parameters ask for.

    Raises:
        BadRequest: `prompt_logprob_token_ids` has lists, and not one for each token that is told of.
    """
    most = sampling.truncate_prompt_tokens
    if most < 0:
        most = max(1, context_length - sampling.max_tokens)
    if most and len(prompt) > most:
        prompt = prompt[:most] if sampling.truncation_side == "right" else prompt[-most:]
    lists = sum(not isinstance(one, int) for one in sampling.prompt_logprob_token_ids)
    told = max(0, len(prompt) - 1 - sampling.prompt_logprob_start)
    if lists and lists != told:
        message = f"there are {lists} lists, and {told} tokens of the prompt that are told of: give one for each"
        raise BadRequest("prompt_logprob_token_ids", message)
    return tuple(prompt)


def _forced(sampling: Sampling, bad_words: Iterable[str]) -> Sampling:
    """Give the parameters of an answer whose tokens are given: they end where they end, and nowhere before.

    Raises:
        BadRequest: something else decides about them.
    """
    deciding = {
        sampling.structured.field if sampling.structured is not None else "structured": sampling.structured is not None,
        "bad_words": bool(sampling.bad_words) or any(True for _ in bad_words),
        "repetition_detection": sampling.repetition is not None,
        "thinking_token_budget": sampling.thinking_budget is not None,
    }
    for field, given in deciding.items():
        if given:
            raise BadRequest(field, "the answer's tokens are given (`trace_decode_token_ids`): leave it out")
    most = min(sampling.max_tokens, len(sampling.trace_decode_token_ids))
    return replace(sampling, max_tokens=most, min_tokens=0, stop_tokens=(), ignore_eos=True)


def _after(sampling: Sampling, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Look at the grammar, if there is one; give the tokens after which it holds."""
    if sampling.structured is None:
        return sampling.structured_after
    check(sampling.structured)
    return sampling.structured_after or tuple(tokenizer.encode(sampling.structured.after))


def _possible(sampling: Sampling, tokenizer: Tokenizer, more_stops: Iterable[int]) -> set[int]:
    """Give the tokens that may come first."""
    allowed = set(sampling.allowed_token_ids) - {word[0] for word in sampling.bad_words if len(word) == 1}
    if sampling.min_tokens:
        allowed -= {*sampling.stop_tokens, *tokenizer.stop_tokens, *more_stops}
    return allowed


def _sequences(words: Iterable[str], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Give the tokens of each text, at the beginning of a text and after a space: most vocabularies tell them apart."""
    found = []
    for word in words:
        bare = word.lstrip() or word
        for text in dict.fromkeys((word, bare, f" {bare}")):
            ids = tuple(tokenizer.encode(tokenizer.quoted(whole("bad_words", text))))
            if ids and ids not in found:
                found.append(ids)
    return found
