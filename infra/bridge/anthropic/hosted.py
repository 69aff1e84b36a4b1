"""Tools that Anthropic runs, as definitions and in a client's history. Pure.

Nobody runs them here. What such a call came to, where its block says it in words, is part of what the assistant said;
of the others, and of the tools, the model is not told, and the answer says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from schemas.anthropic import AnthropicTool, Block, MessagesRequest

_TOOLS: Final = frozenset({
    *("web_search", "web_fetch", "code_execution", "tool_search_tool_regex", "tool_search_tool_bm25"),
    *("bash", "text_editor", "computer", "memory"),
})  # fmt: skip
"""Kinds of tools that are run where a model is, or are known to it from its training."""
_DATED: Final = re.compile(r"(\w{1,40}?)(?:_\d{8})?", re.ASCII)


def left_out(asked: MessagesRequest) -> list[str]:
    """List the kinds of tools and of blocks that the model is not told of, each once."""
    return list(dict.fromkeys((*hosted_tools(asked), *_blocks(asked))))


def hosted_tools(asked: MessagesRequest) -> list[str]:
    """List the kinds of tools that the model is not told of."""
    return [kind for tool in asked.tools or () if (kind := kind_of(tool))]


def kind_of(tool: AnthropicTool) -> str:
    """Give the kind that a tool is of, without its date; empty where a client can run it for any model."""
    found = None if tool.type is None or tool.input_schema is not None else _DATED.fullmatch(tool.type)
    return found[1] if found is not None and found[1] in _TOOLS else ""


def is_hosted(block: Block) -> bool:
    """Say whether a block is of such a call."""
    return block.type in _BLOCKS


def told_of(block: Block) -> str:
    """Give what a model reads of such a call; empty where it is not told."""
    return _BLOCKS[block.type](block.content)


def _blocks(asked: MessagesRequest) -> Iterator[str]:
    """Name the kinds of blocks of which a model is not told; of a call it is what it came to that counts."""
    for message in asked.messages:
        if message.role == "assistant" and not isinstance(message.content, str):
            yield from (
                block.type
                for block in message.content
                if is_hosted(block) and not block.type.endswith("_tool_use") and not told_of(block)
            )


def _nothing(_: Any) -> str:
    return ""


def _searched(content: Any) -> str:
    found = [one for one in content if isinstance(one, Mapping)] if isinstance(content, list) else []
    return _said("the web was searched", *(f"{one.get('title', '')}: {one.get('url', '')}" for one in found))


def _fetched(content: Any) -> str:
    match content:
        case {"url": str(url), "content": {"source": {"type": "text", "data": str(text)}}}:
            return _said(f"{url} was read", text)
        case _:
            return ""


def _ran(content: Any) -> str:
    put_out = [content.get(name) for name in ("stdout", "stderr")] if isinstance(content, Mapping) else []
    return _said("code was run", *(text for text in put_out if isinstance(text, str)))


def _answered(content: Any) -> str:
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [one.get("text") for one in parts if isinstance(one, Mapping)]
    return _said("a tool answered", *(text for text in texts if isinstance(text, str)))


def _said(head: str, *texts: str) -> str:
    told = [text for text in texts if text]
    return "\n".join((f"[{head}]", *told, "")) if told else ""


_BLOCKS: Final[Mapping[str, Callable[[Any], str]]] = {
    "server_tool_use": _nothing,
    "mcp_tool_use": _nothing,
    "web_search_tool_result": _searched,
    "web_fetch_tool_result": _fetched,
    "code_execution_tool_result": _ran,
    "bash_code_execution_tool_result": _ran,
    "text_editor_code_execution_tool_result": _nothing,
    "tool_search_tool_result": _nothing,
    "mcp_tool_result": _answered,
    "container_upload": _nothing,
}
