"""What can be set, as frozen structs: one per component, none inheriting from another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from schemas.models import Budget, ModelEntry, Price
from schemas.wire import Wire

EMBEDDED_CHECKPOINT = Path(__file__).parent / "embedded" / "checkpoint"
EMBEDDED_NAME = "ostinato-mini"


_Count = Annotated[int, msgspec.Meta(ge=1)]
_CountOrOurs = Annotated[int, msgspec.Meta(ge=0)]


class EngineSettings(Wire, frozen=True):
    """One engine: a model, its scheduler and its worker."""

    name: str = EMBEDDED_NAME
    """The name clients ask for."""
    model: str = str(EMBEDDED_CHECKPOINT)
    """A folder in Hugging Face layout, or a hub id."""
    device: str = "auto"
    """`auto` takes the best there is; else `cpu`, `cuda:1`, `xpu`, or what another package calls its own."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    load_format: Literal["auto", "dummy"] = "auto"
    """`dummy` makes weights up: a folder with config.json and tokenizer.json is enough."""
    quantization: Literal["none", "int8"] = "none"
    """`int8` computes products in 8 bits: half of bfloat16's memory, and faster."""
    adapters: Mapping[str, str] = {}
    """By the name that clients ask for, an adapter (LoRA) of the model: a folder as `peft` writes it, or a hub id."""
    block_size: _Count = 16
    """Tokens per KV block."""
    kv_blocks: _CountOrOurs = 0
    """KV blocks to hold memory for; 0 takes what fits `kv_memory_mb`."""
    kv_memory_mb: _CountOrOurs = 0
    """0 takes what fits the worker's memory."""
    context_length: _CountOrOurs = 0
    """Tokens; 0 takes the model's own."""
    window: Annotated[int, msgspec.Meta(ge=-1)] = -1
    """Tokens that a layer with a window sees at most, blocks before which are given up; 0 keeps all, -1 takes the
    model's own."""
    tool_parser: str = "auto"
    """How the model writes tool calls: a format's name, `none`, or `auto`, which goes by its chat template."""
    reasoning_parser: str = "auto"
    """How it writes what it thinks: a name, two tags with a space between them, `none`, or `auto`."""
    chat_template: str = ""
    """A file to take in place of the model's own chat template."""
    trust_request_chat_template: bool = False
    """Whether requests may bring a chat template of their own: it is a program, though a caged one."""
    threads: _CountOrOurs = 0
    """Torch threads of the worker; 0 takes half of the cores, at least one."""
    temperature: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """What a request without a temperature gets."""
    policy: Literal["fcfs", "priority", "agents"] = "fcfs"
    """Who begins first: whoever came first; whoever has the lowest `priority`; or programs as a whole, by what they did
    before."""
    max_running: _Count = 256
    """Requests computed at the same time."""
    max_step_tokens: _Count = 2048
    """Positions computed in one step."""
    prefill_chunk: _Count = 512
    """Positions of one prompt computed in one step."""
    max_waiting: _Count = 1024
    """Requests that may wait; one more is refused."""
    max_waiting_tokens: _Count = 1 << 20
    """Tokens of requests that may wait; one that would make it more is refused."""
    shutdown_timeout_s: _CountOrOurs = 3
    """Seconds that requests under way may take to finish when the stack is told to stop."""
    stall_s: _Count = 30
    """Seconds without the end of a step, while there is work, after which the engine is said to stand still."""
    grammar_backend: str = "llguidance"
    """Who compiles grammars: ours, or an entry point of the group `ostinato.grammars`."""
    enforce_eager: bool = False
    """Whether, on an accelerator, steps are launched one by one where they could be captured as graphs."""
    batch_invariant: bool = False
    """Whether a request's tokens must not depend on the batch on an accelerator; on a processor they never do."""
    logprobs_mode: Literal["raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits"] = "raw_logprobs"
    """What `logprobs` are: of what the model gave or of what tokens are drawn from, as logarithms of chances or not."""


