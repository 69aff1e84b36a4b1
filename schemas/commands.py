"""Requests to change something: published by anyone on `in.<tenant>.<kind>.<thread>.<verb>`, as CloudEvents 1.0 JSON.

Only `id` and `data` are needed; the tenant, kind, thread and verb of the subject are the truth, and the other
CloudEvents attributes are kept as given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from schemas.batches import BatchCommand
from schemas.forks import Fork
from schemas.generation import TruncationSide
from schemas.keys import IssueKey, RevokeKey
from schemas.memory import CreateThread, DeleteThread, Observe, Remember, RenameThread, Resource
from schemas.messages import MOST_TOOLS, Effort, Message, ToolChoice, ToolSpec
from schemas.pushes import PushCommand
from schemas.schedules import ScheduleCommand
from schemas.standing import ModeName, StandingCommand
from schemas.structured import Structured
from schemas.wire import Wire

Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
TopP = Annotated[float, msgspec.Meta(gt=0, le=1)]
Seed = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
MaxTokens = Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]
TopK = Annotated[int, msgspec.Meta(ge=-1, lt=1 << 31)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Repetition = Annotated[float, msgspec.Meta(gt=0, le=10)]
MinTokens = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
Priority = Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 31)]
StopText = Annotated[str, msgspec.Meta(min_length=1)]
BadWord = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
TokenIds = Annotated[tuple[TokenId, ...], msgspec.Meta(max_length=1024)]
CandidateIds = Annotated[tuple[TokenId | TokenIds, ...], msgspec.Meta(max_length=1 << 16)]
ForcedIds = Annotated[tuple[TokenId, ...], msgspec.Meta(max_length=1 << 16)]
ThinkingBudget = Annotated[int, msgspec.Meta(ge=-1, lt=1 << 31)]
Answers = Annotated[int, msgspec.Meta(ge=1, le=16_384)]
Alternatives = Annotated[int, msgspec.Meta(ge=0, le=20)]
BadWords = Annotated[tuple[BadWord, ...], msgspec.Meta(max_length=256)]
PromptText = Annotated[str, msgspec.Meta(min_length=1)]
PromptTokens = Annotated[tuple[TokenId, ...], msgspec.Meta(min_length=1)]
ExtraArgs = Annotated[Mapping[Annotated[str, msgspec.Meta(min_length=1)], Any], msgspec.Meta(max_length=16)]
RawPrompt = PromptText | PromptTokens
Truncation = Annotated[int, msgspec.Meta(ge=-1, lt=1 << 31)]
MaxSteps = Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
Dollars = Annotated[float, msgspec.Meta(ge=0)]
StreamInterval = Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]


class RepetitionDetection(Wire, frozen=True):
    """When an answer goes round in circles: its last tokens are a pattern that stands there several times in a row."""

    max_pattern_size: Annotated[int, msgspec.Meta(ge=0, le=4096)]
    """Tokens of a pattern; 0 looks for none."""
    min_pattern_size: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 1
    """0 is 1."""
    min_count: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 2
    """At least 2, where patterns are looked for."""


class Parent(Wire, frozen=True):
    """A tool call that another agent's run is."""

    thread: str
    run: str
    effect: str
    """Of the `tool.called`."""
    depth: Annotated[int, msgspec.Meta(ge=1)] = 1
    """How many runs are above."""
    root: str = ""
    """The thread of the first run above; empty where that is this call's."""
    root_run: str = ""
    """That run."""

    @property
    def first(self) -> tuple[str, str]:
        """Name the thread and the run that all of this is for."""
        return (self.root, self.root_run) if self.root else (self.thread, self.run)


