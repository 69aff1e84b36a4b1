"""EleutherAI's lm-eval against a whole stack: what it measures over HTTP is what the engine gives in this process."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from engine.llm import LLM
from engine.text.templates import ChatTemplate
from engine.text.tokenizer import Tokenizer
from infra.settings import EMBEDDED_CHECKPOINT
from schemas.generation import Sampling
from schemas.messages import Message
from tests.system.conftest import UpProcess

pytestmark = pytest.mark.servers

REQUIREMENTS = Path(__file__).parent / "lm_eval" / "requirements.txt"
DOCUMENTS = [
    {"question": "What is 2 + 2?", "choices": [" 4", " five", " 22"], "answer": 0},
    {"question": "Hello", "choices": [" there", " x"], "answer": 0},
]
TASKS = {
    "mini_choice": "output_type: multiple_choice\ndoc_to_target: '{{answer}}'\ndoc_to_choice: '{{choices}}'\n"
    "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n",
    "mini_answer": "output_type: generate_until\ndoc_to_target: '{{choices[answer]}}'\n"
    'generation_kwargs: {until: ["\\n"], max_gen_toks: 8, temperature: 0}\n'
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n",
}
KINDS = {"local-completions": "mini_choice", "local-chat-completions": "mini_answer"}


@pytest.fixture(scope="module")
def python() -> Path:
    """An interpreter that has lm-eval, and all that this one has; made once for each list of packages."""
    name = f"lm-eval-{sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]}"
    made = Path(sys.prefix) / name
    with Path(sys.prefix, "lm-eval.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker of the same tests
        if not made.exists():
            part = made.with_name(f"{name}.part")
            shutil.rmtree(part, ignore_errors=True)
            run([sys.executable, "-m", "venv", "--symlinks", str(part)])
            pip = [str(part / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
            run([*pip, "--no-deps", "-r", str(REQUIREMENTS)])
            part.rename(made)
        (site,) = made.glob("lib/python*/site-packages")
        # each time: this one may be reached by another path than when it was made
        (site / "beside.pth").write_text(f"{Path(sysconfig.get_path('purelib')).resolve()}\n", encoding="utf-8")
    return made / "bin" / "python"


def run(command: list[str], **environment: str) -> str:
    about = {**os.environ, **environment}
    done = subprocess.run(command, env=about, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def evaluated(
    up: UpProcess, python: Path, folder: Path, kind: str, path: str, documents: Sequence[dict[str, Any]] = DOCUMENTS
) -> list[dict[str, Any]]:
    """Run one task, and return what lm-eval noted of each document."""
    task, data = KINDS[kind], folder / "documents.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")
    common = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: '{data}'}}}}\ntest_split: test\n"
    common += "target_delimiter: ''\n"
    about = f"task: {task}\n{common}doc_to_text: '{{{{question}}}}'\n{TASKS[task]}"
    (folder / f"{task}.yaml").write_text(about, encoding="utf-8")
    backend = "remote" if kind == "local-completions" else "None"
    model = f"model=ostinato-mini,base_url={up.url}{path},num_concurrent=4,max_retries=1,tokenizer_backend={backend}"
    places = ["--include_path", str(folder), "--output_path", str(folder / "out")]
    chats = ["--apply_chat_template"] if kind == "local-chat-completions" else []
    run(
        [
            *(str(python), "-m", "lm_eval", "run", "--model", kind, "--model_args", model, "--tasks", task),
            *(*places, "--log_samples", *chats),
        ],
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        HF_HOME=str(folder / "cache"),
        OPENAI_API_KEY="none",
        PYTHONPATH="",
    )
    (samples,) = (folder / "out").rglob("samples_*.jsonl")
    lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    return sorted(lines, key=lambda line: line["doc_id"])


def judged(llm: LLM, tokenizer: Tokenizer, context: str, rest: str) -> tuple[float, bool]:
    """Give the logarithm of the chance of what follows a context, and whether it is what the model would say."""
    # what it asks about are the context's own tokens, and of both together those that are more
    known = tokenizer.encode(context)
    first, tokens = len(known), [*known, *tokenizer.encode(context + rest)[len(known) :]]
    (answer,) = llm.generate([tokens], Sampling(max_tokens=1, prompt_logprobs=1))
    told = answer.prompt_logprobs[first - len(tokens) :]
    assert [one.tokens[0] for one in told] == tokens[first:]
    return sum(one.logprobs[0] for one in told), all(one.rank == 1 for one in told)


def test_the_chances_that_it_measures_are_those_of_the_engine(stack: UpProcess, python: Path, tmp_path: Path) -> None:
    tokenizer, llm = Tokenizer.load(EMBEDDED_CHECKPOINT), LLM(str(EMBEDDED_CHECKPOINT))
    (likeliest,) = llm.generate(["I have no"], Sampling(max_tokens=2))
    documents = [*DOCUMENTS, {"question": "I have no", "choices": [likeliest.text, " x"], "answer": 0}]
    samples = evaluated(stack, python, tmp_path, "local-completions", "/v1/completions", documents)
    assert len(samples) == len(documents)
    found = set[bool]()
    for sample in samples:
        asked = [one for _, one in sorted(sample["arguments"].items())]
        assert len(asked) == len(sample["doc"]["choices"])
        for one, [[chance, greedy]] in zip(asked, sample["resps"], strict=True):
            expected = judged(llm, tokenizer, one["arg_0"], one["arg_1"])
            assert float(chance) == pytest.approx(expected[0], abs=1e-5)
            assert (greedy == "True") == expected[1]
            found.add(expected[1])
    assert found == {True, False}
    assert samples[-1]["acc"] == 1.0


def test_its_remote_tokenizer_writes_chats_as_the_engine_does(stack: UpProcess, python: Path) -> None:
    """Its `local-completions` has no use of its own for that yet: it sends what was said as it is."""
    said = [Message("system", "Be brief."), Message("user", "What is 2 + 2?")]
    history = [{"role": one.role, "content": one.content} for one in said]
    ask = "import json, sys; from lm_eval.utils import RemoteTokenizer as Remote; url, said = sys.argv[1:]; "
    ask += "print(json.dumps(Remote(url).apply_chat_template(json.loads(said), tools=None)))"
    told = json.loads(run([str(python), "-c", ask, stack.url, json.dumps(history)], PYTHONPATH=""))
    assert told == ChatTemplate.load(EMBEDDED_CHECKPOINT).render(said)
    assert told.endswith("assistant\n")


def test_it_talks_with_a_model_as_others_do(stack: UpProcess, python: Path, tmp_path: Path) -> None:
    samples = evaluated(stack, python, tmp_path, "local-chat-completions", "/v1/chat/completions")
    llm = LLM(str(EMBEDDED_CHECKPOINT))
    for sample, document in zip(samples, DOCUMENTS, strict=True):
        asked = Message("user", str(document["question"]))
        answer = llm.chat([asked], Sampling(max_tokens=8), stop=("\n",))
        assert sample["resps"] == [[answer.text]]