class ModelSettings(Wire, frozen=True):
    """Models elsewhere, and what is asked of all models."""

    default: str = ""
    """What agents that name no model are run with; empty takes the engine's."""
    providers: Mapping[str, Mapping[str, Any]] = {}
    """By name, what is other than the table of providers says: the fields of `actors.models.registry.Provider`."""
    chains: Mapping[str, tuple[str | ModelEntry, ...]] = {}
    """By name, models that are asked one after the other."""
    budgets: tuple[Budget, ...] = ()
    connect_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    """Seconds until there must be a connection to a provider."""
    first_s: Annotated[float, msgspec.Meta(ge=0)] = 120.0
    """Seconds until the first word of its answer must have come; 0 has no bound."""
    silence_s: Annotated[float, msgspec.Meta(gt=0)] = 120.0
    """Seconds that it may say nothing."""
    breaker_failures: _CountOrOurs = 5
    """Failures in a row after which a model elsewhere is left alone; 0 never does."""
    breaker_s: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    """Seconds that it is left alone for."""
    after_crash: Literal["repeat", "fail"] = "repeat"
    """What becomes of a call to a provider that a process had made which ended: made again, or failed."""
    cache_answers: _CountOrOurs = 0
    """Answers that each process keeps for calls that ask the same; 0 keeps none."""
    prices: Mapping[str, Price] = {}
    """By pattern of the names of models, US dollars for a million tokens, as `schemas.models.Price`."""


class AccessSettings(Wire, frozen=True):
    """Who may use the HTTP bridge."""

    required: Literal["auto", "always", "never"] = "auto"
    """Whether a key or token is needed; `auto` needs one unless only this machine reaches the bridge."""
    origins: tuple[str, ...] = ()
    """Origins of web pages that may ask (CORS); none may."""
    hosts: tuple[str, ...] = ()
    """Names by which the bridge may be called where no key is needed, beside those of this machine."""
    tls_certificate: str = ""
    """A PEM file, the whole chain; empty serves plain HTTP."""
    tls_key: str = ""
    """Its private key, a PEM file; empty where the certificate's file has it."""
    issuer: str = ""
    """Whose tokens (JWT) are taken, an OpenID Connect issuer's URL; empty takes none."""
    audience: str = ""
    """What tokens must be meant for; needed with an issuer."""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    """By which tokens may be signed."""
    jwks: str = ""
    """URL of the issuer's public keys; empty asks the issuer's discovery document."""
    tenant_claim: str = "tenant"
    """The claim that names a token's tenant."""
    scope_claim: str = "scope"
    """The claim with its scopes, a list, or a text with spaces."""
    resource_claim: str = ""
    """The claim that names the person a token is bound to, such as `sub`; empty binds none."""


class LimitSettings(Wire, frozen=True):
    """What the HTTP bridge takes at most."""

    body_mb: _Count = 4
    """Of a request's body, MiB; what is larger is answered with 413."""
    header_kb: _Count = 32
    """Of all headers together, KiB; 431."""
    nesting: _Count = 64
    """Objects and lists within one another in a body; 400."""
    prompt_kb: _Count = 4096
    """Of a body that a model is to read, KiB; 413."""
    body_s: _Count = 30
    """Seconds until a body must be there; 408."""
    stream_s: _Count = 3600
    """Seconds that a streamed answer may take."""
    stalled_s: _Count = 30
    """Seconds for which a client may read nothing of its stream before it is cut off."""
    requests_per_minute: _CountOrOurs = 0
    """Of one key, unless it was issued with another number; 0 has no bound; 429."""
    concurrent: _CountOrOurs = 0
    """Requests of one key at the same time, unless it was issued with another number; 0 has no bound; 429."""
    tokens_per_minute: _CountOrOurs = 0
    """Of one key's prompts and answers, unless it was issued with another number; 0 has no bound; 429."""
    in_flight: _CountOrOurs = 0
    """Requests of all at the same time; 0 is twice `engine.max_running`; 429."""
    unopened: Literal["leave_out", "refuse"] = "leave_out"
    """What becomes of system messages, and of an effort of thinking, to an agent that is not open to them (`open_to`):
    it is not told, and the header `X-Ostinato-Left-Out` says so; or the request is answered with 400."""


class PoolingSettings(Wire, frozen=True):
    """A model that gives vectors or scores, served beside the engine."""

    model: str = ""
    """A folder in Hugging Face layout, or a hub id; empty serves none."""
    name: str = ""
    """The name clients ask for; empty takes the last part of `model`."""
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_tokens: _Count = 8192
    """Tokens computed at once."""
    max_waiting: _Count = 256
    """Requests that may wait, of up to 64 texts each; one more is refused."""

    @property
    def served_name(self) -> str:
        """What it is called."""
        return self.name or self.model.rstrip("/").rpartition("/")[2]