class RunAgent(Wire, frozen=True, tag="run"):
    """Run an agent in a thread. `in.<tenant>.agent.<thread>.run`."""

    agent: str
    text: str | None = None
    """The user's message; or give `messages`."""
    messages: tuple[Message, ...] = ()
    """History and the user's message, as a chat client brings them."""
    thread: Literal["any", "existing"] = "any"
    """`existing` refuses a thread that has no events yet."""
    temperature: Temperature | None = None
    seed: Seed | None = None
    max_tokens: MaxTokens | None = None
    deadline: Annotated[int, msgspec.Meta(ge=0)] = 0
    """When the run is to be over, answered or not: microseconds since the Unix epoch; 0 is never."""
    approvals: Literal["ask", "refuse"] = "ask"
    """What a tool that needs approval meets: a wait for `approve` or `deny`, or, for clients that can ask nobody, a
    refusal that the model is told."""
    context: Mapping[str, Any] = {}
    """What the agent's functions and tools may know of the request: `actors.request_context`."""
    instructions: str | None = None
    """In place of the agent's own; so are those that follow."""
    model: str | None = None
    max_steps: MaxSteps | None = None
    active_tools: tuple[str, ...] | None = None
    """Of the agent's tools, those that the model may call."""
    tool_choice: ToolChoice | None = None
    tool: str = ""
    """The one that `required` is about; empty is any."""
    parallel_tool_calls: bool | None = None
    tool_concurrency: MaxSteps | None = None
    step_timeout_ms: Milliseconds | None = None
    most_tokens: Milliseconds | None = None
    tools: Annotated[tuple[ToolSpec, ...], msgspec.Meta(max_length=MOST_TOOLS)] = ()
    """Tools that the caller runs: the run waits for each call's `result`."""
    structured: Structured | None = None
    """What the run's last answer is to look like."""
    parent: Parent | None = None
    """The call of another run that this one is."""
    when_busy: Literal["queue", "replace", "steer"] = "queue"
    """What becomes of a run that is under way in the thread: it goes on, and this one waits; it ends for it; or it
    takes what this one says along before its next step."""
    processors: tuple[str, ...] | None = None
    """Of the agent's processors those that are used, in this order; None is all."""
    resource: Resource = ""
    """The person or project whose thread it is; a thread that is somebody else's is refused."""
    note: Mapping[str, Any] = {}
    """What its sender wants to find beside it in the log; nothing here reads it."""
    most_cost: Dollars | None = None
    """In place of the agent's own."""
    notes: Annotated[Mapping[str, str], msgspec.Meta(max_length=1024)] = {}
    """What the thread's memory holds from here on: topic to text."""
    working: str = ""
    """The thread's working memory from here on; empty leaves it."""
    task: str = ""
    """The background task that the run is told of."""
    system: str = ""
    """What its client instructs besides: the model is told behind the agent's own, which must be open to it."""
    top_p: TopP | None = None
    """How tokens are drawn, where the agent is open to `sampling`; so are those that follow."""
    top_k: TopK | None = None
    min_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Repetition | None = None
    stop: tuple[StopText, ...] = ()
    """Texts that end an answer of the model."""
    reasoning_effort: Effort | None = None
    """Of the model, where the agent is open to it: templates that know of it are told; `none` switches thinking off."""
    mode: ModeName | None = None
    """The thread's mode from here on; None leaves it."""
    goal: str = ""
    """The goal that it is begun for."""


class Approve(Wire, frozen=True, tag="approve", forbid_unknown_fields=True):
    """Let a tool call that waits for approval run. `in.<tenant>.agent.<thread>.approve`."""

    effect: str
    """Of the `approval.requested`."""
    arguments: str | None = None
    """What is agreed to: the call's arguments exactly as they were shown. Refused where they are others."""
    always: bool = False
    """Whether to further calls of the tool in this thread, too; refused where its rule lets nobody."""


class Deny(Wire, frozen=True, tag="deny", forbid_unknown_fields=True):
    """Refuse a tool call that waits for approval. `in.<tenant>.agent.<thread>.deny`."""

    effect: str
    """Of the `approval.requested`."""
    reason: str = ""
    """Told to the model."""


class Resume(Wire, frozen=True, tag="resume", forbid_unknown_fields=True):
    """Give a suspended tool what it waits for. `in.<tenant>.agent.<thread>.resume`."""

    effect: str
    """Of the `tool.suspended`."""
    answer: Any = None
    """The data that it waits for."""


class PostResult(Wire, frozen=True, tag="result", forbid_unknown_fields=True):
    """Give the result of a tool that the caller ran. `in.<tenant>.agent.<thread>.result`."""

    effect: str
    """Of the `tool.handed_over`."""
    content: str = ""
    """What the model reads."""
    error: str = ""
    """Why the call came to nothing; the model reads it in place of the content."""
    note: Mapping[str, Any] = {}
    """What its sender wants to find beside it in the log; nothing here reads it."""


