"""How one model writes its answers: its format of tool calls and of reasoning, by name or by its chat template."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from engine.errors import UnknownParser
from engine.text.formats import (
    DEEPSEEK_V3,
    DEEPSEEK_V31,
    FORMATS,
    GLM,
    HARMONY,
    HERMES,
    KIMI_K2,
    LLAMA3_JSON,
    MINIMAX,
    MISTRAL,
    NONE,
    OLMO3,
    PYTHONIC,
    QWEN3_CODER,
    SEED_OSS,
    Format,
)
from engine.text.parsers import Thinking, Wanted
from schemas.messages import ToolSpec

AUTO: Final = "auto"

THINKING: Final = {
    thinking.name: thinking
    for thinking in (
        Thinking("think", "<think>", "</think>"),
        Thinking("deepseek_r1", "<think>", "</think>", begun=True),
        Thinking("mistral", "[THINK]", "[/THINK]"),
        Thinking("seed_oss", "<seed:think>", "</seed:think>"),
        Thinking("granite", "<|thinking|>", "<|/thinking|>"),
    )
}
"""The tags around reasoning, by name."""

_ALSO_CALLED: Final = {
    "openai": HARMONY.name,
    "glm45": GLM.name,
    "glm47": GLM.name,
    "minimax_m2": MINIMAX.name,
    "llama4_json": LLAMA3_JSON.name,
    "llama4_pythonic": PYTHONIC.name,
    "qwen3_xml": QWEN3_CODER.name,
    "qwen3_json": HERMES.name,
}
"""What vLLM calls formats, where that is another name."""

_THINKING_ALSO_CALLED: Final = {
    "openai_gptoss": HARMONY.name,
    "qwen3": "think",
    "glm45": "think",
    "deepseek_v3": "think",
    "olmo3": "think",
}
"""The same of tags around reasoning."""

_SIGNS: Final[tuple[tuple[Format, tuple[str, ...]], ...]] = (
    (HARMONY, ("<|channel|>", "<|message|>")),
    (DEEPSEEK_V3, ("<｜tool▁sep｜>", "```json")),  # noqa: RUF001
    (DEEPSEEK_V31, ("<｜tool▁sep｜>",)),  # noqa: RUF001
    (KIMI_K2, ("<|tool_call_argument_begin|>",)),
    (MISTRAL, ("[TOOL_CALLS]",)),
    (OLMO3, ("<function_calls>",)),
    (MINIMAX, ("<minimax:tool_call>",)),
    (SEED_OSS, ("<seed:tool_call>",)),
    (QWEN3_CODER, ("<function=", "<parameter=")),
    (GLM, ("<arg_key>",)),
    (HERMES, ("<tool_call>",)),
    (PYTHONIC, ("[func_name1(",)),
    (PYTHONIC, ("<|python_start|>",)),
    (LLAMA3_JSON, ('"parameters": ',)),
    (LLAMA3_JSON, ("<|python_tag|>",)),
)
"""What a template of a format has in it; the first that has all of it counts."""

_THINKING_SIGNS: Final = ("</think>", "<think>", "[THINK]", "<seed:think>")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a model writes its answers."""

    format: Format = NONE
    thinking: Thinking | None = None
    reasons: bool = True
    """Whether a format's own channels of reasoning are told apart from text."""

    @property
    def reasoning(self) -> str:
        """Name how reasoning is written."""
        if self.format.channels is not None:
            return self.format.name if self.reasons else "none"
        return "none" if self.thinking is None else self.thinking.name

    def wanted(
        self,
        tools: Iterable[ToolSpec],
        prompt: str,
        continued: str,
        special: Collection[str],
        *,
        calls: bool = True,
        most_calls: int | None = None,
    ) -> Wanted:
        """Say what an answer is parsed for.

        Args:
            tools: that were offered.
            prompt: what the answer follows on; the model reasons from the first word on where it ends with the tag.
            continued: what the assistant has said of this answer already.
            special: the tokenizer's special tokens.
            calls: whether tools may be called.
            most_calls: after so many calls the answer ends.
        """
        schemas: Mapping[str, Mapping[str, Any]] = {tool.name: tool.parameters for tool in tools}
        thinking = self.thinking
        begun = thinking is not None and (
            (thinking.begun and not continued)
            or prompt.rstrip().endswith(thinking.open)
            or continued.rfind(thinking.open) > continued.rfind(thinking.close)
        )
        wanted = Wanted(self.format, thinking, begun, calls, most_calls, schemas, reasons=self.reasons)
        return wanted.hearing(special)


def dialect(template: str, tool_parser: str = AUTO, reasoning_parser: str = AUTO) -> Dialect:
    """Settle how a model writes its answers.

    Args:
        template: the text of its chat template, which has what the model was trained to write.
        tool_parser: the name of a format; `auto` goes by the template.
        reasoning_parser: the name of a pair of tags, or the two tags with white space between them; `auto` goes by the
            template.

    Raises:
        UnknownParser: there is none of that name.
    """
    reasoning_parser = _THINKING_ALSO_CALLED.get(reasoning_parser, reasoning_parser)
    named = _ALSO_CALLED.get(tool_parser, tool_parser)
    format_ = _detected(template) if named == AUTO else FORMATS.get(named)
    if format_ is None:
        raise UnknownParser("tool_parser", tool_parser, FORMATS)
    if reasoning_parser == HARMONY.name and tool_parser in {AUTO, "none"}:
        format_ = HARMONY
    if format_ is HARMONY:
        _thinking(reasoning_parser, template)
        return Dialect(HARMONY, None, reasoning_parser != "none")
    return Dialect(format_, _thinking(reasoning_parser, template))


def _detected(template: str) -> Format:
    return next((found for found, signs in _SIGNS if all(sign in template for sign in signs)), NONE)


def _thinking(name: str, template: str) -> Thinking | None:
    tags = name.split()
    if len(tags) == 2:
        return Thinking("custom", tags[0], tags[1])
    if name == AUTO:
        signs = [sign for sign in _THINKING_SIGNS if sign in template]
        return next((known for known in THINKING.values() if signs and signs[0] in {known.open, known.close}), None)
    if name in {"none", HARMONY.name}:
        return None
    if name not in THINKING:
        raise UnknownParser("reasoning_parser", name, [*THINKING, "none", HARMONY.name, "OPEN CLOSE (two tags)"])
    return THINKING[name]
