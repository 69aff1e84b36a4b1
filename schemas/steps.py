"""One scheduler step as a plan and a result: the record that replay follows down to the KV block.

A plan is a diff: the worker keeps each request's tokens and block table, so a decode step names a request and
little else. Steps of one scheduler run are numbered without gaps from 1. A worker that misses a number runs
nothing and asks for a full plan, which lists every running request as new.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from schemas.generation import FinishReason, Sampling, Submit, TokenLogprobs
from schemas.programs import Decision, ProgramNote
from schemas.structured import Structured
from schemas.wire import Record, Wire


class Arrival(Record, frozen=True):
    """A request the worker has not seen (or must see afresh, in a full plan or after a preemption)."""

    request: str
    tokens: tuple[int, ...]
    """Prompt and, when resumed or after a preemption, the output so far."""
    prompt_tokens: int
    """How many of `tokens` are the prompt: the index of an output token is its position minus this."""
    sampling: Sampling
    blocks: tuple[int, ...]
    """Ids of the KV blocks held so far, in order; those of the cached prefix first. Where the model's layers are in
    several groups, one of each group for the same tokens, then one of each for the next ones; for blocks that a window
    has left behind stands another one, which is not read."""
    computed: int
    """Tokens whose KV entries are already in those blocks."""
    erased: bool = False
    """Whether its thread was erased: zeros stand for its tokens, here and wherever else they were."""


class Slice(Record, frozen=True):
    """The tokens of one request that this step computes: positions `[start, start + count)`."""

    request: str
    start: int
    count: int
    blocks: tuple[int, ...] = ()
    """Blocks newly held since the last step, appended to the request's table before computing; of several groups of
    layers as in `Arrival`."""
    sample: bool = True
    """Whether a token is sampled after the last position (false for all but the last prompt chunk)."""


class Began(Record, frozen=True, tag="begin"):
    """The scheduler began."""

    limits: dict[str, int | float | str]
    """Its `SchedulerConfig`, by field."""


class Submitted(Record, frozen=True, tag="submit"):
    """It took a request on."""

    submit: Submit
    """Without tokens and sampling where the request arrives in the same plan: they stand there."""
    time: int = 0
    """Microseconds since the Unix epoch, where it matters when."""
    erased: bool = False
    """As in `Arrival`."""


class Aborted(Record, frozen=True, tag="abort"):
    """It ended a request that somebody no longer wanted."""

    request: str


class Expired(Record, frozen=True, tag="expire"):
    """It ended requests that had come to their deadlines."""

    time: int


class Applied(Record, frozen=True, tag="apply"):
    """It took in a step's result."""

    n: int
    tokens: tuple[int | None, ...] = ()
    """What was sampled, for those slices of the plan that sample, in their order; None for a slice that brought
    nothing. Empty for a result that came before its predecessor's: it only said that this was lost."""
    failed: tuple[str, ...] = ()
    """Requests that the worker could not compute."""
    whole: tuple[str, ...] = ()
    """Those that have all that their grammars ask for: see `StepResult`."""
    closed: tuple[str, ...] = ()
    """Those whose tokens were not the ones that were drawn: see there, too."""


class Resynced(Record, frozen=True, tag="resync"):
    """It was asked for a full plan."""

    worker: str
    blocks: int


class Forgot(Record, frozen=True, tag="forget"):
    """It emptied its prefix cache."""


class Tried(Record, frozen=True, tag="try"):
    """It planned, and came to no plan; but requests gave their blocks up."""

    time: int


class Compiled(Record, frozen=True, tag="compile"):
    """A worker said what became of a grammar."""

    key: str
    worker: str
    problem: str = ""
    """Why it cannot be compiled."""


class Noted(Record, frozen=True, tag="note"):
    """It heard of a program between its turns."""

    note: ProgramNote
    time: int


Told = Began | Submitted | Aborted | Expired | Applied | Resynced | Forgot | Tried | Compiled | Noted


class ToldMore(Record, frozen=True):
    """`step.<engine>.told`: what a scheduler was told while it could make no plan, if that is very much."""

    epoch: str
    n: int
    """The last plan before."""
    told: tuple[Told, ...]


class Prepare(Record, frozen=True):
    """A grammar that requests wait for: the worker compiles it beside its steps and answers with `Prepared`."""

    key: str
    """`Structured.key`."""
    structured: Structured


class StepPlan(Record, frozen=True):
    """What the workers do in step `n`."""

    n: int
    epoch: str
    """The scheduler process that made the plan; a worker follows one epoch at a time."""
    time: int
    """Microseconds since the Unix epoch, as told to `Scheduler.plan`."""
    full: bool
    """Forget every request before applying: `arrivals` lists all that run."""
    arrivals: tuple[Arrival, ...]
    slices: tuple[Slice, ...]
    """Order is the batch order."""
    gone: tuple[str, ...]
    """Requests that left since the last plan (finished, aborted, preempted), in full plans too: the worker forgets
    them before the arrivals, unless it never heard of them."""
    preempted: tuple[str, ...] = ()
    """Those of `gone` whose blocks another request needed: they will come back."""
    told: tuple[Told, ...] = ()
    """All that the scheduler was told since the plan before, in order: with the plans before it this is why the plan
    is what it is. Workers have no use for it."""
    prepare: tuple[Prepare, ...] = ()
    """Grammars that requests wait for which are in no plan yet."""
    decisions: tuple[Decision, ...] = ()
    """What was decided about programs since the plan before."""


