"""What the engine said is generated again from the record, to the last bit; what was changed in the record is found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from infra.settings import EMBEDDED_NAME
from schemas import codec
from schemas.steps import StepResult, WorkerBegan
from tests.system.conftest import UpProcess, ask, chat, records, start
from tests.system.test_record import rows, wait_until_recorded

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def tight(system_folder: Path) -> Iterator[UpProcess]:
    """A stack whose engine has room for little more than one long context, so that requests give way to one another."""
    folder = system_folder / "tight"
    folder.mkdir()
    file = folder / "ostinato.toml"
    file.write_text("[engine]\ncontext_length = 512\nkv_blocks = 40\n", encoding="utf-8")
    up = start(folder / "data", "--config", str(file))
    yield up
    assert up.stop() == 0


def complete(up: UpProcess, **fields: Any) -> str:
    """Have the bare model go on with a text; return the generation's id."""
    body = {"model": EMBEDDED_NAME, "prompt": "What is 12 times 34?", **fields}
    answer = httpx.post(f"{up.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"]).removeprefix("cmpl-")


def replayed(up: UpProcess, *argv: str) -> tuple[int, Sequence[dict[str, Any]], dict[str, Any]]:
    """Generate again; return the exit code, what is told of each request, and the summary."""
    wait_until_recorded(up)
    done = up.cli("replay", "tokens", *argv, "--json", timeout=120)
    assert done.stderr == ""
    *told, last = map(json.loads, done.stdout.splitlines())
    return done.returncode, told, last["summary"]


def test_a_conversation_with_tools_comes_out_again(tight: UpProcess) -> None:
    first = chat(tight, ask("What is 12 times 34?"))
    thread = first.headers["X-Ostinato-Thread"]
    chat(tight, ask("And 7 times 8?", temperature=0.7, seed=11), thread)
    code, told, summary = replayed(tight, thread)
    assert (code, summary["differing"], summary["unknown"]) == (0, 0, 0)
    assert len(told) == summary["requests"] >= 4, "each question is answered after a tool"
    assert {one["state"] for one in told} == {"same"}
    assert not any("elsewhere" in one for one in told)
    shown = records(tight.cli("replay", "show", thread, "--json"))
    spent = [line["data"]["usage"]["completion_tokens"] for line in shown if line["kind"] == "model.returned"]
    assert [one["tokens"] for one in told] == spent
    run = next(line["entity"] for line in shown if line["kind"] == "run.started")
    assert [one["request"] for one in replayed(tight, run)[1]] == [told[0]["request"], told[1]["request"]]


def test_of_an_answer_that_processors_changed_is_compared_what_the_model_made(stack: UpProcess) -> None:
    answer = chat(stack, {**ask("What is there?"), "model": "agent/masked"})
    assert "letter" in answer.text
    code, (told,), _ = replayed(stack, answer.headers["X-Ostinato-Thread"])
    assert (code, told["state"]) == (0, "same")
    assert told["tokens"] > 0
    assert "processors changed the answer" in told["problem"]


@pytest.mark.parametrize(
    ("answers", "fields"),
    [
        (1, {"temperature": 1.0, "seed": 5, "max_tokens": 40, "logprobs": 3, "ignore_eos": True}),
        (3, {"temperature": 1.0, "seed": 5, "max_tokens": 12, "n": 3, "top_p": 0.9}),
        (1, {"temperature": 0.8, "max_tokens": 30, "stop": ["e"], "ignore_eos": True}),
        (1, {"temperature": 1.0, "seed": 2, "max_tokens": 40, "structured_outputs": {"regex": "[a-z]{3,9}: [0-9]+!"}}),
    ],
    ids=["judged", "several answers", "stopped by a text", "of a form"],
)
def test_a_drawn_generation_comes_out_again(tight: UpProcess, answers: int, fields: dict[str, Any]) -> None:
    code, told, summary = replayed(tight, complete(tight, **fields))
    assert (code, len(told), [one["state"] for one in told]) == (0, answers, ["same"] * answers), told
    assert summary["tokens"] > 0
    if "logprobs" in fields:
        assert told[0]["judged"] == told[0]["tokens"]


def test_every_step_of_a_search_comes_out_again(tight: UpProcess) -> None:
    generation = complete(tight, use_beam_search=True, n=2, max_tokens=5)
    code, told, _ = replayed(tight, generation)
    assert (code, {one["state"] for one in told}) == (0, {"same"})
    assert len(told) >= 5
    assert all(one["judged"] == 1 for one in told), "one token each, and what the model made of its place"


def test_generations_that_gave_way_to_others_come_out_again(tight: UpProcess) -> None:
    with ThreadPoolExecutor(6) as pool:
        asked = [
            pool.submit(complete, tight, temperature=1.0, seed=seed, max_tokens=220, ignore_eos=True)
            for seed in range(6)
        ]
        generations = [one.result() for one in asked]
    code, told, summary = replayed(tight, *generations)
    assert (code, summary["requests"], summary["tokens"]) == (0, 6, 6 * 220)
    assert any(one.get("preemptions", 0) for one in told), told


