"""OpenAI chat completions, the part of it that is served, as its clients write it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from schemas.commands import (
    Alternatives,
    Answers,
    BadWords,
    Bias,
    CandidateIds,
    ExtraArgs,
    ForcedIds,
    MinTokens,
    Penalty,
    Priority,
    Repetition,
    RepetitionDetection,
    Share,
    StreamInterval,
    ThinkingBudget,
    TokenId,
    TokenIds,
    TopK,
    Truncation,
)
from schemas.generation import TruncationSide
from schemas.messages import Effort, Image, Message, Role, ToolCall, ToolSpec, told_of_effort
from schemas.structured import MOST_CHOICES, MOST_SOURCE
from schemas.wire import Wire

GrammarText = Annotated[str, msgspec.Meta(max_length=MOST_SOURCE)]
Noted = Annotated[str, msgspec.Meta(max_length=512)]
Verbosity = Literal["low", "medium", "high"]
TimeoutS = Annotated[float, msgspec.Meta(gt=0, le=31_536_000)]


class TextPart(Wire, frozen=True, tag="text"):
    """A piece of text in a message."""

    text: str


class ImageAddress(Wire, frozen=True):
    """Where a picture is."""

    url: str
    """`https://…` or `data:image/…;base64,…`."""
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Wire, frozen=True, tag="image_url"):
    """A picture in a message."""

    image_url: ImageAddress


class RefusalPart(Wire, frozen=True, tag="refusal"):
    """What an assistant said in place of an answer."""

    refusal: str


class FunctionCall(Wire, frozen=True):
    """The function of a tool call."""

    name: str
    arguments: str = ""


class CustomCall(Wire, frozen=True):
    """What a custom tool is called with."""

    name: str
    input: str = ""


class ChatToolCall(Wire, frozen=True):
    """A tool call, as the assistant's message carries it: of a function or of a custom tool."""

    id: str
    function: FunctionCall | None = None
    type: str = "function"
    custom: CustomCall | None = None

    def __post_init__(self) -> None:
        """See that it is one of the two."""
        if (self.function is None) == (self.custom is None):
            raise ValueError("missing required field `function`, or `custom` where that is its `type`")

    def call(self) -> ToolCall:
        """Give it as one of ours."""
        if self.custom is not None:
            return ToolCall(self.id, self.custom.name, as_arguments(self.custom.input))
        assert self.function is not None
        return ToolCall(self.id, self.function.name, self.function.arguments)


def as_arguments(given: str) -> str:
    """Write what a custom tool is called with as the arguments of the function that it is to a model."""
    return msgspec.json.encode({"input": given}).decode()


class ChatMessage(Wire, frozen=True):
    """One message of a request."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Sequence[TextPart | ImagePart | RefusalPart] | None = None
    tool_calls: list[ChatToolCall] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    """The same; clients and servers do not agree on its name."""
    refusal: str | None = None
    """What an assistant said in place of an answer; or it is a part of that."""

    def message(self) -> Message:
        """Give it as one of ours."""
        content = self.content or self.refusal or ""
        given = [TextPart(content)] if isinstance(content, str) else content
        parts = [TextPart(part.refusal) if isinstance(part, RefusalPart) else part for part in given]
        text = "".join(part.text for part in parts if isinstance(part, TextPart))
        calls = tuple(call.call() for call in self.tool_calls or ())
        role: Role = "system" if self.role == "developer" else self.role
        reasoning = (self.reasoning or self.reasoning_content or "") if role == "assistant" else ""
        return Message(role, text, calls, self.tool_call_id, reasoning, images=tuple(_images(parts)))


def _images(parts: Sequence[TextPart | ImagePart]) -> Iterator[Image]:
    """Give the pictures of a message, each with how much of its text comes after it."""
    rest = sum(len(part.text) for part in parts if isinstance(part, TextPart))
    for part in parts:
        if isinstance(part, TextPart):
            rest -= len(part.text)
        else:
            yield Image(url=part.image_url.url, detail=part.image_url.detail or "", rest=rest)


class CustomGrammar(Wire, frozen=True):
    """What a custom tool's input keeps to."""

    syntax: Literal["lark", "regex"]
    definition: GrammarText


class CustomFormat(Wire, frozen=True):
    """What a custom tool is called with: any text, or one of a grammar."""

    type: Literal["text", "grammar"] = "text"
    grammar: CustomGrammar | None = None


class CustomTool(Wire, frozen=True):
    """A tool that is called with a text."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    description: str = ""
    format: CustomFormat | None = None


class ChatTool(Wire, frozen=True):
    """A tool the client offers."""

    function: ToolSpec | None = None
    type: Literal["function", "custom"] = "function"
    defer_loading: bool | None = None
    custom: CustomTool | None = None
    """Where it is of that type; `function` is what it is to the model then."""

    def __post_init__(self) -> None:
        """See that it is what its type says."""
        if getattr(self, self.type) is None:
            raise ValueError(f"missing required field `{self.type}`")
        if self.type == "function" and self.custom is not None:
            raise ValueError("a function has no `custom`: leave it out, or let its `type` be 'custom'")

    @property
    def spec(self) -> ToolSpec:
        """What a model is told of it; a custom tool was made a function before."""
        assert self.function is not None
        return self.function


class StreamOptions(Wire, frozen=True):
    """Options of a streamed answer."""

    include_usage: bool = False
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class StructuredOutputs(Wire, frozen=True, forbid_unknown_fields=True):
    """What the answer is to look like, in vLLM's words: one of the first six, and how JSON is written."""

    json: GrammarText | dict[str, Any] | None = None
    """A JSON schema, or its text."""
    regex: GrammarText | None = None
    choice: Annotated[list[str], msgspec.Meta(max_length=MOST_CHOICES)] | None = None
    grammar: GrammarText | None = None
    json_object: bool | None = None
    structural_tag: GrammarText | dict[str, Any] | None = None
    whitespace_pattern: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    after: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """The text that ends the model's thinking, after which the answer begins; vLLM has no such field."""


