"""What frontends and schedulers say to each other: token ids once at submit, sampled tokens back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from schemas.structured import Structured
from schemas.wire import Record, Wire

FinishReason = Literal["stop", "length", "abort", "error", "timeout", "repetition"]

TruncationSide = Literal["left", "right"]

BROKEN_OFF = frozenset({"abort", "error", "timeout"})
"""Finish reasons of an answer that is none: the thread does not keep it, the run fails."""


def request_id(tenant: str, thread: str, effect: str, choice: int = 0) -> str:
    """Name a generation: effect ids are made from ids that clients choose, so they are unique in a thread only.

    `choice` tells several answers to one call apart.
    """
    return f"{tenant}/{thread}/{effect}~{choice}" if choice else f"{tenant}/{thread}/{effect}"


class Repetition(Wire, frozen=True):
    """Output that says the same over and over: its last tokens are a pattern, `times` times in a row."""

    longest: int
    """Tokens of a pattern, at most."""
    shortest: int = 1
    """And at least."""
    times: int = 2


class Sampling(Wire, frozen=True):
    """How tokens are chosen. Validated where a request enters; the engine trusts it."""

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 considers the whole vocabulary."""
    seed: int = 0
    """Randomness is a pure function of (seed, position), so that a resumed request draws the same tokens."""
    max_tokens: int = 512
    stop_tokens: tuple[int, ...] = ()
    """Token ids that end the generation; the last one is part of the output ids, never of the text."""
    min_p: float = 0.0
    """Tokens less likely than this share of the likeliest one are left out."""
    presence_penalty: float = 0.0
    """Taken once from the logit of each token that is in the output."""
    frequency_penalty: float = 0.0
    """Taken as often as it is in the output."""
    repetition_penalty: float = 1.0
    """What the logits of tokens in prompt and output are divided by, or multiplied where negative."""
    min_tokens: int = 0
    """No stop token before so many tokens."""
    logit_bias: Mapping[int, float] = {}
    """Added to the logits of some tokens."""
    allowed_token_ids: tuple[int, ...] = ()
    """No other tokens; empty allows all."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Sequences of tokens that must not come to an end in the output."""
    ignore_eos: bool = False
    """Whether the tokens that the model ends its answers with do not end it; heeded where it is submitted."""
    logprobs: int | None = None
    """How many of the likeliest tokens are told beside each sampled one; None tells nothing."""
    prompt_logprobs: int | None = None
    """As many beside each token of the prompt but the first, which is then computed whole; None tells nothing."""
    logprob_token_ids: tuple[int, ...] = ()
    """Tokens that are told beside those, however unlikely."""
    prompt_logprob_token_ids: tuple[int | tuple[int, ...], ...] = ()
    """Tokens that are told beside those of the prompt, in place of `logprob_token_ids`: the same everywhere, or a list
    for each token that is told of."""
    prompt_logprob_start: int = 0
    """Of the prompt only tokens behind this position are told of; what is before them may come from the cache."""
    trace_decode_token_ids: tuple[int, ...] = ()
    """The tokens of the answer, where they are given and not drawn: what is told of them is what the model makes of
    them. Nothing else ends it. Empty where they are drawn."""
    repetition: Repetition | None = None
    """What ends it with `repetition`."""
    skip_special_tokens: bool = True
    """Whether special tokens of the answer are silent; heeded where it is read, as is the next one."""
    include_stop_str_in_output: bool = False
    """Whether the text that ends the answer belongs to it."""
    spaces_between_special_tokens: bool = True
    """Whether there is between special tokens that are not silent what the tokenizer puts between tokens."""
    detokenize: bool = True
    """Whether there is a text at all, beside the tokens."""
    extra_args: Mapping[str, Any] = {}
    """By name of a logits processor that is installed where it is computed, what that is to be told."""
    truncate_prompt_tokens: int = 0
    """Only so many tokens of the prompt; -1 is what the context leaves beside `max_tokens`, 0 is all of it. Heeded
    where it is submitted."""
    truncation_side: TruncationSide = "left"
    """Where tokens are left out: `left` keeps the last ones, `right` the first."""
    structured: Structured | None = None
    """What the answer is to look like."""
    thinking_budget: int | None = None
    """After so many tokens of thinking it is ended with `thinking_closing`; None has no bound."""
    thinking_opening: tuple[int, ...] = ()
    """The tokens with which an answer begins that thinks first. Empty where thinking has begun, or there is none."""
    thinking_closing: tuple[int, ...] = ()
    """Tokens that end thinking wherever it stands; the last of them are `structured_after`."""
    structured_after: tuple[int, ...] = ()
    """The tokens after which it begins to: those that end the model's thinking. Empty is from the first one on."""
    searching: bool = False
    """Whether it is a step of a search for the likeliest answers: one token more than the output there is, beside which
    the likeliest are told that may come, by the model's own chances. `max_tokens` is of the whole answer."""
    adapter: str = ""
    """The adapter by which the model computes it; empty is the model itself."""