class Generate(Wire, frozen=True, tag="generate"):
    """One answer from a model, outside any thread. `in.<tenant>.generation.<id>.generate`."""

    model: str
    messages: tuple[Message, ...] = ()
    """A conversation, which the model's chat template renders; or give `prompt`."""
    tools: tuple[ToolSpec, ...] = ()
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    max_tokens: MaxTokens | None = None
    stop: tuple[StopText, ...] = ()
    top_k: TopK | None = None
    """Only so many of the likeliest tokens; 0 or -1 is all."""
    min_p: Share | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Repetition = 1.0
    min_tokens: MinTokens = 0
    stop_token_ids: TokenIds = ()
    """Beside those that the model ends its answers with."""
    ignore_eos: bool = False
    """Go on after those."""
    logit_bias: Annotated[Mapping[TokenId, Bias], msgspec.Meta(max_length=1024)] = {}
    allowed_token_ids: TokenIds = ()
    bad_words: BadWords = ()
    """Texts that must not come up in the answer."""
    priority: Priority = 0
    """The lower, the sooner, where the engine goes by priority."""
    deadline: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)] = 0
    """When it ends, answered or not: microseconds since the Unix epoch; 0 is never."""
    cache_salt: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """Only requests of the tenant with the same salt share its KV blocks."""
    session_id: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """Requests with the same one are turns of one program: see `engine.policy`."""
    skip_reading_prefix_cache: bool = False
    """Compute the whole prompt, whatever is known of it."""
    tool_choice: ToolChoice = "auto"
    """`none` keeps the tools from the model; `required` wants at least one call."""
    tool: str = ""
    """The one that `required` is about; empty is any."""
    parallel_tool_calls: bool = True
    """Whether there may be more than one call; the answer ends after the first where not."""
    chat_template: str = ""
    """In place of the model's own, where the engine trusts requests with it."""
    chat_template_kwargs: Mapping[str, Any] = {}
    """Further names for the template, such as `enable_thinking`."""
    documents: tuple[dict[str, Any], ...] = ()
    """For templates that put documents into the prompt."""
    add_generation_prompt: bool = True
    """Whether the prompt ends where the assistant begins to speak."""
    continue_final_message: bool = False
    """Whether the answer goes on with the last message, which the prompt ends with."""
    n: Answers = 1
    """How many answers."""
    use_beam_search: bool = False
    """Search for the `n` likeliest answers in place of drawing them; nothing is left to chance."""
    length_penalty: Annotated[float, msgspec.Meta(ge=-10, le=10)] = 1.0
    """Of that search: the power of their length by which logarithms of chances are divided."""
    logprobs: Alternatives | None = None
    """How many of the likeliest tokens are told beside each of the answer; none are told unless it is given."""
    prompt_logprobs: Alternatives | None = None
    """And beside each of the prompt, which is then computed whole."""
    logprob_token_ids: TokenIds = ()
    """Told beside those, however unlikely."""
    prompt_logprob_token_ids: CandidateIds = ()
    """Of the prompt told in place of those: the same everywhere, or a list for each token that is told of. Without
    `prompt_logprobs` these alone are told beside the prompt's own."""
    prompt_logprob_start: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0
    """Of the prompt only tokens behind this position are told of."""
    trace_decode_token_ids: ForcedIds = ()
    """The answer's tokens: they are not drawn, and nothing else ends it. `logprobs` tells what the model makes of them;
    without `max_tokens` all of them are gone through."""
    return_token_ids: bool = False
    """Tell the tokens of prompt and answer."""
    repetition_detection: RepetitionDetection | None = None
    """End with `repetition` when the answer goes round in circles."""
    skip_special_tokens: bool = True
    """Whether special tokens of the answer are silent; the one that ends it always is."""
    include_stop_str_in_output: bool = False
    """Whether the text of `stop` that ends the answer belongs to it."""
    spaces_between_special_tokens: bool = True
    """Whether there is between special tokens that are not silent what the tokenizer puts between tokens."""
    detokenize: bool = True
    """Whether the answer has a text at all; `return_token_ids` tells its tokens."""
    thinking_token_budget: ThinkingBudget | None = None
    """After so many tokens of thinking the model goes on to what it says; -1 is no bound."""
    extra_args: ExtraArgs = {}  # noqa: RUF012  a struct's default is copied
    """By name of a logits processor that is installed where the model is, what that is to be told."""
    truncate_prompt_tokens: Truncation | None = None
    """Only so many tokens of the prompt; -1 is what the context leaves beside `max_tokens`, 0 is all of it."""
    truncation_side: TruncationSide | None = None
    """`left`, which keeps the last ones, unless given."""
    prompt: RawPrompt | None = None
    """What the model is to go on with, as text or token ids, without a chat template."""
    structured: Structured | None = None
    """What the answer is to look like."""
    stream_interval: StreamInterval = 1
    """Tokens between two pieces of the text while it comes, at least."""
    note: Mapping[str, Any] = {}
    """What its sender wants to find beside it in the log; nothing here reads it."""


class AbortRun(Wire, frozen=True, tag="abort"):
    """End a run, whatever it is doing: the model and the tools that can be stopped are.
    `in.<tenant>.agent.<thread>.abort`; a bare generation: `in.<tenant>.generation.<id>.abort`."""

    run: str = ""
    """Empty is the one that is under way."""
    reason: str = ""


class CancelTask(Wire, frozen=True, tag="cancel", forbid_unknown_fields=True):
    """End a tool call that goes on in the background. `in.<tenant>.agent.<thread>.cancel`."""

    task: str
    """The effect of its `task.started`."""
    reason: str = ""


CommandData = (
    RunAgent
    | Approve
    | Deny
    | AbortRun
    | Fork
    | Generate
    | Resume
    | PostResult
    | CreateThread
    | RenameThread
    | DeleteThread
    | Remember
    | Observe
    | IssueKey
    | RevokeKey
    | CancelTask
    | ScheduleCommand
    | BatchCommand
    | PushCommand
    | StandingCommand
)


class Command(Wire, frozen=True):
    """A command as the log keeps it: the envelope's attributes, and where it was sent."""

    id: str
    tenant: str
    kind: str
    thread: str
    verb: str
    data: CommandData
    source: str = ""
    time: str = ""
    traceparent: str = ""
    request_id: str = ""
    """The `x-request-id` of the HTTP request that it came with."""


class CloudCommand(Wire, frozen=True):
    """The JSON a client publishes. Its `data` gets the verb as its tag before it is decoded."""

    id: str
    data: msgspec.Raw
    specversion: str = "1.0"
    source: str = ""
    type: str = ""
    subject: str = ""
    time: str = ""
    traceparent: str = ""
    requestid: Annotated[str, msgspec.Meta(max_length=128)] = ""
