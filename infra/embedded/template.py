"""The chat template, rendered as any engine renders it, and read back from what the model writes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

CHECKPOINT: Final = Path(__file__).parent / "checkpoint"
SYSTEM_END: Final = "<|im_end|>\n"
_CALL: Final = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)


@cache
def _template() -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string((CHECKPOINT / "chat_template.jinja").read_text(encoding="utf-8"))


def render(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
    """Write a conversation as the model reads it."""
    return _template().render(messages=messages, tools=tools, add_generation_prompt=False)


def render_prompt(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
    """Write a conversation up to where the model goes on."""
    return _template().render(messages=messages, tools=tools, add_generation_prompt=True)


def read_answer(text: str) -> dict[str, Any]:
    """Read what the model wrote into an OpenAI assistant message; calls that are no JSON stay text."""
    calls: list[dict[str, Any]] = []
    for found in _CALL.finditer(text):
        try:
            call = json.loads(found[1])
            name, arguments = str(call["name"]), json.dumps(call["arguments"], ensure_ascii=False)
        except (ValueError, KeyError, TypeError):
            return {"role": "assistant", "content": text}
        function = {"name": name, "arguments": arguments}
        calls.append({"id": f"call_{len(calls)}", "type": "function", "function": function})
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": _CALL.sub("", text).strip(), "tool_calls": calls}
