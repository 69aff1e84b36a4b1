"""A request arrives by three doors, and bad ones are told why."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import msgspec
import nats
import openai
import pytest

from infra.demo import DEMO
from tests.system.conftest import UpProcess, ask, chat

pytestmark = pytest.mark.servers


def client(up: UpProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{up.url}/v1", api_key="none", timeout=60, max_retries=0)


def test_an_agent_answers_the_official_client_through_its_tools(stack: UpProcess) -> None:
    answer = client(stack).chat.completions.with_raw_response.create(
        model="agent/demo", messages=[{"role": "user", "content": "What is 12 times 34?"}]
    )
    completion = answer.parse()
    assert completion.choices[0].finish_reason == "stop"
    assert "408" in (completion.choices[0].message.content or "")
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert re.fullmatch(r"t[0-9a-z]+", answer.headers["X-Ostinato-Thread"])
    assert answer.headers["x-request-id"]


def test_a_stream_says_what_the_whole_answer_says_and_comes_in_pieces(stack: UpProcess) -> None:
    question: Any = {"model": "agent/demo", "messages": [{"role": "user", "content": "What is 300 minus 45?"}]}
    whole = client(stack).chat.completions.create(**question)
    chunks = list(
        client(stack).chat.completions.create(**question, stream=True, stream_options={"include_usage": True})
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert not chunks[-1].choices
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_the_stream_helper_of_the_official_client_accepts_our_stream(stack: UpProcess) -> None:
    with client(stack).chat.completions.stream(
        model="agent/demo", messages=[{"role": "user", "content": "Hello!"}]
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content


def test_a_model_s_tool_calls_reach_the_official_client_whole_and_in_a_stream(stack: UpProcess) -> None:
    tools = [{"type": "function", "function": msgspec.to_builtins(tool.spec)} for tool in DEMO.tools]
    asked: Any = {
        "model": "ostinato-mini",
        "messages": [
            {"role": "system", "content": DEMO.instructions},
            {"role": "user", "content": "What is 12 times 34?"},
        ],
        "tools": tools,
        "temperature": 0,
    }
    ask_ = client(stack).chat.completions
    (choice,) = ask_.create(**asked, tool_choice="required").choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or ()
    pieces: list[str] = []
    with ask_.stream(**asked, parallel_tool_calls=False) as stream:
        for event in stream:
            if event.type == "tool_calls.function.arguments.delta":
                pieces.append(event.arguments_delta)
                assert (event.name, event.arguments) == (call.function.name, "".join(pieces))
        (streamed,) = stream.get_final_completion().choices
    (again,) = streamed.message.tool_calls or ()
    assert json.loads(again.function.arguments) == json.loads(call.function.arguments)
    assert (again.function.arguments, streamed.finish_reason) == ("".join(pieces), "tool_calls")
    assert len([piece for piece in pieces if piece]) > 2
    assert not ask_.create(**asked, tool_choice="none").choices[0].message.tool_calls
    # it would rather say hello; whatever tool it takes, the call is one
    greeted = {**asked, "messages": [{"role": "user", "content": "Hello!"}]}
    (forced,) = ask_.create(**greeted, tool_choice="required", max_tokens=200).choices
    assert forced.message.tool_calls
    assert all(isinstance(json.loads(one.function.arguments), dict) for one in forced.message.tool_calls)
    with pytest.raises(openai.BadRequestError, match="not among the `tools`"):
        ask_.create(**asked, tool_choice={"type": "function", "function": {"name": "unknown"}})


def test_a_thread_remembers_what_was_said_in_it(stack: UpProcess) -> None:
    first = chat(stack, ask("Please remember that my cat is called Biscuit."))
    thread = first.headers["X-Ostinato-Thread"]
    second = chat(stack, ask("What is my cat called?"), thread)
    assert second.headers["X-Ostinato-Thread"] == thread
    assert "Biscuit" in second.json()["choices"][0]["message"]["content"]


def test_any_other_model_name_is_a_bare_generation(stack: UpProcess) -> None:
    answer = chat(stack, ask("Hello!", model="ostinato-mini"))
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"]
    assert "X-Ostinato-Thread" not in answer.headers


def test_a_bare_generation_is_logged(stack: UpProcess) -> None:
    identity = chat(stack, ask("Hello!", model="ostinato-mini")).json()["id"].removeprefix("chatcmpl-")
    shown = stack.cli("replay", "show", identity)
    assert shown.returncode == 0, shown.stderr
    assert "model.returned" in shown.stdout


def test_a_seed_makes_a_warm_answer_repeatable(stack: UpProcess) -> None:
    answers = {
        chat(stack, ask("Tell me something.", model="ostinato-mini", temperature=1.5, seed=11, max_tokens=20)).json()[
            "choices"
        ][0]["message"]["content"]
        for _ in range(3)
    }
    assert len(answers) == 1


def test_the_python_block_of_the_readme_for_nats_works_as_pasted_and_again(
    stack: UpProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    block = next(b for b in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "import asyncio, json" in b)
    monkeypatch.setenv("NATS_URL", stack.nats_url)
    for _ in range(2):
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
        printed = capsys.readouterr().out
        for kind in ("outcome", "tool.returned", "delta", "run.finished"):
            assert kind in printed


def test_ostinato_run_prints_the_answer_and_the_thread(stack: UpProcess) -> None:
    done = stack.cli("run", "demo", "What is 7 plus 8?")
    assert done.returncode == 0, done.stderr
    assert "15" in done.stdout
    assert "[calculator" in done.stdout
    assert re.search(r"--thread t\w+", done.stderr)


def called_with(arguments: str) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
    ]
    return {"model": "ostinato-mini", "messages": messages}


TOOL: Any = {"type": "function", "function": {"name": "calculator"}}


@pytest.mark.parametrize(
    ("body", "status", "param", "word"),
    [
        (b"{not json", 400, None, "JSON"),
        (b'{"messages": []}', 400, "model", "model"),
        (ask("x", temperature="warm"), 400, "temperature", "float"),
        (ask("x", temperature=9), 400, "temperature", "0 to 2"),
        (ask("x", max_tokens=0), 400, "max_tokens", "at least 1"),
        (ask("x", n=3), 400, "n", "leave it out"),
        ({"model": "agent/demo", "messages": []}, 400, "messages", "at least one"),
        (ask("x", model="no-such-model"), 404, "model", "ostinato-mini"),
        (ask("x", model="agent/nobody"), 404, "model", "demo"),
        (ask("x", stop="END"), 400, "stop", "leave it out"),
        (ask("x", top_logprobs=1, logprobs=True), 400, "logprobs", "there are none"),
        (ask("x", max_tokens=1 << 31), 400, "max_tokens", "at most"),
        ({"model": "agent/demo", "messages": [{"role": "system", "content": "x"}]}, 400, "messages", "user's"),
        (ask("x", top_p=0.5), 400, "top_p", "`open_to` has 'sampling'"),
        (ask("x", tools=[TOOL]), 400, "tools", "calculator"),
        (called_with("[" * 50_000), 400, "messages", "messages[1].tool_calls"),
        (called_with('{"x":"\\ud800"}'), 400, "messages", "messages[1].tool_calls"),
        (ask("word " * 5000), 400, "messages", "context"),
        (ask("word " * 5000, model="ostinato-mini"), 400, "messages", "context"),
        (ask("word " * 5000, stream=True), 400, "messages", "context"),
    ],
    ids=lambda value: str(value)[:80],
)
def test_a_bad_request_gets_an_error_that_names_the_field_and_the_mend(
    stack: UpProcess, body: Any, status: int, param: str | None, word: str
) -> None:
    answer = chat(stack, body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert word in error["message"]
    assert error["type"] == "invalid_request_error"


def test_an_unknown_thread_is_refused_and_a_malformed_one_too(stack: UpProcess) -> None:
    unknown = chat(stack, ask("Hello!"), thread="t-nobody-began-this")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "thread_not_found")
    assert unknown.json()["error"]["param"] == "X-Ostinato-Thread"
    assert "X-Ostinato-Thread" not in unknown.headers
    malformed = chat(stack, ask("Hello!"), thread="Not An Id")
    assert malformed.status_code == 400
    assert malformed.json()["error"]["param"] == "X-Ostinato-Thread"


def test_a_message_that_is_too_long_does_not_spoil_its_thread(stack: UpProcess) -> None:
    thread = chat(stack, ask("Hello!")).headers["X-Ostinato-Thread"]
    assert chat(stack, ask("word " * 5000), thread).status_code == 400
    answer = chat(stack, ask("What is 3 plus 4?"), thread)
    assert answer.status_code == 200, answer.text
    assert "7" in answer.json()["choices"][0]["message"]["content"]
    assert stack.cli("replay", "verify", thread).returncode == 0


def test_a_route_that_is_not_there_answers_in_the_same_shape(stack: UpProcess) -> None:
    assert httpx.get(f"{stack.url}/v1/nothing").json()["error"]["code"] == "not_found"


def test_models_and_agents_are_listed(stack: UpProcess) -> None:
    names = {model.id for model in client(stack).models.list()}
    assert {"ostinato-mini", "agent/demo", "agent/counted"} <= names


def test_two_threads_may_use_the_same_command_id(stack: UpProcess) -> None:
    async def run() -> dict[str, str]:
        connection = await nats.connect(stack.nats_url)
        frames = await connection.subscribe("live.default.run.same-id")
        for thread, text in (("same-a", "What is 1 plus 2?"), ("same-b", "What is 30 plus 4?")):
            command = {"id": "same-id", "data": {"agent": "demo", "text": text}}
            await connection.jetstream().publish(f"in.default.agent.{thread}.run", json.dumps(command).encode())
        answers: dict[str, str] = {}
        while len(answers) < 2:
            frame = json.loads((await frames.next_msg(30)).data)
            if frame.get("type") == "run.finished":
                answers[frame["thread"]] = frame["data"]["text"]
        await connection.close()
        return answers

    answers = asyncio.run(run())
    assert "3" in answers["same-a"]
    assert "34" in answers["same-b"]


def test_logs_carry_the_trace_id_of_the_request(stack: UpProcess) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    answer = httpx.post(f"{stack.url}/v1/chat/completions", json=ask("Hello!"), headers=headers, timeout=60)
    assert answer.status_code == 200
    lines = (stack.data / "logs" / "agents-0.log").read_text(encoding="utf-8").splitlines()
    assert trace in {json.loads(line).get("trace_id") for line in lines}


def test_eight_lines_say_where_everything_is(stack: UpProcess) -> None:
    assert len(stack.lines) <= 8
    text = "\n".join(stack.lines)
    for thing in (stack.url, "OPENAI_BASE_URL", stack.nats_url, str(stack.data), "curl", "replay"):
        assert thing in text


def test_how_tokens_are_chosen_reaches_the_model_and_a_token_it_has_not_is_refused_by_its_field(
    stack: UpProcess,
) -> None:
    plain = chat(stack, ask("Hello!", "ostinato-mini")).json()["choices"][0]["message"]["content"]
    word = max(re.findall(r"[A-Za-z]+", plain), key=len)
    chosen = client(stack).chat.completions.create(
        model="ostinato-mini",
        messages=[{"role": "user", "content": "Hello!"}],
        max_tokens=40,
        presence_penalty=0.5,
        frequency_penalty=0.1,
        logit_bias={"5": -100},
        extra_body={"top_k": 5, "min_p": 0.01, "repetition_penalty": 1.1, "min_tokens": 3, "bad_words": [word]},
    )
    assert chosen.usage is not None
    assert chosen.usage.completion_tokens >= 3
    assert word not in (chosen.choices[0].message.content or "")
    refused = chat(stack, ask("Hello!", "ostinato-mini", logit_bias={"999999": 1}))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "logit_bias"
