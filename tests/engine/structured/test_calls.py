"""A model that has no idea writes the calls that it must, and thinks first where it may."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.llm import LLM
from engine.runner.loading import RunnerConfig
from engine.text.prompts import Customs
from infra.settings import EMBEDDED_CHECKPOINT
from schemas.generation import Sampling
from schemas.messages import Calling, Message, ToolSpec
from schemas.structured import Structured
from tests.engine.structured.conftest import END, TURN

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}\nanswer:"
ASKED = [Message(role="user", content="the quick brown fox")]
ADD = ToolSpec(
    "add",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
)
OTHER = ToolSpec("other", parameters={"type": "object", "properties": {}, "additionalProperties": False})


@pytest.fixture(scope="module")
def speaking(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint with a chat template."""
    made = tmp_path_factory.mktemp("speaking") / "model"
    shutil.copytree(folder, made)
    config = {"eos_token": END, "chat_template": TEMPLATE}
    (made / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return made


def loaded(folder: Path, tools: str = "none", reasoning: str = "none") -> LLM:
    return LLM(str(folder), device="cpu", runner=RunnerConfig(model="", blocks=200), customs=Customs(tools, reasoning))


def drawn(seed: int, most: int = 220, **more: Any) -> Sampling:
    return Sampling(temperature=1.5, seed=seed, max_tokens=most, **more)


@pytest.mark.parametrize("parser", ["hermes", "llama3_json", "pythonic"])
def test_a_call_that_must_come_comes_with_arguments_of_its_schema(speaking: Path, parser: str) -> None:
    llm = loaded(speaking, parser)
    for seed in range(6):
        answer = llm.chat(ASKED, drawn(seed), [ADD, OTHER], calling=Calling("required", "add"))
        if answer.finish != "stop":
            continue  # a number may have any length
        assert answer.tool_calls
        for call in answer.tool_calls:
            arguments = json.loads(call.arguments)
            assert call.name == "add"
            assert set(arguments) == {"a", "b"}
            assert isinstance(arguments["a"], int)
            assert arguments["b"] in {"x", "y"}


def test_a_call_that_is_brought_to_its_end_is_one_and_the_answer_has_run_out_of_tokens(speaking: Path) -> None:
    llm = loaded(speaking, "hermes")
    text = ToolSpec("text", parameters={"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})
    finishes = set()
    for seed, parallel in ((0, True), (1, False), (2, True), (3, False)):
        calling = Calling("required", "text", parallel=parallel)
        answer = llm.chat(ASKED, drawn(seed, most=60), [text], calling=calling)
        assert isinstance(json.loads(answer.tool_calls[0].arguments)["a"], str)
        finishes.add(answer.finish)
        again = llm.chat(ASKED, drawn(seed, most=60), [text], calling=calling)
        assert (again.tokens, again.finish) == (answer.tokens, answer.finish)
    assert "length" in finishes


def test_any_of_the_tools_is_a_call_where_one_is_required(speaking: Path) -> None:
    llm = loaded(speaking, "hermes")
    named = set()
    for seed in range(12):
        answer = llm.chat(ASKED, drawn(seed), [ADD, OTHER], calling=Calling("required"))
        assert answer.text == ""
        named |= {call.name for call in answer.tool_calls}
    assert named == {"add", "other"}


def test_tags_that_a_tokenizer_adds_without_calling_them_special_open_calls_as_well() -> None:
    llm = LLM(str(EMBEDDED_CHECKPOINT), device="cpu", runner=RunnerConfig(model="", blocks=100))
    assert "<tool_call>" in llm._writing.tokenizer.tags.keys() - llm._writing.tokenizer.special.keys()
    tool = ToolSpec("calculator", parameters={"type": "object", "properties": {"expression": {"type": "string"}}})
    asked = [Message(role="user", content="What is 12 times 34?")]
    answer = llm.chat(asked, Sampling(max_tokens=60), [tool], calling=Calling("required", "calculator"))
    (call,) = answer.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("calculator", {"expression": "12 * 34"})


def test_a_form_begins_after_what_is_thought_or_at_once(speaking: Path) -> None:
    """The model may begin with the tag or with the form: whichever it draws, what is said keeps to the form."""
    llm = loaded(speaking, reasoning="qwen3")
    form = Structured(kind="choice", choices=("yes", "no"))
    thought = 0
    for seed in range(40):
        answer = llm.chat(ASKED, drawn(seed, most=100, structured=form))
        assert answer.text in {"yes", "no"}
        thought += bool(answer.reasoning)
    assert 0 < thought < 40


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_thinking_ends_when_it_has_had_its_budget(speaking: Path, budget: int) -> None:
    llm = loaded(speaking, reasoning="deepseek_r1")  # answers begin inside what is thought
    for seed in range(4):
        wanted = drawn(seed, most=60, thinking_budget=budget, ignore_eos=True)
        answer = llm.chat(ASKED, wanted)
        closing = llm._writing.tokenizer.encode("</think>")
        assert [*answer.tokens[budget : budget + len(closing)]] == closing
        assert answer.text
        assert llm.chat(ASKED, wanted).tokens == answer.tokens


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_thinking_before_a_call_that_must_come_ends_when_it_has_had_its_budget(
    speaking: Path, tmp_path: Path, budget: int
) -> None:
    """In channels, where what is thought is a message of its own before the one to the tool."""
    made = tmp_path / "model"
    shutil.copytree(speaking, made)
    # what ends a message in channels does not end an answer
    config = {"eos_token": TURN, "chat_template": TEMPLATE}
    (made / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    llm = loaded(made, "harmony", "harmony")
    encode = llm._writing.tokenizer.encode
    opening, closing = encode("<|channel|>analysis<|message|>"), encode("<|end|>")
    thought = 0
    for seed in range(8):
        calling = Calling("required", "other")
        wanted = drawn(seed, most=300, thinking_budget=budget, min_tokens=len(opening) + budget)
        answer = llm.chat(ASKED, wanted, [OTHER], calling=calling)
        assert [(call.name, json.loads(call.arguments)) for call in answer.tool_calls] == [("other", {})]
        if [*answer.tokens[: len(opening)]] == opening:
            thought += 1
            ended = answer.tokens.index(closing[0])
            assert ended <= len(opening) + budget
    assert thought


def test_a_budget_that_is_not_needed_changes_nothing_and_without_thinking_there_is_none(speaking: Path) -> None:
    thinking, plain = loaded(speaking, reasoning="deepseek_r1"), loaded(speaking)
    for llm, budget in ((thinking, 1000), (plain, 0)):
        free = llm.chat(ASKED, drawn(3, most=40))
        assert llm.chat(ASKED, drawn(3, most=40, thinking_budget=budget)).tokens == free.tokens


@pytest.mark.parametrize("reasoning", ["deepseek_r1", "qwen3"])
@pytest.mark.parametrize("most", [12, 30, 100])
def test_a_form_is_whole_however_long_the_model_would_think(speaking: Path, reasoning: str, most: int) -> None:
    llm = loaded(speaking, reasoning=reasoning)
    form = Structured(kind="choice", choices=("yes", "no"))
    for seed in range(10):
        answer = llm.chat(ASKED, drawn(seed, most=most, structured=form))
        assert answer.text in {"yes", "no"}
        assert answer.finish == ("length" if len(answer.tokens) == most else "stop"), answer