class Stalled(Record, frozen=True):
    """`step.<engine>.stall`: there is work, and no step has come to an end for long; or one has again."""

    epoch: str
    n: int
    """The last plan before."""
    time: int
    """Microseconds since the Unix epoch."""
    quiet_ms: int
    """How long nothing had moved."""
    over: bool
    """Whether it moves again."""
    chain: str
    """What the first waits for, and what that waits for."""
    reasons: tuple[tuple[str, str], ...] = ()
    """(request, what it waits for)."""


class StepResult(Record, frozen=True):
    """What came of step `n`."""

    n: int
    epoch: str
    worker: str
    """The worker process (`producer_run`)."""
    tokens: tuple[tuple[str, int], ...]
    """(request, sampled token) for every slice that sampled, in batch order."""
    errors: tuple[tuple[str, str], ...] = ()
    """(request, message) for requests that the worker could not compute."""
    compute_us: int = 0
    """Duration of the forward pass and sampling, microseconds."""
    logprobs: tuple[tuple[str, TokenLogprobs], ...] = ()
    """(request, what the model made of it) for sampled tokens whose requests want it."""
    prompt_logprobs: tuple[tuple[str, int, tuple[TokenLogprobs, ...]], ...] = ()
    """(request, position of the first, what the model made of it and the next ones): tokens of prompts."""
    whole: tuple[str, ...] = ()
    """Requests that have with this token all that their grammars ask for: nothing may follow it, so they stop."""
    refused: tuple[str, ...] = ()
    """Those of `errors` that ask for what cannot be: the message is for whoever asked."""
    closed: tuple[str, ...] = ()
    """Requests that got another token than was drawn, for their documents to end before their tokens do."""


class Resync(Wire, frozen=True):
    """`step.<engine>.resync`: a worker asks for a full plan."""

    worker: str
    """The worker's `producer_run`: a new one means that its KV cache is empty."""
    expected: int
    """The step number it waited for; 0 when it has just started."""
    reason: Literal["started", "gap", "epoch"]
    blocks: int
    """How many KV blocks it holds memory for."""


class Prepared(Wire, frozen=True):
    """`step.<engine>.prepared`: a worker has compiled a grammar, or cannot."""

    epoch: str
    """The scheduler whose plan asked for it."""
    worker: str
    key: str
    problem: str = ""
    """Why it cannot; empty when it is ready."""


class WorkerBegan(Wire, frozen=True):
    """`step.<engine>.worker`: what a worker computes with. Said when it begins, and again and again while it goes on:
    step records expire, and those that are left are to say what they were made with.
    """

    worker: str
    """Its `producer_run`, which results name."""
    profile: str
    """Names all that `parts` says: two workers with the same one compute the same bits of the same weights."""
    parts: Mapping[str, str]
    """What decides how numbers are rounded: kernels, libraries, processor, formats."""
    checkpoint: str
    """A digest of the model's files."""
    loaded: Mapping[str, int | float | str | bool | Mapping[str, str] | None]
    """How the model was loaded: the worker's `RunnerConfig` by field, and the `device`."""


class RequestEvent(Record, frozen=True):
    """What `Scheduler.apply` tells about one request."""

    request: str
    tokens: tuple[int, ...]
    start: int
    finish: FinishReason | None
    cached: int
    preemptions: int = 0
    """How often it gave its blocks up; told at the end."""
    recomputed: int = 0
    """Positions computed again because of that, or because the worker was a new one; told at the end."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of each token, where they are wanted."""
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    """Of the prompt but its first token, where they are wanted; told with the first output token."""
    problem: str = ""
    """What of the request made it end with `error`; empty if nothing of the request did."""
    closed: int | None = None
    """The index of the first output token that is not the one that was drawn, for its document to end in time."""


class Served(Record, frozen=True):
    """`step.<engine>.served`: how a request went, told when it is over. Times are microseconds since the Unix epoch."""

    epoch: str
    """The scheduler."""
    n: int
    """The last step that brought it anything; 0 if none did."""
    request: str
    submitted: int
    """When the scheduler took it on."""
    began: int
    """When it was in a plan for the first time; 0 is never."""
    first: int
    """When its first token came; 0 is never."""
    ended: int
    finish: FinishReason
    prompt_tokens: int
    output_tokens: int
    cached: int = 0
    preemptions: int = 0
    recomputed: int = 0
    steps: tuple[tuple[int, int], ...] = ()
    """(first, last) numbers of steps in a row that it began in or got a token of; of very many the first ones."""
    max_tokens: int = 0
    traceparent: str = ""
