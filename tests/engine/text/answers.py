"""Answers as models of every format write them, and what they hold."""
# ruff: noqa: E501, RUF001

from __future__ import annotations

import json
from dataclasses import dataclass

from engine.text.formats import (
    DEEPSEEK_V3,
    DEEPSEEK_V31,
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
from engine.text.parsers import OutputParser, Thinking, Wanted
from engine.text.parts import CallArguments, CallBegun, CallEnded, Content, Part, Reasoning, joined

SCHEMAS = {
    "add": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "number"}}},
    "say": {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "loud": {"type": "boolean"},
            "to": {"type": "array"},
            "how": {"anyOf": [{"$ref": "#/$defs/how"}, {"type": "null"}]},
        },
        "$defs": {"how": {"type": "object"}},
    },
}
THINK = Thinking("think", "<think>", "</think>")


@dataclass(frozen=True)
class Answer:
    """What a model wrote, and what it comes to."""

    format: Format
    text: str
    said: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    thought: str = ""
    thinking: Thinking | None = None
    begun: bool = False
    stop: tuple[str, ...] = ()

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.format, self.thinking, self.begun, schemas=SCHEMAS)


ADD = ("add", '{"a": 1}')
EVIL = '{"text": "he said: \\"}]</tool_call>\\" \\\\ {[ é🎼 [TOOL_CALLS] <|call|>", "to": [{"x": [1, {}]}]}'
SAY = ("say", EVIL)
_H_ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
_H_SAY = f'<tool_call>\n{{"name": "say", "arguments": {EVIL}}}\n</tool_call>'
_HERMES = (
    Answer(HERMES, "Hello, naïve 日本 🎼 world.", "Hello, naïve 日本 🎼 world."),
    Answer(HERMES, f"Let me see.\n{_H_ADD}\n{_H_SAY}\nDone.", "Let me see.\nDone.", (ADD, SAY)),
    Answer(HERMES, '<tool_call>{"name": "add", "arguments": {"a": 1}}', "", (ADD,)),
    # cut off where it may still be no call, and where it certainly is one
    Answer(HERMES, _H_ADD[:-22], _H_ADD[:-22]),
    Answer(HERMES, _H_ADD[:-20], "", (("add", '{"'),)),
    Answer(HERMES, _H_ADD[: _H_ADD.index("}}") + 1], "", (ADD,)),
    Answer(HERMES, f"{_H_ADD[: _H_ADD.index('}}') + 1]}</tool_call>!", "!", (ADD,)),
    # what goes on as no JSON does is text from there on
    Answer(HERMES, _H_ADD.replace("1}}", "1,}} "), "}} \n</tool_call>", (("add", '{"a": 1,'),)),
    Answer(HERMES, f"{_H_ADD.replace(': 1', ': tru')} {_H_SAY}", "tru}}\n</tool_call>", (("add", '{"a":'), SAY)),
    Answer(HERMES, _H_ADD.replace("1", r'"é\ud800"'), '\\ud800"}}\n</tool_call>', (("add", '{"a": "é'),)),
    Answer(HERMES, f"a <tool_call> b {_H_ADD} </tool_call>", "a <tool_call> b </tool_call>", (ADD,)),
    Answer(
        HERMES,
        '<tool_call>{"name": "add", "arguments": [1]}</tool_call>!',
        '<tool_call>{"name": "add", "arguments": [1]}</tool_call>!',
    ),
    Answer(HERMES, f"a STO {_H_SAY} STOP {_H_ADD}", "a STO", (SAY,), stop=("STOP",)),
    Answer(
        HERMES,
        f"<think>\nI <tool_call> STOP\n</think>\n\nHi\n{_H_ADD}",
        "Hi",
        (ADD,),
        "I <tool_call> STOP",
        THINK,
        stop=("STOP",),
    ),
    Answer(HERMES, "so it is.\n</think>\n\nYes, <think> it is.", "Yes, <think> it is.", (), "so it is.", THINK, True),
    Answer(HERMES, "<think>\nwell </thin", "", (), "well </thin", THINK, True),
    Answer(HERMES, f"<think>a</think>{_H_ADD}<think>b</think>c", "c", (ADD,), "a\n\nb", THINK),
)
_LLAMA = (
    Answer(LLAMA3_JSON, '{"name": "add", "parameters": {"a": 1}}', "", (ADD,)),
    Answer(
        LLAMA3_JSON,
        f'<|python_tag|>{{"name": "add", "parameters": {{"a": 1}}}}; {{"name": "say", "parameters": {EVIL}}}',
        "",
        (ADD, SAY),
    ),
    Answer(
        LLAMA3_JSON,
        f'{{"type": "function", "name": "say", "parameters": {EVIL}}}\n{{"name": "add", "parameters": {{"a": 1}}}} ok;',
        "ok;",
        (SAY, ADD),
    ),
    Answer(LLAMA3_JSON, '{"answer": {"name": "add"}}', '{"answer": {"name": "add"}}'),
    Answer(LLAMA3_JSON, '{"name": "Ada", "parameters": {}}; no', '{"name": "Ada", "parameters": {}}; no'),
    Answer(
        LLAMA3_JSON, 'It is {"name": "add", "parameters": {"a": 1}}', 'It is {"name": "add", "parameters": {"a": 1}}'
    ),
    Answer(LLAMA3_JSON, ' {"name": "add", "parameters": {"a": 1', "", (("add", '{"a": 1'),)),
    Answer(
        LLAMA3_JSON,
        '{"name": "add", "parameters": {"a": 1}}; {"name": "ad',
        ';  {"name": "ad'.replace("  ", " "),
        (ADD,),
    ),
)
_PYTHONIC = (
    Answer(
        PYTHONIC,
        "[add(a=1), say(text=\"x, [y]) \\\"é\\\" 'q'\", to=[{'k': (1, 2.5)}, None], loud=True)]",
        "",
        (ADD, ("say", '{"text": "x, [y]) \\"é\\" \'q\'", "to": [{"k": [1, 2.5]}, null], "loud": true}')),
    ),
    Answer(PYTHONIC, "<|python_start|>[add(a=1)]<|python_end|>", "", (ADD,)),
    Answer(PYTHONIC, "[1] says so, [add(a=1)] too", "[1] says so, [add(a=1)] too"),
    Answer(PYTHONIC, "[sub(a=1)]", "[sub(a=1)]"),
    Answer(PYTHONIC, "[add(a=1), say(text='x", "", (ADD,)),
    Answer(PYTHONIC, "[add(a=1, b='x", "", (("add", '{"a": 1'),)),
    Answer(PYTHONIC, "[add(a=1), sub(b=2)]", ", sub(b=2)]", (ADD,)),
    Answer(PYTHONIC, "[add(1)]", "[add(1)]"),
    Answer(
        OLMO3,
        "Sure.\n<function_calls>\nadd(a=1)\nsay(text='a\nb\\n\\u00e9\\x41', loud=false, how=null)\n</function_calls>",
        "Sure.",
        (ADD, ("say", '{"text": "a\\nb\\né' + 'A", "loud": false, "how": null}')),
    ),
    Answer(
        OLMO3,
        'x <function_calls>\nsub.tract(a=-1, b=.5e1, c="""q"q""", d={}, e="")</function_calls> y',
        "x y",
        (("sub.tract", '{"a": -1, "b": 5.0, "c": "q\\"q", "d": {}, "e": ""}'),),
    ),
    Answer(OLMO3, "<function_calls>\nadd(a=1)", "", (ADD,)),
    Answer(
        OLMO3,
        "<function_calls>\nadd(a=1, b=1e999)\n</function_calls>",
        ", b=1e999)\n</function_calls>",
        (("add", '{"a": 1'),),
    ),
    Answer(
        OLMO3,
        r"<function_calls>say(text='\ud83d\ude00 1\/2 \U0001f3bc')</function_calls>",
        "",
        (("say", '{"text": "😀 1/2 🎼"}'),),
    ),
    Answer(
        OLMO3,
        r"<function_calls>say(text='\ude00\ud83d')</function_calls>",
        r"<function_calls>say(text='\ude00\ud83d')</function_calls>",
    ),
)
_XML = (
    Answer(
        QWEN3_CODER,
        'I look.\n<tool_call>\n<function=say>\n<parameter=text>\nif a < b:\n  print(\'</parameter> <parameter>\')\n\n</parameter>\n<parameter=loud>\ntrue\n</parameter>\n<parameter=to>\n["é", {"a": 1}]\n</parameter>\n<parameter=how>\nNone\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>',
        "I look.",
        (
            (
                "say",
                '{"text": "if a < b:\\n  print(\'</parameter> <parameter>\')\\n", "loud": true, "to": ["é", {"a": 1}], "how": null}',
            ),
            ADD,
        ),
    ),
    Answer(QWEN3_CODER, "<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>", "", (ADD,)),
    Answer(
        QWEN3_CODER,
        "<tool_call><function=add><parameter=b>\n1e999\n</parameter></function></tool_call>",
        "",
        # no JSON number is as large as that: it stays as it was written
        (("add", '{"b": "1e999"}'),),
    ),
    Answer(QWEN3_CODER, "<tool_call>\n<function=now>\n</function>\n</tool_call>", "", (("now", "{}"),)),
    Answer(
        QWEN3_CODER,
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</para",
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</para",
    ),
    Answer(QWEN3_CODER, "a <tool_call> b <function=add> c", "a <tool_call> b <function=add> c"),
    Answer(
        QWEN3_CODER,
        '<tool_call>\n<function=say>\n<parameter=text>\na "b"\n</parameter>\n<parameter=text>\nc\n</parameter>\n<parameter=how>\n{',
        "",
        (("say", '{"text": "a \\"b\\""'),),
    ),
    Answer(
        QWEN3_CODER,
        "<tool_call><function=say><parameter=text>\na\n</parameter>\n</parameter>\nb",
        "",
        (("say", '{"text": "a\\n</parameter>\\n</parameter>\\nb'),),
    ),
    Answer(
        SEED_OSS,
        "<seed:tool_call>\n<function=add>\n<parameter=a>1</parameter>\n</function>\n</seed:tool_call>",
        "",
        (ADD,),
    ),
    Answer(
        GLM,
        'Hm.\n<tool_call>say\n<arg_key>text</arg_key>\n<arg_value>5 </arg_value> <\né</arg_value>\n<arg_key>how</arg_key>\n<arg_value>{"a": "}"}</arg_value>\n</tool_call>\n<tool_call>add<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>',
        "Hm.",
        (("say", '{"text": "5 </arg_value> <\\né", "how": {"a": "}"}}'), ADD),
    ),
    Answer(GLM, "<tool_call>now</tool_call>", "", (("now", "{}"),)),
    Answer(
        GLM, "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1", "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1"
    ),
    Answer(
        MINIMAX,
        '<minimax:tool_call>\n<invoke name="add">\n<parameter name="a">1</parameter>\n</invoke>\n<invoke name="say">\n<parameter name="text">"q"</parameter>\n</invoke>\n</minimax:tool_call>',
        "",
        (ADD, ("say", '{"text": "\\"q\\""}')),
    ),
)
_MISTRAL = (
    Answer(
        MISTRAL,
        f'[TOOL_CALLS] [{{"name": "add", "arguments": {{"a": 1}}, "id": "123456789"}}, {{"name": "say", "arguments": {EVIL}}}]',
        "",
        (ADD, SAY),
    ),
    Answer(
        MISTRAL,
        f'Well[TOOL_CALLS]add[ARGS]{{"a": 1}}[TOOL_CALLS]say[CALL_ID]abcdefghi[ARGS]{EVIL}[TOOL_CALLS]add{{"a": 1}}',
        "Well",
        (ADD, SAY, ADD),
    ),
    Answer(MISTRAL, '[TOOL_CALLS]add[ARGS]{"a": 1', "", (("add", '{"a": 1'),)),
    Answer(MISTRAL, '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}, {"name": "sa', "", (ADD,)),
    Answer(MISTRAL, "[TOOL_CALLS] [1] [TOOL", "[TOOL_CALLS] [1] [TOOL"),
    Answer(
        MISTRAL,
        '[THINK]so[/THINK]ok[TOOL_CALLS]add[ARGS]{"a": 1}',
        "ok",
        (ADD,),
        "so",
        Thinking("mistral", "[THINK]", "[/THINK]"),
    ),
)
_B, _E, _C, _S, _D = (
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
)
_DEEPSEEK = (
    Answer(
        DEEPSEEK_V3,
        f'Ok.{_B}{_C}function{_S}add\n```json\n{{"a": 1}}\n```{_D}\n{_C}function{_S}say\n```json\n{EVIL}\n```{_D}{_E}',
        "Ok.",
        (ADD, SAY),
    ),
    Answer(DEEPSEEK_V3, f'{_B}{_C}function{_S}add\n```json\n{{"a": 1', "", (("add", '{"a": 1'),)),
    Answer(
        DEEPSEEK_V31,
        f'hm</think>Ok.{_B}{_C}add{_S}{{"a": 1}}{_D}{_C}say{_S}{EVIL}{_D}{_E}',
        "Ok.",
        (ADD, SAY),
        "hm",
        THINK,
        True,
    ),
    Answer(DEEPSEEK_V31, f"{_C}add{_S}nothing{_D}", f"{_C}add{_S}nothing{_D}"),
    Answer(
        KIMI_K2,
        f'<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{{"a": 1}}<|tool_call_end|><|tool_call_begin|>functions.say:1<|tool_call_argument_begin|>{EVIL}<|tool_call_end|><|tool_calls_section_end|>',
        "",
        (ADD, SAY),
    ),
)
_A, _M, _N = "<|start|>assistant", "<|message|>", "<|end|>"
_HARMONY = (
    Answer(
        HARMONY,
        f"<|channel|>analysis{_M}2 + 2, to=x {{\n{_N}{_A}<|channel|>final{_M}4. é to=y<|return|>",
        "4. é to=y",
        (),
        "2 + 2, to=x {",
    ),
    Answer(
        HARMONY,
        f'<|channel|>analysis{_M}a{_N}{_A}<|channel|>commentary{_M}**Plan**{_N}{_A}<|channel|>analysis{_M}b{_N}{_A}<|channel|>commentary to=functions.add <|constrain|>json{_M}{{"a": 1}}<|call|>',
        "**Plan**",
        (ADD,),
        "a\n\nb",
    ),
    Answer(HARMONY, f'{_A} to=functions.add<|channel|>commentary json{_M}{{"a": 1}}<|call|>', "", (ADD,)),
    Answer(HARMONY, f' to=functions.add<|channel|>commentary<|constrain|>json{_M} {{"a": 1}} ', "", (ADD,)),
    Answer(
        HARMONY,
        f"<|channel|>commentary to=functions.say<|constrain|>json{_M}{EVIL.replace('<|call|>', '')}<|call|>",
        "",
        (("say", EVIL.replace("<|call|>", "")),),
    ),
    Answer(HARMONY, f'<|channel|>commentary to=functions.add json{_M}{{"a": 1', "", (("add", '{"a": 1'),)),
    Answer(HARMONY, f'<|channel|>commentary to=functions.add json{_M}{{"a": 1}} x<|call|>', "x", (ADD,)),
    Answer(HARMONY, f'<|channel|>commentary to=functions.add json{_M}["a"]<|call|>', '["a"]'),
    Answer(
        HARMONY,
        f"<|channel|>commentary{_M}one{_N}{_A}<|channel|>final{_M}two STOP three",
        "one\n\ntwo ",
        stop=("STOP",),
    ),
    Answer(HARMONY, f"<|channel|>analysis{_M}so<|end|>{_A}<|channel|>fin", "", (), "so"),
    Answer(HARMONY, "Hello to=you", "Hello to=you"),
)
_NONE = (
    Answer(NONE, _H_ADD, _H_ADD),
    Answer(NONE, " <think>a</think> b", "b", (), "a", THINK),
)
ANSWERS = (*_HERMES, *_LLAMA, *_PYTHONIC, *_XML, *_MISTRAL, *_DEEPSEEK, *_HARMONY, *_NONE)


def pieces(parts: list[str], wanted: Wanted, stop: tuple[str, ...] = ()) -> list[Part]:
    """Parse an answer that comes in parts; what comes out, neighbours of one kind joined."""
    parser = OutputParser(stop, wanted)
    found = [piece for part in parts for piece in parser.feed(part)]
    return joined([*found, *parser.finish()])


def is_object(text: str) -> bool:
    """Say whether a text is a JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def contents(found: list[Part]) -> tuple[str, tuple[tuple[str, str], ...], str]:
    """Give what was said, the calls and what was thought; the calls' pieces must be in order, and theirs what they say."""
    names: list[str] = []
    arguments: list[str] = []
    for piece in found:
        match piece:
            case CallBegun(index, name):
                assert index == len(names) == len(arguments)
                names.append(name)
            case CallArguments(index, text):
                assert index == len(arguments) == len(names) - 1
                arguments.append(text)
            case CallEnded(index, whole):
                assert index == len(arguments) - 1
                assert whole == is_object(arguments[-1])
            case _:
                pass
    said = "".join(piece.text for piece in found if isinstance(piece, Content))
    thought = "".join(piece.text for piece in found if isinstance(piece, Reasoning))
    return said, tuple(zip(names, arguments, strict=True)), thought
