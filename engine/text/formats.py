"""The formats that models write tool calls in, described; `engine.text.parsers` reads all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from engine.text.steps import (
    Ahead,
    Arguments,
    Calls,
    Either,
    End,
    Mark,
    Maybe,
    Name,
    Pairs,
    PythonCalls,
    Skipped,
    Space,
    Step,
)


@dataclass(frozen=True, slots=True)
class Opener:
    """A text with which a call begins, and how it goes on."""

    mark: str
    steps: tuple[Step, ...]
    fresh: bool = False
    """Whether it is one only where nothing was said yet: at the beginning, and after a call or reasoning."""
    kept: bool = False
    """Whether it is the beginning of what the steps read."""
    first: bool = True
    """Whether calls are to begin with it, and not only may."""
    known: bool = False
    """Whether only calls of tools that were offered are calls: what begins with no tag may be meant as text."""


@dataclass(frozen=True, slots=True)
class Channels:
    """Answers in messages, each of which says before `message` in which channel it is and whom it is for."""

    begins: tuple[str, ...]
    """What a message's head begins with."""
    addressed: str
    """What comes before whom it is for; an answer may begin with it."""
    message: str
    """What comes after the head."""
    ends: tuple[str, ...]
    channel: str
    """What comes before the channel's name."""
    reasoning: frozenset[str]
    """Channels that hold reasoning; the others hold text."""
    functions: str
    """What comes before a tool's name in whom a message is for."""
    calling: str
    """How a head goes on that calls a tool; `{}` stands for the address."""
    saying: str
    """What comes before what is said to the user."""
    speaker: str
    """What comes before the head of a further message of the same answer."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a model writes tool calls."""

    name: str
    openers: tuple[Opener, ...] = ()
    silent: tuple[str, ...] = ()
    """Texts around calls that say nothing."""
    parting: str = ""
    """What stands between calls, where it is not white space."""
    channels: Channels | None = None

    def marks(self) -> Iterator[str]:
        """Name every text that the format needs to see, special token or not."""
        yield from self.silent
        for opener in self.openers:
            yield opener.mark
            for step in opener.steps:
                yield from step.marks()
        if self.channels is not None:
            yield from (*self.channels.begins, self.channels.message, *self.channels.ends, self.channels.channel)


_KEYS: Final = ("name", "type", "function", "parameters", "arguments", "id")
_TAG, _TAG_END = "<tool_call>", "</tool_call>"
_TAGGED: Final = (Space(), Calls(), Space(), End(_TAG_END))
_FUNCTION: Final = (
    Name((">",)),
    Pairs(("<parameter=", ">"), ("", "</parameter>"), "</function>", lines=True),
)
_DEEPSEEK: Final = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")  # noqa: RUF001
_CALL, _SEPARATOR, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"  # noqa: RUF001

HERMES: Final = Format("hermes", (Opener(_TAG, _TAGGED),))

LLAMA3_JSON: Final = Format(
    "llama3_json",
    (
        Opener("<|python_tag|>", (Space(), Calls()), first=False),
        Opener("{", (Ahead(_KEYS), Calls("parameters")), fresh=True, kept=True, known=True),
        Opener(";", (Space(), Maybe("<|python_tag|>"), Space(), Calls()), fresh=True, first=False, known=True),
    ),
    parting="; ",
)

PYTHONIC: Final = Format(
    "pythonic",
    (Opener("[", (Space(), PythonCalls("]")), fresh=True, known=True),),
    silent=("<|python_start|>", "<|python_end|>"),
)

OLMO3: Final = Format("olmo3", (Opener("<function_calls>", (Space(), PythonCalls("</function_calls>"))),))

QWEN3_CODER: Final = Format(
    "qwen3_coder",
    (
        Opener(_TAG, (Space(), Mark("<function="), *_FUNCTION, Space(), End(_TAG_END))),
        # now and then the outer tag is forgotten
        Opener("<function=", (*_FUNCTION, Space(), Maybe(_TAG_END)), fresh=True, first=False),
    ),
)

SEED_OSS: Final = Format(
    "seed_oss",
    (Opener("<seed:tool_call>", (Space(), Mark("<function="), *_FUNCTION, Space(), End("</seed:tool_call>"))),),
)

GLM: Final = Format(
    "glm",
    (
        Opener(
            _TAG,
            (
                Name(("\n", "<arg_key>", _TAG_END), stay=True),
                Pairs(("<arg_key>", "</arg_key>"), ("<arg_value>", "</arg_value>"), _TAG_END),
            ),
        ),
    ),
)

MINIMAX: Final = Format(
    "minimax",
    (
        Opener(
            '<invoke name="',
            (Name(('">',)), Pairs(('<parameter name="', '">'), ("", "</parameter>"), "</invoke>", lines=True)),
        ),
    ),
    silent=("<minimax:tool_call>", "</minimax:tool_call>"),
)

MISTRAL: Final = Format(
    "mistral",
    (
        Opener(
            "[TOOL_CALLS]",
            (
                Space(),
                Either(
                    (
                        (Calls(many=True),),
                        (
                            Name(("[ARGS]", "[CALL_ID]", "{"), stay=True),
                            Either(((Mark("[CALL_ID]"), Skipped("[ARGS]")), (Maybe("[ARGS]"),))),
                            Space(),
                            Arguments(),
                        ),
                    )
                ),
            ),
        ),
    ),
)

DEEPSEEK_V3: Final = Format(
    "deepseek_v3",
    (
        Opener(
            _CALL,
            (
                Skipped(_SEPARATOR),
                Name(("\n",)),
                Mark("```json"),
                Space(),
                Arguments(),
                Space(),
                Mark("```"),
                Space(),
                End(_CALL_END),
            ),
        ),
    ),
    silent=_DEEPSEEK,
)

DEEPSEEK_V31: Final = Format(
    "deepseek_v31",
    (Opener(_CALL, (Name((_SEPARATOR,)), Space(), Arguments(), Space(), End(_CALL_END))),),
    silent=_DEEPSEEK,
)

KIMI_K2: Final = Format(
    "kimi_k2",
    (
        Opener(
            "<|tool_call_begin|>",
            (
                Maybe("functions."),
                Name((":", "<|tool_call_argument_begin|>"), stay=True),
                Skipped("<|tool_call_argument_begin|>"),
                Space(),
                Arguments(),
                Space(),
                End("<|tool_call_end|>"),
            ),
        ),
    ),
    silent=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
)

HARMONY: Final = Format(
    "harmony",
    silent=("<|constrain|>",),
    channels=Channels(
        begins=("<|start|>", "<|channel|>"),
        addressed="to=",
        message="<|message|>",
        ends=("<|end|>", "<|call|>", "<|return|>"),
        channel="<|channel|>",
        reasoning=frozenset({"analysis"}),
        functions="functions.",
        calling="<|channel|>commentary {} <|constrain|>json",
        saying="<|channel|>final<|message|>",
        speaker="<|start|>assistant",
    ),
)

NONE: Final = Format("none")

FORMATS: Final = {
    known.name: known
    for known in (
        HERMES,
        LLAMA3_JSON,
        PYTHONIC,
        OLMO3,
        QWEN3_CODER,
        SEED_OSS,
        GLM,
        MINIMAX,
        MISTRAL,
        DEEPSEEK_V3,
        DEEPSEEK_V31,
        KIMI_K2,
        HARMONY,
        NONE,
    )
}
"""All of them, by name."""