class TokenLogprobs(Record, frozen=True):
    """What a model made of one position."""

    tokens: tuple[int, ...]
    """The token that stands there, then the likeliest, best first, then those asked for by id."""
    logprobs: tuple[float, ...]
    """Natural logarithms of their chances, as the model gave them, before temperature and all that is asked for."""
    rank: int
    """Of the first, from 1: how many tokens are likelier, and one."""


class Forgotten(Wire, frozen=True):
    """The prefix cache is empty. The answer to `gen.<engine>.forget`."""

    blocks: int
    """KV blocks that could be found until then."""


class Submit(Wire, frozen=True):
    """Ask a scheduler for a generation. `gen.<engine>.submit`, answered with `Accepted` or `Refused`."""

    request: str
    """The `request_id` of the model call: submitting it twice attaches to the one generation."""
    prompt: tuple[int, ...]
    sampling: Sampling
    frontend: str
    """Where tokens go: `gen.<engine>.out.<frontend>`."""
    tenant: str
    """Salts the prefix cache."""
    output: tuple[int, ...] = ()
    """Tokens already generated before the scheduler was lost; generation goes on after them."""
    traceparent: str = ""
    priority: int = 0
    """The lower, the sooner, where the scheduler goes by priority."""
    deadline: int = 0
    """When it ends with `timeout` at the latest, microseconds since the Unix epoch; 0 is never."""
    cache_salt: str = ""
    """Only requests of the tenant with the same salt share its KV blocks."""
    read_cache: bool = True
    """Whether its prompt's beginning may be taken from the prefix cache instead of being computed."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of `output`, where they are wanted."""
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    """Of the prompt, where they are wanted and there is output already."""
    closed: int | None = None
    """The index of the first token of `output` that is not the one that was drawn, for a document to end in time."""
    program: str = ""
    """Whose turn it is: a thread of an agent, a session of a client; empty where nobody says."""
    agent: str = ""
    """What kind of program: those of a kind grow alike."""


class Attach(Wire, frozen=True):
    """Send a generation's tokens to this frontend from `start` on. `gen.<engine>.attach`."""

    request: str
    frontend: str
    start: int = 0


class Abort(Wire, frozen=True):
    """Stop a generation. `gen.<engine>.abort`; unknown requests are ignored."""

    request: str


class Accepted(Wire, frozen=True, tag="accepted"):
    """The scheduler has the request; its tokens follow."""

    request: str


class Refused(Wire, frozen=True, tag="refused"):
    """The scheduler does not take (or does not know) the request."""

    request: str
    reason: Literal["unknown", "too_long", "overloaded", "invalid", "draining"]
    message: str
    retry_after_ms: int = 0


Answer = Accepted | Refused


class Output(Record, frozen=True):
    """Newly sampled tokens of one request."""

    request: str
    start: int
    """How many output tokens came before these: a gap tells the frontend to attach again."""
    tokens: tuple[int, ...]
    finish: FinishReason | None = None
    cached: int = 0
    """Prompt tokens found in the prefix cache when the request was first scheduled."""
    preemptions: int = 0
    """How often it gave its blocks up to another request; told at the end."""
    recomputed: int = 0
    """Positions that were computed again because of that; told at the end."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of each token, where they are wanted."""
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    """Of each token of the prompt but the first, where they are wanted: told with the first tokens."""
    problem: str = ""
    """What of the request made it end with `error`; empty if nothing of the request did."""
    closed: int | None = None
    """The index of the first output token that is not the one that was drawn, for a document to end in time."""


class Outputs(Record, frozen=True):
    """Everything one engine step produced for one frontend."""

    epoch: str
    """The scheduler process (`producer_run`) that speaks."""
    outputs: tuple[Output, ...]


class Announce(Wire, frozen=True):
    """`gen.<engine>.up`: a scheduler has started (again); frontends submit what they still wait for."""

    engine: str
    epoch: str
    model: str
    context_length: int
    ready: bool = False
    """Whether a worker has its model loaded."""
    in_flight: int = 0
    """Plans published whose results have not come: an idle worker that hears of some has missed something."""
    parked: int = 0
    """Requests that wait for their grammars: a worker that compiles none has missed something."""


def run_of(effect: str) -> str:
    """Read a run's id from the effect id of one of its model calls, `<run>-<step>-m…`, or of one beside it."""
    return effect.partition(".")[0].rsplit("-", 2)[0]
