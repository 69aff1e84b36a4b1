"""Which format and which reasoning a model has, by its template or by name."""

from __future__ import annotations

import pytest

from engine.errors import UnknownParser
from engine.text.dialects import THINKING, dialect
from engine.text.formats import FORMATS

SIGNS = {
    # what the templates of these families have in them, shortened to the lines that tell them apart
    "hermes": ['return a json object within <tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>'],
    "llama3_json": [
        'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.',
        "{{- '<|python_tag|>' + tool_call.name + '.call(' }}",
    ],
    "pythonic": ["[func_name1(params_name1=params_value1), func_name2(params)]", "{{ '<|python_start|>' }}"],
    "olmo3": ["'<function_calls>' }}{%- for tool_call in message['tool_calls'] %}"],
    "qwen3_coder": ["<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1"],
    "glm": ["<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>"],
    "minimax": ['<minimax:tool_call>\n<invoke name="tool-name-1">'],
    "mistral": ["{{- '[TOOL_CALLS]' + tool['function']['name'] + '[ARGS]' }}"],
    "deepseek_v3": ["'<｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + name + '\\n```json'"],  # noqa: RUF001
    "deepseek_v31": ["'<｜tool▁call▁begin｜>'+ tool['function']['name'] + '<｜tool▁sep｜>'"],  # noqa: RUF001
    "kimi_k2": ["<|tool_call_begin|>{{ id }}<|tool_call_argument_begin|>{{ arguments }}<|tool_call_end|>"],
    "seed_oss": ["<seed:tool_call>\n<function=example_function_name>"],
    "harmony": ["<|start|>assistant<|channel|>analysis<|message|>"],
    "none": ["{% for message in messages %}{{ message.content }}{% endfor %}", ""],
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_template_says_which_format_its_model_writes(name: str) -> None:
    for template in SIGNS[name]:
        assert dialect(template).format is FORMATS[name]
        assert dialect("", name).format is FORMATS[name]
        assert dialect(template, "none").format is FORMATS["none"]


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ '<think>\\n' }}", "think"),
        ("content.split('</think>')[-1]", "think"),
        ("[THINK]{{ chunk.thinking }}[/THINK]", "mistral"),
        ("<seed:think>", "seed_oss"),
        ("<|channel|>analysis<|message|>", "harmony"),
        ("{{ message.content }}", "none"),
    ],
)
def test_a_template_says_how_its_model_reasons(template: str, name: str) -> None:
    assert dialect(template).reasoning == name


def test_reasoning_goes_by_name_or_by_two_tags_of_one_s_own() -> None:
    for name, thinking in THINKING.items():
        assert dialect("", reasoning_parser=name).thinking == thinking
    custom = dialect("<think>", reasoning_parser="[[ ]]").thinking
    assert custom is not None
    assert (custom.open, custom.close) == ("[[", "]]")
    assert dialect("<think>", reasoning_parser="none").thinking is None
    assert dialect("", reasoning_parser="harmony").format is FORMATS["harmony"]
    assert not dialect("", "harmony", "none").reasons


def test_names_that_vllm_has_for_them_are_understood() -> None:
    assert dialect("", "openai").format is FORMATS["harmony"]
    assert dialect("", "glm45").format is FORMATS["glm"]
    assert dialect("", reasoning_parser="qwen3").thinking == THINKING["think"]
    assert dialect("", reasoning_parser="openai_gptoss").format is FORMATS["harmony"]


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(UnknownParser, match="tool_parser: 'x' is not known: known are auto, deepseek_v3,"):
        dialect("", "x")
    with pytest.raises(UnknownParser, match="reasoning_parser: 'x' is not known"):
        dialect("", reasoning_parser="x")
