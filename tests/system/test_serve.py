"""`ostinato serve`: one model, no agents, raw prompts; and `ostinato complete` on it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from engine.llm import LLM
from infra.settings import EMBEDDED_CHECKPOINT
from tests.system.conftest import OSTINATO, UpProcess, ask, chat, records, start

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def served(system_folder: Path) -> Iterator[UpProcess]:
    """The embedded model, served under a name of its own."""
    up = start(system_folder / "served", str(EMBEDDED_CHECKPOINT), "--served-model-name", "mini", verb="serve")
    yield up
    assert up.stop() == 0


def complete(up: UpProcess, **fields: Any) -> httpx.Response:
    return httpx.post(f"{up.url}/v1/completions", json={"model": "mini", **fields}, timeout=60)


def test_there_are_no_agents(served: UpProcess) -> None:
    models = httpx.get(f"{served.url}/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["mini"]
    answer = chat(served, ask("Hello!"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "there are none" in answer.json()["error"]["message"]


def test_who_chats_and_names_nobody_talks_to_what_is_served(served: UpProcess) -> None:
    command = [*OSTINATO, "chat", "--json", "--data", str(served.data)]
    said = subprocess.run(command, input="Hello!\n", capture_output=True, text=True, timeout=60, check=False)
    assert {"mini"} == {frame["data"]["model"] for frame in records(said) if frame.get("type") == "model.called"}


def test_text_and_its_tokens_are_the_same_prompt_streamed_or_not(served: UpProcess) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    several = client.completions.create(model="mini", prompt=["Hello", "What is"], max_tokens=8)
    assert [choice.index for choice in several.choices] == [0, 1]
    assert several.usage is not None
    assert several.usage.completion_tokens <= 16
    stream = client.completions.create(model="mini", prompt=["Hello", "What is"], max_tokens=8, stream=True)
    texts = ["", ""]
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in several.choices]


def test_a_raw_completion_verifies_like_everything_else(served: UpProcess) -> None:
    answer = complete(served, prompt="Hello", max_tokens=4)
    generation = answer.json()["id"].removeprefix("cmpl-")
    assert records(served.cli("replay", "show", generation, "--json"))[-1]["kind"] == "model.returned"
    assert served.cli("replay", "verify", generation).returncode == 0


def test_what_is_known_of_a_prompt_is_a_salts_own_can_be_ignored_and_forgotten(served: UpProcess) -> None:
    prompt = "One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen. " * 3

    def cached(**fields: Any) -> int:
        answer = complete(served, prompt=prompt, max_tokens=4, **fields).json()
        return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])

    first = cached()
    known = cached()
    assert known > 0
    assert (first, cached(cache_salt="another"), cached(skip_reading_prefix_cache=True)) == (0, 0, 0)
    assert cached(cache_salt="another") == known
    forgotten = httpx.post(f"{served.url}/reset_prefix_cache", timeout=20)
    assert (forgotten.status_code, forgotten.json()["blocks"] > 0) == (200, True)
    assert cached() == 0


def test_a_processor_that_is_not_there_is_told_to_who_asked_for_it(served: UpProcess) -> None:
    answer = complete(served, prompt="Hello", vllm_xargs={"nobody": 1})
    assert answer.status_code == 400
    assert "there is no logits processor 'nobody': installed are none" in answer.json()["error"]["message"]


def test_who_wants_very_much_told_takes_nobody_down(served: UpProcess) -> None:
    """Four times as many logarithms as a message holds, in one step; then more than an event holds."""
    much: dict[str, Any] = {"prompt": list(range(10, 198)), "logprob_token_ids": list(range(1024))}
    answer = complete(served, **much, n=4, max_tokens=1, prompt_logprobs=20)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["choices"][0]["prompt_logprobs"]) == 188
    more = complete(served, **much, n=16, max_tokens=30, logprobs=20)
    assert (more.status_code, more.json()["error"]["param"]) == (400, "n")
    assert complete(served, prompt="Hello", max_tokens=2).status_code == 200


def test_what_nests_too_deep_is_refused(served: UpProcess) -> None:
    deep: Any = []
    for _ in range(600):
        deep = [deep]
    answer = chat(served, ask("Hello!", model="mini", chat_template_kwargs={"x": deep}))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "chat_template_kwargs")


def test_a_stream_tells_each_token_with_its_text_as_the_whole_answer_does(served: UpProcess) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    wanted: dict[str, Any] = {"model": "mini", "max_tokens": 24, "seed": 5, "temperature": 0.7}
    asked = {**wanted, "messages": [{"role": "user", "content": "Tell me about the moon."}]}
    more: dict[str, Any] = {"return_token_ids": True, "stream_interval": 3}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3, extra_body=more).choices[0]
    chunks = list(client.chat.completions.create(**asked, logprobs=True, top_logprobs=3, extra_body=more, stream=True))
    told = [chunk.choices[0].logprobs for chunk in chunks]
    assert whole.logprobs is not None
    assert [one for some in told if some for one in some.content or ()] == whole.logprobs.content
    ids = [token for chunk in chunks for token in chunk.choices[0].model_extra.get("token_ids", ())]
    assert ids == whole.model_extra["token_ids"]
    assert 3 < sum(map(bool, told)) < len(ids)
    raw = client.completions.create(**wanted, prompt="The moon", logprobs=2).choices[0].logprobs
    parts = [
        chunk.choices[0].logprobs
        for chunk in client.completions.create(**wanted, prompt="The moon", logprobs=2, stream=True)
    ]
    assert raw is not None
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [one for part in parts for one in getattr(part, name)] == getattr(raw, name)
    assert sum(bool(part and part.tokens) for part in parts) > 3


def test_a_prompt_of_one_token_is_given_back_too(served: UpProcess) -> None:
    (choice,) = complete(served, prompt=[40], echo=True, logprobs=0, max_tokens=2).json()["choices"]
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert choice["text"].startswith(choice["logprobs"]["tokens"][0])
    assert complete(served, prompt="Hello", echo=True, max_tokens=0).json()["usage"]["completion_tokens"] == 0


def test_tokens_that_are_given_are_answered_with_what_the_model_makes_of_them(served: UpProcess) -> None:
    asked = {"prompt": [40, 50, 60], "logprobs": 0, "return_token_ids": True}
    given = [70, 3, 80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 91, 92, 93, 94, 95, 96, 97]
    answer = complete(served, **asked, trace_decode_token_ids=given, detokenize=False).json()
    (choice,) = answer["choices"]
    assert (choice["token_ids"], choice["finish_reason"], choice["text"]) == (given, "length", "")
    assert served.cli("replay", "verify", answer["id"].removeprefix("cmpl-")).returncode == 0
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    more: dict[str, Any] = {"trace_decode_token_ids": given, "detokenize": False, "return_token_ids": True}
    chunks = client.completions.create(model="mini", prompt=[40, 50, 60], stream=True, extra_body=more)
    pieces = [found for chunk in chunks if (found := getattr(chunk.choices[0], "token_ids", None))]
    assert [token for piece in pieces for token in piece] == given
    assert len(pieces) > 3
    # as part of a prompt they get the same numbers
    whole = {"prompt": [40, 50, 60, *given], "max_tokens": 1, "prompt_logprobs": 0, "prompt_logprob_start": 2}
    (judged,) = complete(served, **whole).json()["choices"]
    assert judged["prompt_logprobs"][:3] == [None] * 3
    numbers = [one[str(token)]["logprob"] for one, token in zip(judged["prompt_logprobs"][3:], given, strict=True)]
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(numbers, abs=1e-5)
    # a teacher tells what it makes of a student's candidates
    candidates = [[token, 5, 9] for token in given]
    (scored,) = complete(served, **{**whole, "prompt_logprobs": None}, prompt_logprob_token_ids=candidates).json()[
        "choices"
    ]
    assert [[*map(int, one)] for one in scored["prompt_logprobs"][3:]] == [[*dict.fromkeys(one)] for one in candidates]
    assert [
        one[str(token)]["logprob"] for one, token in zip(scored["prompt_logprobs"][3:], given, strict=True)
    ] == numbers
    for fields, param in (
        ({"prompt_logprob_token_ids": candidates}, "prompt_logprob_token_ids"),
        ({"n": 2}, "n"),
        ({"use_beam_search": True, "logprobs": None}, "trace_decode_token_ids"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"bad_words": ["no"]}, "bad_words"),
        ({"trace_decode_token_ids": [1 << 30]}, "trace_decode_token_ids"),
    ):
        refused = complete(served, **{**asked, "trace_decode_token_ids": given, **fields})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_a_prompt_is_scored_as_lm_eval_does_it(served: UpProcess) -> None:
    """Its local-completions asks for the prompt with its logprobs and a token more."""
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    asked: dict[str, Any] = {"model": "mini", "prompt": "What is 2+2?", "echo": True, "logprobs": 1, "temperature": 0}
    scored = client.completions.create(max_tokens=1, **asked).choices[0]
    assert scored.text.startswith("What is 2+2?")
    assert scored.logprobs is not None
    numbers = scored.logprobs.token_logprobs or []
    assert numbers[0] is None
    assert all(number is not None and number <= 0 for number in numbers[1:])
    assert len(numbers) == len(scored.logprobs.tokens or []) == len(scored.logprobs.text_offset or [])
    alone = client.completions.create(max_tokens=0, **asked).choices[0]
    assert alone.text == "What is 2+2?"
    assert alone.logprobs is not None
    assert alone.logprobs.token_logprobs == numbers[:-1]


def test_the_likeliest_answers_are_those_that_are_found_offline(served: UpProcess) -> None:
    found = complete(served, prompt="Hello", max_tokens=6, n=3, use_beam_search=True).json()
    (wanted,) = LLM(str(EMBEDDED_CHECKPOINT), device="cpu").beam_search(["Hello"], 3, 6)
    assert [choice["text"] for choice in found["choices"]] == [one.text for one in wanted]
    assert [choice["finish_reason"] for choice in found["choices"]] == [one.finish for one in wanted]
    generation = found["id"].removeprefix("cmpl-")
    assert served.cli("replay", "verify", generation).returncode == 0
    some: dict[str, Any] = {"max_tokens": 6, "n": 3, "allowed_token_ids": [40, 50, 60, 70], "return_token_ids": True}
    few = complete(served, prompt="Hello", use_beam_search=True, **some).json()["choices"]
    assert len({tuple(choice["token_ids"]) for choice in few}) == 3
    assert {token for choice in few for token in choice["token_ids"]} <= {*some["allowed_token_ids"]}
    form: dict[str, Any] = {"max_tokens": 20, "n": 2, "structured_outputs": {"regex": "[a-c]{2,3}"}}
    formed = complete(served, prompt="Hello", use_beam_search=True, **form).json()["choices"]
    assert len({choice["text"] for choice in formed}) == 2
    assert all(re.fullmatch("[a-c]{2,3}", choice["text"]) for choice in formed)
    wide = complete(served, prompt="Hello", n=17, use_beam_search=True)
    assert (wide.status_code, wide.json()["error"]["param"]) == (400, "n")
    drawn = complete(served, prompt="Hello", n=3, use_beam_search=True, temperature=0.7)
    assert (drawn.status_code, drawn.json()["error"]["param"]) == (400, "temperature")


def test_complete_asks_the_running_stack_or_loads_a_checkpoint(served: UpProcess) -> None:
    by_stack = served.cli("complete", "Hello", "--max-tokens", "6")
    assert by_stack.returncode == 0, by_stack.stderr
    here = served.cli("complete", "Hello", "--max-tokens", "6", "--model", str(EMBEDDED_CHECKPOINT))
    assert here.returncode == 0, here.stderr
    assert by_stack.stdout == here.stdout


def test_a_deadline_over_http_is_kept(served: UpProcess) -> None:
    answer = complete(served, prompt="Hello", max_tokens=2000, ignore_eos=True, timeout_s=0.2)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


@pytest.mark.parametrize("backend", ["openai", "openai-chat"])
def test_a_load_is_put_on_it_and_its_figures_are_saved(served: UpProcess, tmp_path: Path, backend: str) -> None:
    sizes = ("--num-prompts", "6", "--random-input-len", "8", "--random-output-len", "5", "--max-concurrency", "3")
    argv = [*OSTINATO, "bench", "serve", "--base-url", served.url, "--backend", backend, *sizes, "--ignore-eos"]
    more = ["--request-rate", "50", "--goodput", "ttft:60000", "--save-result", "--save-detailed"]
    where = ["--result-dir", str(tmp_path), "--result-filename", "out.json"]
    done = subprocess.run([*argv, *more, *where], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert (told["completed"], told["failed"], told["total_output_tokens"]) == (6, 0, 30)
    assert told["request_goodput"] == told["request_throughput"] > 0
    assert told["output_lens"] == [5] * 6
    keys = [f"{spread}_{name}_ms" for spread in ("mean", "median", "p99") for name in ("ttft", "tpot", "itl", "e2el")]
    assert all(told[key] >= 0 for key in keys)


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def last_of(up: UpProcess, generation: str) -> dict[str, Any]:
    """Wait until a generation is over by the record, and give its last line."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        told = records(up.cli("replay", "show", generation, "--json"))
        if told[-1]["kind"] in {"model.returned", "model.failed"}:
            return told[-1]
    raise AssertionError(f"{generation} goes on")