class AnswerRequest(Wire, frozen=True, kw_only=True):
    """What requests for chat and for raw completions have in common."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Answers | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[Mapping[TokenId, Bias], msgspec.Meta(max_length=1024)] | None = None
    response_format: dict[str, Any] | None = None
    top_k: TopK | None = None
    """From here on fields that OpenAI's API has not, named as vLLM's."""
    min_p: Share | None = None
    repetition_penalty: Repetition | None = None
    min_tokens: MinTokens | None = None
    stop_token_ids: TokenIds | None = None
    ignore_eos: bool | None = None
    allowed_token_ids: TokenIds | None = None
    bad_words: BadWords | None = None
    priority: Priority | None = None
    prompt_logprobs: Alternatives | None = None
    logprob_token_ids: TokenIds | None = None
    return_token_ids: bool | None = None
    repetition_detection: RepetitionDetection | None = None
    use_beam_search: bool | None = None
    length_penalty: Annotated[float, msgspec.Meta(ge=-10, le=10)] | None = None
    cache_salt: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    session_id: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    """Requests with the same one are turns of one program; the header `X-Session-ID` does the same."""
    skip_reading_prefix_cache: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    spaces_between_special_tokens: bool | None = None
    detokenize: bool | None = None
    prompt_logprob_token_ids: CandidateIds | None = None
    prompt_logprob_start: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] | None = None
    trace_decode_token_ids: ForcedIds | None = None
    vllm_xargs: ExtraArgs | None = None
    """What logits processors of other packages are told, by their names."""
    truncate_prompt_tokens: Truncation | None = None
    truncation_side: TruncationSide | None = None
    stream_interval: StreamInterval | None = None
    timeout_s: TimeoutS | None = None
    """Ours: seconds after which it ends with status 504, answered or not."""
    structured_outputs: StructuredOutputs | None = None
    guided_json: Any = None
    """Older names, which are refused: what they asked for must not be left out in silence."""
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    guided_json_object: Any = None
    guided_whitespace_pattern: Any = None
    guided_decoding_backend: Any = None
    structural_tag: Any = None
    return_tokens_as_token_ids: bool | None = None
    """Whether `logprobs` call tokens `token_id:` and their ids."""
    request_id: str | None = None
    """What the request is called where no `x-request-id` says it."""
    user: Noted | None = None
    """Kept in the log beside the request, as are the next three."""
    metadata: Annotated[Mapping[Noted, Noted], msgspec.Meta(max_length=16)] | None = None
    safety_identifier: Noted | None = None
    prompt_cache_key: Noted | None = None
    watermarking: Any = None
    """From here on fields that are known and not served."""
    service_tier: Any = None
    store: Any = None
    moderation: Any = None
    prompt_cache_retention: Any = None
    return_weight_versions: Any = None
    return_token_offsets: Any = None
    return_mm_kwargs: Any = None
    mm_processor_kwargs: Any = None
    kv_transfer_params: Any = None
    ec_transfer_params: Any = None
    routed_experts_prompt_start: Any = None
    add_special_tokens: Any = None


class ChatRequest(AnswerRequest, frozen=True, kw_only=True):
    """`POST /v1/chat/completions`. Unknown fields are ignored; known ones with a value not served are refused."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    tools: list[ChatTool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    reasoning_effort: Effort | None = None
    """Templates that know of it are told; `none` switches thinking off."""
    verbosity: Verbosity | None = None
    """The same."""
    include_reasoning: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: tuple[dict[str, Any], ...] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    thinking_token_budget: ThinkingBudget | None = None
    echo: bool | None = None
    """Whether the answer begins with the last message, if that is the assistant's."""
    media_io_kwargs: Any = None
    """From here on fields that are known and not served."""
    return_prompt_text: Any = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    web_search_options: Any = None
    prediction: Any = None
    """What the answer may be like: taken, and of no use."""

    def echoed(self) -> str:
        """Give what the answer begins with."""
        last = self.messages[-1].message() if self.echo else None
        return last.content if last is not None and last.role == "assistant" else ""

    def kwargs(self) -> dict[str, Any]:
        """Give the further names for the template."""
        verbosity = {} if self.verbosity is None else {"verbosity": self.verbosity}
        return told_of_effort(self.reasoning_effort or "") | verbosity | (self.chat_template_kwargs or {})


class ErrorBody(Wire, frozen=True):
    """The inside of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Wire, frozen=True):
    """An error, as every client of the API expects it."""

    error: ErrorBody


class CompletionUsage(msgspec.Struct, frozen=True):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]
    cost: float | msgspec.UnsetType | None = msgspec.UNSET
    """Of an agent's run, in US dollars; null where a price is not known. Not in OpenAI's API."""