class BatchSettings(Wire, frozen=True):
    """Files of requests that are answered when there is room."""

    file_mb: _Count = 200
    """Of one file, MiB; 413."""
    storage_mb: _Count = 4096
    """Of all files of a tenant, MiB; 413."""
    lines: _Count = 50_000
    """Of one batch."""
    open: _Count = 100
    """Batches of a tenant that are not over; 429."""
    concurrent: _CountOrOurs = 0
    """Requests of all batches that are answered at a time; 0 is a quarter of `engine.max_running`."""


class A2ASettings(Wire, frozen=True):
    """The Agent2Agent protocol."""

    push: Literal["on", "off"] = "on"
    """Whether clients may have an address of theirs told of a task's changes."""
    push_hosts: tuple[str, ...] = ()
    """Names of hosts, addresses and networks (`10.1.0.0/16`) that may be told though they are not public."""
    push_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 12
    """After so many tries an address is given up: a second after the first, then twice as long each time, 600 s at
    most."""


class McpSettings(Wire, frozen=True):
    """Tools that clients of the Model Context Protocol may call by themselves; none, unless they are named here."""

    tools: tuple[str, ...] = ()
    """Tools of agents, each as `AGENT/TOOL`."""
    services: tuple[str, ...] = ()
    """Tools that are NATS services, by the names that follow `tool-` in theirs; `*` is all that there are."""


class PrivacySettings(Wire, frozen=True):
    """How what people say is kept."""

    sealed: Literal["auto", "on", "off"] = "auto"
    """Whether threads that begin are sealed, each with a key of its own, which deleting them destroys; `auto` is where
    there is a master key, which embedded servers have."""
    master_key: str = ""
    """What the keys are wrapped with: any text that is hard to guess; empty takes the file `master.key` of the data
    directory, which is made where all servers are ours."""


class TelemetrySettings(Wire, frozen=True):
    """What operators see. Where spans go is said by OpenTelemetry's own variables: `OTEL_EXPORTER_OTLP_ENDPOINT`."""

    spans: Literal["auto", "on", "off"] = "auto"
    """Whether spans are sent; `auto` sends them where a variable says where to."""
    content: bool = False
    """Whether spans say what was said, without secrets and personal data."""
    conventions: Literal["1.36", "1.41", "0.1"] = "1.41"
    """The version of OpenTelemetry's names for generative AI."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """How standard error is written: `auto` writes text to a terminal and JSON to all else. Log files are JSON."""


class Settings(Wire, frozen=True):
    """The whole stack."""

    data: str = ".ostinato"
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8000
    """Of the HTTP bridge; 0 takes a free one."""
    agents: tuple[str, ...] = ()
    """Python files or modules whose `Agent` objects are served."""
    demo_agent: bool = True
    """Whether the demo agent is served beside them."""
    agent_processes: _Count = 1
    shards: _Count = 4
    engine: EngineSettings = EngineSettings()
    tenant: str = "default"
    nats: str = ""
    """URL of NATS servers to use; empty runs our own."""
    postgres: str = ""
    """URL of a Postgres database to use; empty runs our own."""
    keep_steps: _CountOrOurs = 7
    """Days that step records stay in Postgres; 0 keeps them for ever."""
    keep_log: _CountOrOurs = 0
    """Days that JetStream keeps of the log, all of which is in Postgres; 0 keeps it for ever."""
    replicas: Literal[0, 1, 3, 5] = 0
    """Of each stream; 0 is by the cluster: what the log has, else 3 where there are 3 servers, else 1."""
    models: ModelSettings = ModelSettings()
    access: AccessSettings = AccessSettings()
    limits: LimitSettings = LimitSettings()
    pooling: PoolingSettings = PoolingSettings()
    batches: BatchSettings = BatchSettings()
    a2a: A2ASettings = A2ASettings()
    mcp: McpSettings = McpSettings()
    privacy: PrivacySettings = PrivacySettings()
    telemetry: TelemetrySettings = TelemetrySettings()


class Place(Wire, frozen=True):
    """Which process of the process table a child is, and where its servers are."""

    role: str
    """`agents`, `scheduler`, `worker`, `pooler` or `recorder`."""
    slot: str
    """Unique in the table and the same after a restart."""
    nats_url: str
    postgres_url: str
    settings: Settings
    master: str = ""
    """The master key; empty is none."""


PLACE_VARIABLE = "OSTINATO_PLACE"
"""How a child gets its place."""


def encode_place(place: Place) -> str:
    """Write a place as one line."""
    return msgspec.json.encode(place).decode()


def decode_place(text: str) -> Place:
    """Read it back."""
    return msgspec.json.decode(text, type=Place)