LONG = {"model": "mini", "prompt": "Hello", "max_tokens": 2000, "ignore_eos": True}


def test_a_client_that_hangs_up_ends_its_generation(served: UpProcess) -> None:
    with httpx.stream("POST", f"{served.url}/v1/completions", json={**LONG, "stream": True}, timeout=60) as response:
        generation = next(events(response))["id"].removeprefix("cmpl-")
    assert "its client went away" in str(last_of(served, generation))
    assert served.cli("replay", "verify", generation).returncode == 0


def test_an_agent_s_run_goes_on_when_its_client_hangs_up(stack: UpProcess) -> None:
    body = ask("What is 12 times 34?", stream=True)
    with httpx.stream("POST", f"{stack.url}/v1/chat/completions", json=body, timeout=60) as response:
        thread = response.headers["X-Ostinato-Thread"]
        next(events(response))
    assert chat(stack, ask("What is 1 plus 1?"), thread).status_code == 200  # it waits for the run before it
    kinds = [line["kind"] for line in records(stack.cli("replay", "show", thread, "--json"))]
    assert kinds.count("run.finished") == 2


def test_a_generation_is_ended_by_its_id(served: UpProcess) -> None:
    with httpx.stream("POST", f"{served.url}/v1/completions", json={**LONG, "stream": True}, timeout=60) as response:
        heard = events(response)
        identity = next(heard)["id"]
        httpx.post(f"{served.url}/inference/v1/abort_requests", json={"request_ids": [identity]})
        *_, last = heard
    assert last["error"]["code"] == "aborted"


