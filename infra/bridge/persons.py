"""Keys and tokens that are bound to a person or project: what their holders say of `resource` is nothing to go by.

Whatever such a key asks of an agent is asked as that person, and no other's threads are there for it: `ownership` says
of each thread whose it is. A route that is not known to keep to that is shut to it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from infra.bridge.callers import Caller
from infra.bridge.openai import BadRequest
from schemas.commands import CommandData, RunAgent

LONGEST_RESOURCE: Final = 200
"""Characters of a name."""
OPEN: Final = frozenset({
    "/v1/models", "/v1/models/{model:path}", "/version",
    "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/messages/count_tokens",
    "/v1/responses", "/v1/responses/{response_id}", "/v1/responses/{response_id}/input_items",
    "/v1/responses/{response_id}/cancel",
    "/v1/embeddings", "/classify", "/pooling", "/v1/score", "/score", "/v1/rerank", "/v2/rerank", "/rerank",
    "/tokenize", "/detokenize", "/tokenizer_info",
    "/api/agents", "/api/agents/{agent}", "/api/tools",
    "/api/runs", "/api/threads/{thread}/runs", "/api/threads/{thread}/runs/{run}",
    "/api/threads/{thread}/runs/{run}/events", "/api/threads/{thread}/runs/{run}/cancel",
    "/api/threads", "/api/threads/{thread}", "/api/threads/{thread}/fork", "/api/threads/{thread}/messages",
    "/api/threads/{thread}/usage", "/api/threads/{thread}/memory",
    "/api/waits", "/api/threads/{thread}/waits", "/api/threads/{thread}/waits/{effect}/approve",
    "/api/threads/{thread}/waits/{effect}/decline", "/api/threads/{thread}/waits/{effect}/resume",
    "/api/threads/{thread}/waits/{effect}/result",
    "/api/threads/{thread}/standing", "/api/threads/{thread}/mode",
    "/api/threads/{thread}/grants", "/api/threads/{thread}/grants/withdraw",
    "/api/threads/{thread}/tasks", "/api/threads/{thread}/tasks/{task}/cancel",
    "/api/resources/{resource:path}/memory", "/api/recall",
    "/api/chat", "/api/chat/{chat_id}/stream", "/api/chat/{chat_id}/stop", "/api/chat/{chat_id}/messages",
    "/api/agents/{agent}/chat", "/api/agents/{agent}/chat/{chat_id}/stream",
    "/api/agents/{agent}/chat/{chat_id}/stop", "/api/agents/{agent}/chat/{chat_id}/messages",
    "/ag-ui/{agent}", "/ag-ui/{agent}/threads/{thread_id}/stop",
})  # fmt: skip
"""Routes that ask as the person, and tell of that person's threads alone. Files, batches, schedules,
goals, A2A and MCP are a tenant's."""


def shut_to(caller: Caller, route: str) -> BadRequest | None:
    """Say why a route is shut to a caller who is one person."""
    if not caller.resource or route in OPEN:
        return None
    message = f"this key is bound to {caller.resource!r}, and {route} is for a whole tenant: use another key"
    return BadRequest(403, message, None, "bound_key")


def owned(caller: Caller, data: CommandData) -> CommandData:
    """Have an agent asked as the person that its caller is.

    Raises:
        BadRequest: the request says that it is another: 403.
    """
    if not caller.resource or not isinstance(data, RunAgent):
        return data
    return msgspec.structs.replace(data, resource=own_resource(caller, data.resource))


def own_resource(caller: Caller, said: str) -> str:
    """Give whose something is to be: what the request says, or the person that its caller is.

    Raises:
        BadRequest: it says that it is another's: 403.
    """
    if not caller.resource or said in {"", caller.resource}:
        return caller.resource or said
    message = f"resource: this key is bound to {caller.resource!r}: leave it out"
    raise BadRequest(403, message, "resource", "bound_key")
