"""Chat templates: a checkpoint's own Jinja text, rendered in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import msgspec
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import CheckpointError, NoChatTemplate, TemplateError
from schemas.messages import Message, ToolSpec


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks, for training, what the assistant said; it is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Leave the marks out."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """Renders conversations the way the model was trained to read them."""

    def __init__(self, source: str, variables: Mapping[str, Any] | None = None) -> None:
        """Compile a template; `variables` are names it may use beside the messages, such as `bos_token`.

        Raises:
            TemplateError: it is not valid Jinja.
        """
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        self.source = source
        self.variables = variables or {}
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"cannot be read: {error.message}", error.lineno) from error

    @classmethod
    def load(cls, folder: Path, instead: Path | None = None) -> ChatTemplate:
        """Read `chat_template.jinja`, or `chat_template` of `tokenizer_config.json`; or another file `instead`.

        Raises:
            NoChatTemplate: the checkpoint has neither.
            CheckpointError: a file cannot be read.
            TemplateError: what it has is not valid Jinja.
        """
        config: dict[str, Any] = {}
        if (folder / "tokenizer_config.json").is_file():
            try:
                config = msgspec.json.decode((folder / "tokenizer_config.json").read_bytes(), type=dict[str, Any])
            except msgspec.DecodeError as error:
                raise CheckpointError(folder, f"its tokenizer_config.json cannot be read: {error}") from error
        file = instead or folder / "chat_template.jinja"
        if instead is not None or file.is_file():
            try:
                source = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise CheckpointError(folder, f"its chat template {str(file)!r} cannot be read: {error}") from error
        else:
            source = config.get("chat_template") or ""
        if not isinstance(source, str) or not source:
            raise NoChatTemplate(folder)
        tokens = {name: _content(config.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        return cls(source, tokens)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        prompt: bool = True,
        more: Mapping[str, Any] | None = None,
    ) -> str:
        """Write a conversation as one text.

        Args:
            messages: from first to last.
            tools: what the model may call.
            prompt: whether the text ends where the assistant begins to speak.
            more: further names that the template may use; none of those that it has anyway.

        Raises:
            TemplateError: the template refuses the conversation, or fails on it.
        """
        offered = [{"type": "function", "function": _shown(tool)} for tool in tools]
        plain = [_plain(at, message) for at, message in enumerate(messages)]
        try:
            return self._template.render(
                **{
                    **(more or {}),
                    **self.variables,
                    "messages": plain,
                    "tools": offered or None,
                    "add_generation_prompt": prompt,
                }
            )
        except Exception as error:
            # a template is a program that came with the checkpoint: any exception may come out of it
            problem = str(error) if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {error}"
            raise TemplateError(f"does not take this conversation: {problem}") from error


def _shown(tool: ToolSpec) -> dict[str, Any]:
    """Give what a model is told of a tool: whether it is strict is for who binds the answer."""
    shown: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(tool, strict=False))
    return shown


def _plain(at: int, message: Message) -> dict[str, Any]:
    """Give a message as templates expect it."""
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    try:
        calls = [(call, _object(call.arguments)) for call in message.tool_calls]
    except (RecursionError, UnicodeEncodeError) as error:
        problem = f"messages[{at}].tool_calls: arguments without end, or with half a character (a lone surrogate)"
        raise TemplateError(f"does not take this conversation: {problem}") from error
    if calls:
        plain["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
            for call, arguments in calls
        ]
    if message.reasoning:
        # templates do not agree on a name
        plain |= dict.fromkeys(("reasoning_content", "reasoning"), message.reasoning)
        if not (message.content and message.tool_calls):
            # that of gpt-oss refuses a message that has text and thoughts beside its calls
            plain["thinking"] = message.reasoning
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _object(arguments: str) -> Any:
    """Parse arguments, which most templates write as JSON themselves; text that is no JSON stays text."""
    try:
        value = json.loads(arguments)
    except ValueError:
        return arguments
    # an escape may stand for half a character, which no tokenizer takes; what nests too deep fails here, too
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _content(token: Any) -> str:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else ""


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as `transformers` does for templates: no HTML escapes, no order of its own."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
