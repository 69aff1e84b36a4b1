"""The names that OpenTelemetry's conventions for generative AI give to things, by version: no other file spells one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Version = Literal["1.36", "1.41", "0.1"]
"""1.36 and 1.41 are of the main conventions, 0.1 is of the repository that they moved to."""


@dataclass(frozen=True)
class Names:
    """One version's names."""

    provider: str = "gen_ai.provider.name"
    cached_tokens: str = "gen_ai.usage.cache_read.input_tokens"
    reasoning_tokens: str = "gen_ai.usage.reasoning.output_tokens"
    input_messages: str = "gen_ai.input.messages"
    output_messages: str = "gen_ai.output.messages"
    arguments: str = "gen_ai.tool.call.arguments"
    result: str = "gen_ai.tool.call.result"
    operation: str = "gen_ai.operation.name"
    agent: str = "gen_ai.agent.name"
    conversation: str = "gen_ai.conversation.id"
    request_model: str = "gen_ai.request.model"
    response_model: str = "gen_ai.response.model"
    response_id: str = "gen_ai.response.id"
    finish_reasons: str = "gen_ai.response.finish_reasons"
    temperature: str = "gen_ai.request.temperature"
    top_p: str = "gen_ai.request.top_p"
    seed: str = "gen_ai.request.seed"
    max_tokens: str = "gen_ai.request.max_tokens"
    input_tokens: str = "gen_ai.usage.input_tokens"
    output_tokens: str = "gen_ai.usage.output_tokens"
    tool: str = "gen_ai.tool.name"
    tool_call: str = "gen_ai.tool.call.id"
    tool_type: str = "gen_ai.tool.type"
    # vLLM's, of engine requests
    request_id: str = "gen_ai.request.id"
    in_queue: str = "gen_ai.latency.time_in_queue"
    to_first_token: str = "gen_ai.latency.time_to_first_token"
    e2e: str = "gen_ai.latency.e2e"
    in_prefill: str = "gen_ai.latency.time_in_model_prefill"
    in_decode: str = "gen_ai.latency.time_in_model_decode"
    in_inference: str = "gen_ai.latency.time_in_model_inference"
    # of all spans
    session: str = "session.id"
    user: str = "user.id"
    error: str = "error.type"
    messaging_system: str = "messaging.system"
    messaging_operation: str = "messaging.operation.type"
    remember: str = "update_memory"
    """The operation of a write to memory, of which there is no other in `writes`."""
    recall: str = "search_memory"
    writes: Mapping[str, str] = field(default_factory=dict)
    """The operations of writes, by the type of the event."""
    forget: str = ""
    """The operation of a write that leaves nothing; empty where it is as any other."""
    memory_store: str = ""
    """From here on what only some versions have a name for."""
    memory_record: str = ""
    memory_records: str = ""
    memory_query: str = ""


NAMES: Final[dict[Version, Names]] = {
    "1.36": Names(provider="gen_ai.system", cached_tokens="gen_ai.usage.cached_tokens"),
    "1.41": Names(),
    "0.1": Names(
        reasoning_tokens="gen_ai.usage.reasoning_tokens",
        writes={
            "thread.created": "create_memory_store",
            "thread.deleted": "delete_memory_store",
            "memory.observed": "create_memory",
            "memory.written": "upsert_memory",
            "working.written": "update_memory",
        },
        forget="delete_memory",
        memory_store="gen_ai.memory.store.id",
        memory_record="gen_ai.memory.record.id",
        memory_records="gen_ai.memory.record.count",
        memory_query="gen_ai.memory.query.text",
    ),
}