def test_a_token_that_was_changed_in_the_record_is_named_with_its_step(tight: UpProcess) -> None:
    generation = complete(tight, temperature=1.0, seed=1, max_tokens=9, ignore_eos=True)
    code, (whole,), _ = replayed(tight, generation)
    assert code == 0
    step = records(tight.cli("replay", "engine", generation, "--json"))[4]
    where = ("step.%.result", step["scheduler"], step["step"])
    (found,) = rows(tight, "SELECT seq, payload FROM record WHERE subject LIKE $1 AND producer = $2 AND n = $3", *where)
    result: StepResult = codec.decode(found["payload"], StepResult)
    ((request, token),) = result.tokens
    changed = msgspec.structs.replace(result, tokens=((request, token + 1),))
    rows(tight, "UPDATE record SET payload = $1 WHERE seq = $2", codec.encode(changed), found["seq"])
    code, (told,), summary = replayed(tight, generation)
    assert (code, summary["differing"]) == (1, 1)
    assert (told["request"], told["state"], told["what"]) == (whole["request"], "differs", "token")
    assert (told["scheduler"], told["step"], told["index"]) == (step["scheduler"], step["step"], 4)
    assert (told["expected"], told["actual"]) == (str(token + 1), str(token))
    assert told["forged"], "the log says which tokens it was"
    said = tight.cli("replay", "tokens", generation, timeout=120)
    assert f"DIFFERS at step {step['step']} of {step['scheduler']}, position {told['position']}" in said.stdout


def test_what_comes_out_otherwise_with_other_kernels_proves_nothing(tight: UpProcess) -> None:
    generation = complete(tight, temperature=1.0, seed=1, max_tokens=20, ignore_eos=True, logprobs=1)
    with said_otherwise(tight, profile="k0", parts={"ops": "others"}, dtype="bfloat16"):
        code, (note, told), _ = replayed(tight, generation)
        assert (code, told["state"], "forged" in told) == (2, "differs", False)
        assert note["note"] == told["elsewhere"]
        assert note["note"].startswith("the kernel profile was k0, here it is k")
        assert "ops 'others', here" in note["note"]
        assert "which proves nothing: the kernel" in tight.cli("replay", "tokens", generation, timeout=120).stdout
        assert replayed(tight, generation, "--strict")[0] == 1


def test_other_kernels_and_weights_are_said_before_anything_is_compared(tight: UpProcess) -> None:
    generation = complete(tight, temperature=1.0, seed=3, max_tokens=5)
    with said_otherwise(tight, checkpoint="00" * 16):
        code, (note, told), _ = replayed(tight, generation)
        assert (code, told["state"]) == (0, "same"), "what comes out the same needs no excuse"
        assert note["note"].startswith("the model's files are others (digest 00000000, here ")
        said = tight.cli("replay", "tokens", generation, timeout=120).stdout.splitlines()
        assert said[0] == f"not as recorded: {note['note']}"


def test_what_a_worker_computes_with_is_shown_with_its_steps(tight: UpProcess) -> None:
    generation = complete(tight, max_tokens=3)
    wait_until_recorded(tight)
    steps = records(tight.cli("replay", "engine", generation, "--json"))
    (profile,) = {step["profile"] for step in steps}
    (worker,) = {step["worker"] for step in steps}
    said = tight.cli("replay", "engine", generation).stdout
    assert f"worker {worker}: kernel profile {profile} (" in said
    assert said.count("kernel profile") == 1


def test_what_cannot_be_generated_again_is_exit_code_2(tight: UpProcess) -> None:
    nobody = tight.cli("replay", "tokens", "nobody")
    assert (nobody.returncode, "nothing recorded of 'nobody'" in nobody.stderr) == (2, True)
    neither = tight.cli("replay", "tokens")
    assert (neither.returncode, neither.stderr) == (
        2,
        "ostinato replay tokens: name threads, runs or generations, or use --last or --all\n",
    )
    generation = complete(tight, max_tokens=3)
    code, (told,), _ = replayed(tight, generation, "--model", str(tight.data / "nowhere"))
    assert (code, told["state"]) == (2, "unknown")
    assert "nowhere" in told["problem"]
    named = f"%{generation.encode().hex()}%"
    rows(tight, "DELETE FROM record WHERE subject LIKE 'step.%.plan' AND payload::text LIKE $1", named)
    code, (told,), _ = replayed(tight, generation)
    assert (code, told["state"], told["problem"]) == (2, "unknown", "the step in which it began is not recorded")


@contextmanager
def said_otherwise(up: UpProcess, dtype: str = "auto", **changes: Any) -> Iterator[None]:
    """Have the record say that the worker computed with something else, for a while."""
    wait_until_recorded(up)
    found = rows(up, "SELECT seq, payload FROM record WHERE subject LIKE 'step.%.worker'")

    def write(seq: int, data: bytes) -> None:
        rows(up, "UPDATE record SET payload = $1 WHERE seq = $2", data, seq)

    for row in found:
        began: WorkerBegan = codec.decode(row["payload"], WorkerBegan)
        loaded = {**began.loaded, "dtype": dtype}
        write(row["seq"], codec.encode(msgspec.structs.replace(began, loaded=loaded, **changes)))
    try:
        yield
    finally:
        for row in found:
            write(row["seq"], row["payload"])
