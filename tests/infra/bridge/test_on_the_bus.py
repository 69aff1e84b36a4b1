"""Routes that ask services on the bus, real ones: tokenizers, and models that give vectors and scores."""

from __future__ import annotations

import base64
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import anyio
import httpx2
import numpy as np
import openai
import pytest

from actors.errors import CallFailed
from actors.models.embedding import Embedded
from actors.serving.pooler import PoolerActor
from actors.serving.texts import Texts, offer_texts
from bus.connection import Connection
from engine.pooling import Pooler, load_pooler
from engine.text.prompts import Customs, Prompter
from infra.bridge.app import Bridge
from infra.providers import serve_embeddings
from infra.settings import EMBEDDED_CHECKPOINT
from schemas.messages import Message
from schemas.runs import Problem
from tests.engine.models.test_pooled import write
from tests.engine.test_pooling import PAIRS, TEXTS, write_tokenizer
from tests.infra.bridge.documented import Checked2
from tests.infra.bridge.doors import Counted

pytestmark = pytest.mark.anyio

ARCHITECTURES = {
    "vectors": ("BertModel", {}),
    "ranks": ("BertForSequenceClassification", {"num_labels": 1}),
    "labels": ("BertForSequenceClassification", {"num_labels": 3}),
}


@pytest.fixture(scope="module")
def poolers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pooler]:
    made = {}
    for name, (architecture, changes) in ARCHITECTURES.items():
        folder = tmp_path_factory.mktemp(name)
        write(folder, architecture, pad_token_id=0, **changes)
        write_tokenizer(folder, "bert")
        made[name] = load_pooler(str(folder), device="cpu", pooling="mean" if name == "vectors" else None)
    return made


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    """The embedded model's."""
    return Prompter.load(EMBEDDED_CHECKPOINT, Customs())


@pytest.fixture(scope="module")
def texts(prompter: Prompter) -> Texts:
    return Texts(prompter, EMBEDDED_CHECKPOINT, 512)


def clients(connection: Connection) -> tuple[httpx2.AsyncClient, openai.AsyncOpenAI, anthropic.AsyncAnthropic]:
    """Give three clients of a bridge."""
    counted = Counted()
    about: dict[str, Any] = {"ids": counted, "clock": counted, "chance": counted, "tenant": "acme"}
    about |= {"models": ("mini",), "agents": ("demo",), "poolers": ("vectors", "ranks", "labels")}
    bridge = Bridge(connection=connection, read_back=None, state=None, **about)  # type: ignore[arg-type]
    http = httpx2.AsyncClient(transport=Checked2(bridge.application()), base_url="http://door")
    options: dict[str, Any] = {"api_key": "k", "http_client": http, "max_retries": 0}
    return (
        http,
        openai.AsyncOpenAI(base_url="http://door/v1", **options),
        anthropic.AsyncAnthropic(base_url="http://door", **options),
    )


@asynccontextmanager
async def served(connection: Connection, name: str, model: Any, most_waiting: int = 8) -> AsyncIterator[None]:
    actor = PoolerActor(connection, name, model, most_waiting)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(actor.run, "1.0.0")
        with anyio.fail_after(5):
            while not actor.offered:
                await connection.flush()
        yield
        tasks.cancel_scope.cancel()


async def tokens_of(connection: Connection, texts: Texts) -> None:
    """Offer the embedded model's tokenizer."""
    await offer_texts(connection, "mini", "1.0.0", texts)
    await connection.flush()


async def test_a_prompt_s_tokens_are_those_that_a_generation_has(
    connection: Connection, texts: Texts, prompter: Prompter
) -> None:
    await tokens_of(connection, texts)
    http, _, _ = clients(connection)
    told = (await http.post("/tokenize", json={"prompt": "Hello there!", "return_token_strs": True})).json()
    seen = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}]}
    assert "sees no images" in (await http.post("/tokenize", json={"messages": [seen]})).text
    assert told["tokens"] == prompter.tokenizer.encode("Hello there!")
    assert (told["count"], told["max_model_len"]) == (len(told["tokens"]), 512)
    assert "".join(told["token_strs"]) == "Hello there!"
    again = (await http.post("/detokenize", json={"model": "mini", "tokens": told["tokens"]})).json()
    assert again == {"prompt": "Hello there!"}
    info = (await http.get("/tokenizer_info")).json()
    assert info["eos_token"]
    assert info["tokenizer_class"]