def stopped(up: UpProcess, tokens: int) -> tuple[httpx.Response, list[dict[str, Any]]]:
    """Ask for an answer, have the server stop on the way, and ask for another; give both answers."""
    body = {**LONG, "max_tokens": tokens, "stream": True}
    with httpx.stream("POST", f"{up.url}/v1/completions", json=body, timeout=60) as response:
        heard = events(response)
        first = next(heard)
        up.process.send_signal(signal.SIGTERM)
        refused = complete(up, prompt="Hello")
        while refused.status_code == 200:  # the signal is on its way
            refused = complete(up, prompt="Hello")
        rest = [first, *heard]
    assert up.stop() == 0
    return refused, rest


def test_a_server_that_is_told_to_stop_finishes_what_it_began(system_folder: Path, tmp_path: Path) -> None:
    flags = ("--served-model-name", "mini", "--shutdown-timeout", "30")
    up = start(system_folder / tmp_path.name, str(EMBEDDED_CHECKPOINT), *flags, verb="serve")
    refused, heard = stopped(up, 1000)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert refused.headers["Retry-After"] == "1"
    assert heard[-1]["choices"][0]["finish_reason"] == "length"


def test_a_server_that_is_told_to_stop_ends_what_does_not_finish_in_time(system_folder: Path, tmp_path: Path) -> None:
    flags = ("--served-model-name", "mini", "--shutdown-timeout", "0")
    up = start(system_folder / tmp_path.name, str(EMBEDDED_CHECKPOINT), *flags, verb="serve")
    body = {**LONG, "stream": True}
    with httpx.stream("POST", f"{up.url}/v1/completions", json=body, timeout=60) as response:
        heard = events(response)
        next(heard)
        up.process.send_signal(signal.SIGTERM)
        *_, last = heard
    assert up.stop() == 0
    assert last["error"]["code"] == "aborted"
    assert "the server stops" in last["error"]["message"]
