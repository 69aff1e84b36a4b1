"""What every wire format can do: make a request, read what comes back."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from actors.models.provider import ModelAnswer, ModelCall, Piece
from actors.models.registry import Reached
from actors.models.wires.failures import unheeded
from actors.models.wires.heard import Heard
from schemas.generation import Sampling

_PLAIN = Sampling()
_ENGINES_OWN = (
    "allowed_token_ids", "bad_words", "detokenize", "extra_args", "frequency_penalty", "ignore_eos",
    "include_stop_str_in_output", "logit_bias", "min_p", "min_tokens", "presence_penalty",
    "prompt_logprobs", "repetition", "repetition_penalty", "structured", "thinking_budget", "top_k",
    "trace_decode_token_ids", "truncate_prompt_tokens",
)  # fmt: skip
"""Of sampling, what changes an answer and not every provider can do."""


class Request(msgspec.Struct, frozen=True):
    """A request, without what proves who sends it."""

    url: str
    body: bytes
    headers: dict[str, str] = {}


class Reader(Protocol):
    """Reads one answer out of a stream's bytes."""

    @property
    def heard(self) -> Heard:
        """What of it has come."""

    def feed(self, data: bytes) -> list[Piece]:
        """Take bytes, cut wherever they are; give what is new of the answer.

        Raises:
            ProviderFailed: the stream tells of an error, or cannot be read.
        """

    def end(self) -> ModelAnswer:
        """Give the whole answer.

        Raises:
            ProviderFailed: it has no end.
        """


class Wire(Protocol):
    """A wire format."""

    def request(self, call: ModelCall, reached: Reached) -> Request:
        """Write a call as a request.

        Raises:
            ProviderFailed: it asks for what cannot be asked of this provider.
        """

    def reader(self, call: ModelCall, reached: Reached) -> Reader:
        """Begin to read the answer."""


def check(call: ModelCall, reached: Reached, knows: frozenset[str]) -> None:
    """See that nothing is asked for that would be passed over in silence.

    Raises:
        ProviderFailed: names the first field.
    """
    sampling = call.sampling
    if sampling.logprobs is not None and (not reached.provider.logprobs or sampling.logprobs < 0):
        raise unheeded(reached.name, "logprobs", "cannot be asked for them: leave it out, or use an engine here")
    for field in _ENGINES_OWN:
        if field not in knows and getattr(sampling, field) != getattr(_PLAIN, field):
            raise unheeded(reached.name, field, "cannot be asked for it: leave it out, or use an engine here")
    rendering = call.rendering
    pictured = [message.role for message in call.messages if message.images]
    if pictured and not reached.provider.images:
        raise unheeded(reached.name, "messages", "sees no images: send texts alone, or ask a model that does")
    if any(role != "user" for role in pictured):
        raise unheeded(reached.name, "messages", "is shown images by the user alone: move them to the user's message")
    named: dict[str, bool] = {
        "prompt": call.prompt is not None,
        "bad_words": bool(call.bad_words),
        "return_token_ids": call.return_token_ids,
        "chat_template": bool(rendering.chat_template),
        "documents": bool(rendering.documents),
        "continue_final_message": rendering.continue_final_message,
    }
    for field, asked in named.items():
        if asked:
            raise unheeded(reached.name, field, "writes its prompts itself: leave it out, or use an engine here")


def merged(body: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Lay a caller's options over a request: objects are merged, all else is replaced."""
    whole = dict(body)
    for name, value in options.items():
        below = whole.get(name)
        whole[name] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return whole