async def test_the_tokens_of_messages_are_counted_as_they_are_rendered(
    connection: Connection, texts: Texts, prompter: Prompter
) -> None:
    await tokens_of(connection, texts)
    _, _, claude = clients(connection)
    asked: Any = [{"role": "user", "content": "Hello!"}]
    counted = await claude.messages.count_tokens(model="mini", messages=asked, system="Be brief.")
    prompt = prompter.prompt([Message("system", "Be brief."), Message("user", "Hello!")])
    assert counted.input_tokens == len(prompt.tokens)


async def test_a_model_that_has_no_tokenizer_here_is_named(connection: Connection) -> None:
    http, _, claude = clients(connection)
    answer = await http.post("/tokenize", json={"model": "theirs", "prompt": "Hi"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "model")
    for model, error in (("theirs", anthropic.NotFoundError), ("agent/demo", anthropic.BadRequestError)):
        with pytest.raises(error):
            await claude.messages.count_tokens(model=model, messages=[{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": ""}, "prompt"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": True}, "add_special_tokens"),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}], "chat_template": "x"}, "chat_template"),
        ("/detokenize", {"tokens": [1 << 30]}, "tokens"),
    ],
)
async def test_what_has_no_tokens_is_refused(
    connection: Connection, texts: Texts, path: str, fields: dict[str, Any], param: str
) -> None:
    await tokens_of(connection, texts)
    answer = await clients(connection)[0].post(path, json=fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_vectors_are_those_of_the_engine_as_numbers_and_as_bytes(
    connection: Connection, poolers: dict[str, Pooler]
) -> None:
    model = poolers["vectors"]
    expected = np.stack(model.embed(TEXTS))
    async with served(connection, "vectors", model):
        _, sdk, _ = clients(connection)
        packed = await sdk.embeddings.create(model="vectors", input=TEXTS)
        plain = await sdk.embeddings.create(model="vectors", input=TEXTS, encoding_format="float")
        assert [one.index for one in plain.data] == list(range(len(TEXTS)))
        for told in (packed, plain):
            assert np.array_equal(np.asarray([one.embedding for one in told.data], np.float32), expected)
        short = await sdk.embeddings.create(model="vectors", input=TEXTS[0], dimensions=8)
        assert np.allclose(short.data[0].embedding, model.embed(TEXTS[:1], dimensions=8)[0])
        assert packed.usage.prompt_tokens == sum(model.embed_and_count(TEXTS)[1])


async def test_tokens_are_texts_too(connection: Connection, poolers: dict[str, Pooler]) -> None:
    model = poolers["vectors"]
    tokens = [2, 4, 5, 6, 3]  # [CLS] a cat sat [SEP]
    async with served(connection, "vectors", model):
        _, sdk, _ = clients(connection)
        one = await sdk.embeddings.create(model="vectors", input=tokens, encoding_format="float")
        both = await sdk.embeddings.create(model="vectors", input=[tokens, tokens], encoding_format="float")
        text = await sdk.embeddings.create(model="vectors", input="a cat sat", encoding_format="float")
    assert one.data[0].embedding == text.data[0].embedding == both.data[1].embedding
    assert both.usage.prompt_tokens == 2 * len(tokens)


async def test_many_texts_are_several_requests_and_come_back_in_order(
    connection: Connection, poolers: dict[str, Pooler]
) -> None:
    model = poolers["vectors"]
    texts = TEXTS * 20
    async with served(connection, "vectors", model):
        told = await clients(connection)[1].embeddings.create(model="vectors", input=texts)
    assert np.array_equal(np.asarray([one.embedding for one in told.data], np.float32), np.stack(model.embed(texts)))


@pytest.mark.parametrize("name", ["vectors", "ranks"])
async def test_scores_and_ranks_are_those_of_the_engine(
    connection: Connection, poolers: dict[str, Pooler], name: str
) -> None:
    model = poolers[name]
    expected = model.score(PAIRS)
    ranked = model.rerank("what slept", TEXTS, 2)
    async with served(connection, name, model):
        http, _, _ = clients(connection)
        both = {"text_1": [one for one, _ in PAIRS], "text_2": [other for _, other in PAIRS]}
        told = (await http.post("/v1/score", json={"model": name, **both})).json()
        assert [one["score"] for one in told["data"]] == pytest.approx(expected)
        asked = {"model": name, "query": "what slept", "documents": TEXTS, "top_n": 2}
        for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
            results = (await http.post(path, json=asked)).json()["results"]
            assert [one["index"] for one in results] == [one.index for one in ranked]
            assert [one["document"]["text"] for one in results] == [one.document for one in ranked]
            assert [one["relevance_score"] for one in results] == pytest.approx([one.score for one in ranked])
        bare = (await http.post("/rerank", json={**asked, "return_documents": False})).json()["results"]
        assert "document" not in bare[0]


class Held:
    """A model that computes nothing until it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def embed_and_count(self, texts: Any, **_: Any) -> Any:
        assert self.go.wait(10)
        return [np.zeros(2, np.float32) for _ in texts], [1 for _ in texts]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"input": []}, 400, "input"),
        ({"input": [1, "a"]}, 400, "input"),
        ({"input": "a", "dimensions": 1000}, 400, "dimensions"),
        ({"input": "a", "dimensions": 0}, 400, "dimensions"),
        ({"input": "a " * 100}, 400, "texts[0]"),
        ({"input": [1 << 20]}, 400, "texts[0]"),
        ({"input": "a", "truncate_prompt_tokens": 3}, 400, "truncate_prompt_tokens"),
        ({"input": "a", "endianness": "big"}, 400, "endianness"),
        ({"input": "a", "embed_dtype": "float16"}, 400, "embed_dtype"),
        ({"input": "a", "priority": 3}, 400, "priority"),
        ({"input": "a", "model": "mini"}, 404, "model"),
        ({"input": "a", "model": "ranks"}, 503, None),
    ],
)
async def test_what_has_no_vector_is_refused(
    connection: Connection, poolers: dict[str, Pooler], fields: dict[str, Any], status: int, param: str | None
) -> None:
    async with served(connection, "vectors", poolers["vectors"]):
        answer = await clients(connection)[0].post("/v1/embeddings", json={"model": "vectors", **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


class Elsewhere:
    """Gives vectors as `Embeddings` does."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    async def embed(self, name: str, texts: Any, dimensions: int | None = None, tenant: str = "") -> Embedded:
        self.asked.append((name, len(texts), dimensions, tenant))
        if name == "openai/gone":
            raise CallFailed(Problem(kind="key", message="its key is missing: set OPENAI_API_KEY"))
        return Embedded([[1.0, 0.0] for _ in texts], 3 * len(texts))


async def test_models_elsewhere_give_vectors_too(connection: Connection) -> None:
    elsewhere = Elsewhere()
    await serve_embeddings(connection, "1.0.0", elsewhere)  # type: ignore[arg-type]
    await connection.flush()
    http, sdk, _ = clients(connection)
    told = await sdk.embeddings.create(model="openai/e", input=["a"] * 40, dimensions=2)
    assert [one.embedding for one in told.data] == [[1.0, 0.0]] * 40
    assert told.usage.prompt_tokens == 120
    assert sorted(elsewhere.asked) == [("openai/e", 8, 2, "acme"), ("openai/e", 32, 2, "acme")]
    for fields, status, wanted in (
        ({"model": "openai/gone", "input": "a"}, 502, "OPENAI_API_KEY"),
        ({"model": "openai/e", "input": [1, 2]}, 400, "send texts"),
        ({"model": "openai/e", "input": "a", "truncate_prompt_tokens": -1}, 400, "leave it out"),
        ({"model": "nothing", "input": "a"}, 404, "gives no vectors"),
    ):
        answer = await http.post("/v1/embeddings", json=fields)
        assert (answer.status_code, wanted in answer.text) == (status, True), answer.text


async def test_a_text_that_is_too_long_may_be_cut(connection: Connection, poolers: dict[str, Pooler]) -> None:
    async with served(connection, "vectors", poolers["vectors"]):
        _, sdk, _ = clients(connection)
        told = await sdk.embeddings.create(model="vectors", input="a " * 100, extra_body={"truncate_prompt_tokens": -1})
    assert told.usage.prompt_tokens == 32


async def test_only_so_much_waits(connection: Connection) -> None:
    model, statuses = Held(), list[int]()
    async with served(connection, "vectors", model, most_waiting=1):
        http, _, _ = clients(connection)

        async def ask() -> None:
            answer = await http.post("/v1/embeddings", json={"model": "vectors", "input": "a"})
            statuses.append(answer.status_code)
            assert answer.status_code == 200 or answer.headers["retry-after-ms"]

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(6):
                    tasks.start_soon(ask)
                while 503 not in statuses:
                    await connection.flush()
                model.go.set()
    assert {200, 503} == set(statuses)


async def test_bytes_of_a_vector_are_little_endian_floats(connection: Connection, poolers: dict[str, Pooler]) -> None:
    model = poolers["vectors"]
    async with served(connection, "vectors", model):
        asked = {"model": "vectors", "input": "a cat", "encoding_format": "base64"}
        told = (await clients(connection)[0].post("/v1/embeddings", json=asked)).json()
    vector = np.frombuffer(base64.b64decode(told["data"][0]["embedding"]), "<f4")
    assert np.array_equal(vector, model.embed(["a cat"])[0])


async def test_what_runs_here_is_told(connection: Connection) -> None:
    http, sdk, claude = clients(connection)
    assert (await http.get("/version")).json()["version"]
    assert (await http.get("/load")).json() == {"server_load": 0}
    names = [model.id async for model in sdk.models.list()]
    assert names == ["mini", "vectors", "ranks", "labels", "agent/demo"]
    assert (await sdk.models.retrieve("agent/demo")).id == "agent/demo"
    assert [model.display_name async for model in claude.models.list()] == names
    with pytest.raises(openai.NotFoundError):
        await sdk.models.retrieve("theirs")


async def test_labels_are_those_of_the_engine(connection: Connection, poolers: dict[str, Pooler]) -> None:
    model = poolers["labels"]
    expected = model.classify(TEXTS)
    async with served(connection, "labels", model):
        http, _, _ = clients(connection)
        told = (await http.post("/classify", json={"model": "labels", "input": TEXTS})).json()
        for at, one in enumerate(told["data"]):
            assert (one["index"], one["num_classes"]) == (at, 3)
            assert one["probs"] == pytest.approx(list(expected[at].values()))
            assert one["label"] == max(expected[at], key=lambda label, at=at: expected[at][label])  # type: ignore[misc]
        asked = {"model": "labels", "input": TEXTS, "task": "classify"}
        pooled = (await http.post("/pooling", json=asked)).json()
        assert [one["data"] for one in pooled["data"]] == [one["probs"] for one in told["data"]]
        assert pooled["usage"]["prompt_tokens"] == told["usage"]["prompt_tokens"] > 0
        for path, fields in (("/classify", {"use_activation": False}), ("/pooling", {"task": "token_embed"})):
            wrong = await http.post(path, json={"model": "labels", "input": "a", **fields})
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, next(iter(fields)))
        vectors = await http.post("/v1/embeddings", json={"model": "labels", "input": "a"})
        assert (vectors.status_code, vectors.json()["error"]["param"]) == (400, "model")


async def test_pooled_vectors_are_the_embeddings(connection: Connection, poolers: dict[str, Pooler]) -> None:
    async with served(connection, "vectors", poolers["vectors"]):
        http, sdk, _ = clients(connection)
        pooled = (await http.post("/pooling", json={"model": "vectors", "input": TEXTS})).json()["data"]
        plain = await sdk.embeddings.create(model="vectors", input=TEXTS, encoding_format="float")
        assert [one["data"] for one in pooled] == [one.embedding for one in plain.data]
        assert {one["object"] for one in pooled} == {"pooling"}
        labels = await http.post("/classify", json={"model": "vectors", "input": "a"})
        assert (labels.status_code, labels.json()["error"]["param"]) == (400, "model")
