"""Chat templates: what they are given, and what they are not allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import CheckpointError, TemplateError
from engine.text.templates import ChatTemplate
from schemas.messages import Message, ToolCall, ToolSpec

USER = Message("user", 'hé <b> "x"')
PLAIN = (
    "{{ bos_token }}{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def rendered(source: str, *messages: Message, tools: tuple[ToolSpec, ...] = ()) -> str:
    return ChatTemplate(source).render(messages or (USER,), tools)


def test_a_conversation_is_one_text_that_ends_where_the_assistant_begins() -> None:
    template = ChatTemplate(PLAIN, {"bos_token": "<s>"})
    messages = [Message("system", "be brief"), Message("user", "hi")]
    assert template.render(messages) == "<s><system>be brief\n<user>hi\n<assistant>"
    assert template.render(messages, prompt=False) == "<s><system>be brief\n<user>hi\n"


def test_tools_are_offered_as_functions_and_not_at_all_when_there_are_none() -> None:
    source = "{% if tools is not none %}{{ tools | tojson }}{% else %}none{% endif %}"
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}}
    tool = ToolSpec("add", "Add it.", parameters)
    function = {"name": "add", "description": "Add it.", "parameters": parameters}
    assert json.loads(rendered(source, tools=(tool,))) == [{"type": "function", "function": function}]
    assert rendered(source) == "none"


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [('{"a":  1}', '{"a": 1}'), ("{}", "{}"), ("not json", '"not json"'), ('"text"', '"text"')],
)
def test_arguments_are_an_object_to_the_template_where_they_can_be(arguments: str, seen: str) -> None:
    source = (
        "{% for message in messages %}{% if message.tool_calls %}{% for call in message.tool_calls %}"
        "{{ call.id }} {{ call.type }} {{ call.function.name }} {{ call.function.arguments | tojson }}"
        "{% endfor %}{% elif message.role == 'tool' %} -> {{ message.tool_call_id }} {{ message.content }}"
        "{% endif %}{% endfor %}"
    )
    call = Message("assistant", tool_calls=(ToolCall("c1", "add", arguments),))
    answer = Message("tool", "2", tool_call_id="c1")
    assert rendered(source, call, answer) == f"c1 function add {seen} -> c1 2"


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ("", '{"b": "hé <b>", "a": [1]}'),
        ("ensure_ascii=true", '{"b": "h\\u00e9 <b>", "a": [1]}'),
        ("separators=(',', ':')", '{"b":"hé <b>","a":[1]}'),
        ("sort_keys=true", '{"a": [1], "b": "hé <b>"}'),
        ("indent=1", '{\n "b": "hé <b>",\n "a": [\n  1\n ]\n}'),
        ("indent=none, separators=(',', ':'), sort_keys=true", '{"a":[1],"b":"hé <b>"}'),
    ],
)
def test_json_is_written_as_the_template_asks(options: str, seen: str) -> None:
    assert rendered(f"{{{{ {{'b': 'hé <b>', 'a': [1]}} | tojson({options}) }}}}") == seen


@pytest.mark.parametrize("arguments", ["[" * 50_000, "[" * 50_000 + "]" * 50_000, '{"x":"\\ud800"}', '{"\\udfff":1}'])
def test_arguments_that_cannot_be_written_name_their_message(arguments: str) -> None:
    asked = Message("assistant", tool_calls=(ToolCall("c1", "f", arguments),))
    with pytest.raises(TemplateError, match=r"messages\[1\]\.tool_calls"):
        rendered(PLAIN, USER, asked)


def test_a_character_may_be_escaped_in_two_halves() -> None:
    asked = Message("assistant", tool_calls=(ToolCall("c1", "f", '{"x":"\\ud83d\\ude00"}'),))
    assert rendered("{{ messages[0].tool_calls[0].function.arguments.x }}", asked) == "\U0001f600"


def test_marks_for_training_are_left_out() -> None:
    source = (
        "{% for message in messages %}\n"
        "  {% generation %}\n{{ message.content }}{% if loop.first %}!{% endif %}{% endgeneration %}\n"
        "  {% if loop.index > 1 %}{% break %}{% endif %}\n{% endfor %}"
    )
    assert rendered(source, Message("user", "a"), Message("user", "b"), Message("user", "c")) == "a!b"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ nobody.knows }}", "nobody"),
        ("{{ messages | tojson(bad=1) }}", "TypeError"),
        ("{{ [1][5].x }}", "no element 5"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{{ range(100000000) }}", "OverflowError"),
        ("{% include 'x' %}", "loader"),
    ],
)
def test_whatever_fails_inside_a_template_is_a_template_error(source: str, problem: str) -> None:
    with pytest.raises(TemplateError, match="does not take this conversation") as failed:
        rendered(source)
    assert problem in str(failed.value)


@pytest.mark.parametrize(
    "source", ["{{ ''.__class__ }}", "{{ raise_exception.__globals__ }}", "{{ '{0.__class__}'.format(messages) }}"]
)
def test_what_leads_out_of_the_sandbox_is_nothing_to_a_template(source: str) -> None:
    assert rendered(source) == ""


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ (messages | map(attribute='__class__') | list)[0].mro() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
    ],
)
def test_a_template_cannot_go_there_nor_change_what_it_is_given(source: str) -> None:
    with pytest.raises(TemplateError, match=r"unsafe|undefined"):
        rendered(source)


@pytest.mark.parametrize("source", ["{% if %}", "{% for %}", "{{", "{% generation %}x", "{{ x | unknown }}"])
def test_what_is_no_template_is_said_with_its_line(source: str) -> None:
    with pytest.raises(TemplateError, match="line 2") as failed:
        ChatTemplate("first\n" + source)
    assert failed.value.line == 2


def write(folder: Path, **config: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def test_a_template_comes_from_its_own_file_or_the_tokenizer_s_configuration(tmp_path: Path) -> None:
    write(
        tmp_path, chat_template="config {{ bos_token }}{{ eos_token }}", bos_token="<s>", eos_token={"content": "</s>"}
    )
    assert ChatTemplate.load(tmp_path).render([USER]) == "config <s></s>"
    (tmp_path / "chat_template.jinja").write_text("file {{ bos_token }}{{ pad_token }}", encoding="utf-8")
    assert ChatTemplate.load(tmp_path).render([USER]) == "file <s>"


@pytest.mark.parametrize("config", [None, {}, {"chat_template": None}, {"chat_template": ""}])
def test_a_checkpoint_without_a_template_is_not_a_chat_model(tmp_path: Path, config: dict[str, Any] | None) -> None:
    if config is not None:
        write(tmp_path, **config)
    with pytest.raises(CheckpointError, match="no chat template") as missing:
        ChatTemplate.load(tmp_path)
    assert missing.value.path == tmp_path


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        ChatTemplate.load(tmp_path)
