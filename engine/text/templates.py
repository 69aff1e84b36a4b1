"""Chat templates: a checkpoint's own Jinja text, rendered in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import msgspec
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import CheckpointError, TemplateError
from schemas.messages import Message, ToolSpec


class ChatTemplate:
    """Renders conversations the way the model was trained to read them."""

    def __init__(self, source: str, variables: dict[str, Any] | None = None) -> None:
        """Compile a template; `variables` are names it may use beside the messages, such as `bos_token`.

        Raises:
            TemplateError: it is not valid Jinja.
        """
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        self._variables = variables or {}
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"the chat template cannot be read: {error} (line {error.lineno})") from error

    @classmethod
    def load(cls, folder: Path) -> ChatTemplate:
        """Read `chat_template.jinja`, or `chat_template` of `tokenizer_config.json`.

        Raises:
            CheckpointError: the checkpoint has neither.
            TemplateError: what it has is not valid Jinja.
        """
        config: dict[str, Any] = {}
        if (folder / "tokenizer_config.json").is_file():
            config = msgspec.json.decode((folder / "tokenizer_config.json").read_bytes())
        if (folder / "chat_template.jinja").is_file():
            source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        else:
            source = config.get("chat_template") or ""
        if not isinstance(source, str) or not source:
            raise CheckpointError(folder, "it has no chat template (chat_template.jinja): not a chat model")
        tokens = {name: _content(config.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        return cls(source, tokens)

    def render(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, prompt: bool = True) -> str:
        """Write a conversation as one text.

        Args:
            messages: from first to last.
            tools: what the model may call.
            prompt: whether the text ends where the assistant begins to speak.

        Raises:
            TemplateError: the template refuses the conversation, or fails on it.
        """
        offered = [{"type": "function", "function": msgspec.to_builtins(tool)} for tool in tools]
        try:
            return self._template.render(
                messages=[_plain(message) for message in messages],
                tools=offered or None,
                add_generation_prompt=prompt,
                **self._variables,
            )
        except jinja2.TemplateError as error:
            raise TemplateError(f"the chat template does not take this conversation: {error}") from error


def _plain(message: Message) -> dict[str, Any]:
    """Give a message as templates expect it."""
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        plain["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _object(call.arguments)}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _object(arguments: str) -> Any:
    """Parse arguments, which most templates write as JSON themselves; text that is no JSON stays text."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _content(token: Any) -> str:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else ""


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
