"""Vectors of models elsewhere: each format as it is, of length one, in order, within budgets, and no key told."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from actors.errors import CallFailed, ProviderFailed
from actors.models.budgets import Books, Ledger
from actors.models.embedding import Embeddings, RoutedEmbedder
from actors.models.http import HttpClient
from actors.models.pricing import Pricing
from actors.models.remote import Outside
from actors.testing import FixedClock
from schemas.messages import Usage
from schemas.models import Budget, Spent
from tests.actors.models.calls import REGISTRY, sharing
from tests.actors.models.double import Asked, Played, ProviderDouble, fails

pytestmark = [pytest.mark.anyio, pytest.mark.deadline(20)]

CANARY = "sk-canary-0123456789abcdef"
KEYS = {
    "OPENAI_API_KEY": CANARY,
    "GEMINI_API_KEY": CANARY,
    "AZURE_API_KEY": CANARY,
    "AWS_BEARER_TOKEN_BEDROCK": CANARY,
    "ANTHROPIC_API_KEY": CANARY,
    "GOOGLE_VERTEX_ACCESS_TOKEN": CANARY,
}
Make = Callable[..., Embeddings]


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    made = await asyncio.to_thread(HttpClient, connect_s=5, silence_s=5)
    yield made
    await made.close()


@pytest.fixture
def make(client: HttpClient) -> Make:
    def made(url: str, books: Books | None = None, first_s: float = 5.0) -> Embeddings:
        at = {name: {"url": url} for name in ("openai", "google", "azure", "bedrock", "anthropic", "vertex")}
        return Embeddings(REGISTRY.changed(at), Outside(sharing(client), KEYS, FixedClock(), first_s), books)

    return made


def told(answer: object) -> Played:
    return Played([json.dumps(answer).encode()], headers={"content-type": "application/json"})


def openai_answer(asked: Asked) -> Played:
    """Give (length of the text, 0), the last text first: who reads it goes by the index."""
    data = [{"index": at, "embedding": [len(text), 0]} for at, text in enumerate(asked.body["input"])]
    return told({"data": data[::-1], "usage": {"prompt_tokens": 2 * len(data), "total_tokens": 2 * len(data)}})


GEMINI = {"embeddings": [{"values": [3, 4]}, {"values": [0, 2]}]}
COHERE = {"embeddings": {"float": [[3, 4], [0, 2]]}, "response_type": "embeddings_by_type"}


@pytest.mark.parametrize(
    ("name", "answer", "path", "sent"),
    [
        (
            "openai/text-embedding-3-small",
            {"data": [{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [3, 4]}]},
            "/embeddings",
            {"model": "text-embedding-3-small", "input": ["a", "b"], "encoding_format": "float", "dimensions": 2},
        ),
        (
            "azure/mine",
            {"data": [{"index": 0, "embedding": [3, 4]}, {"index": 1, "embedding": [0, 2]}]},
            "/openai/deployments/mine/embeddings?api-version=2024-10-21",
            {"model": "mine", "input": ["a", "b"], "encoding_format": "float", "dimensions": 2},
        ),
        (
            "google/gemini-embedding-001",
            GEMINI,
            "/models/gemini-embedding-001:batchEmbedContents",
            {
                "requests": [
                    {
                        "model": "models/gemini-embedding-001",
                        "content": {"parts": [{"text": text}]},
                        "outputDimensionality": 2,
                    }
                    for text in ("a", "b")
                ]
            },
        ),
        (
            "vertex/text-embedding-005",
            {
                "predictions": [
                    {"embeddings": {"values": [3, 4], "statistics": {"token_count": 1}}},
                    {"embeddings": {"values": [0, 2], "statistics": {"token_count": 2}}},
                ]
            },
            "/models/text-embedding-005:predict",
            {"instances": [{"content": "a"}, {"content": "b"}], "parameters": {"outputDimensionality": 2}},
        ),
        (
            "bedrock/cohere.embed-v4:0",
            COHERE,
            "/model/cohere.embed-v4%3A0/invoke",
            {"texts": ["a", "b"], "input_type": "search_document", "output_dimension": 2},
        ),
    ],
)
async def test_every_format_is_asked_where_it_is_and_gives_unit_vectors(
    make: Make, name: str, answer: object, path: str, sent: dict[str, Any]
) -> None:
    with ProviderDouble([told(answer)]) as double:
        found = await make(double.url).embed(name, ["a", "b"], 2)
        assert found.vectors == [[0.6, 0.8], [0.0, 1.0]]
        (asked,) = double.asked
        assert (asked.path, asked.body) == (path, sent)
        assert CANARY in str(asked.headers)


async def test_titan_is_asked_a_text_at_a_time(make: Make) -> None:
    answers = [told({"embedding": [0, 5], "inputTextTokenCount": 3}), told({"embedding": [2, 0]})]
    with ProviderDouble(answers) as double:
        found = await make(double.url).embed("bedrock/amazon.titan-embed-text-v2:0", ["a", "b"])
        assert found == ([[0, 1], [1, 0]], 3)
        assert [asked.body for asked in double.asked] == [{"inputText": "a"}, {"inputText": "b"}]


async def test_many_texts_are_several_requests_and_come_back_in_their_order(make: Make) -> None:
    with ProviderDouble(openai_answer) as double:
        embedder = RoutedEmbedder("openai/text-embedding-3-small")
        with pytest.raises(ProviderFailed, match="ostinato up"):
            await embedder.embed(["a"])
        embedder.bind(make(double.url))
        assert await embedder.embed(["x" * size for size in range(130)]) == [[1.0, 0.0]] * 130
        assert [len(asked.body["input"]) for asked in double.asked] == [64, 64, 2]
        assert double.asked[0].body["input"][0] == "."
    assert embedder.name == "openai/text-embedding-3-small-all"


class Told:
    def __init__(self, *budgets: Budget) -> None:
        self.spent: list[Spent] = []
        clock = FixedClock()
        self.books = Books(Ledger(budgets, clock, Pricing(REGISTRY, {}).known_cost), clock, self._tell)

    async def _tell(self, spent: Spent) -> None:
        self.spent.append(spent)


async def test_what_vectors_cost_counts_for_their_tenant_and_no_run(make: Make) -> None:
    kept = Told(Budget("tenant", tokens=5), Budget("run", tokens=3))
    with ProviderDouble(openai_answer) as double:
        asking = make(double.url, kept.books)
        for _ in range(3):
            await asking.embed("openai/e", ["a"], tenant="acme")
        assert [(one.tenant, one.usage) for one in kept.spent if not one.held] == [("acme", Usage(2))] * 3
        with pytest.raises(CallFailed, match="budget of this tenant is used up"):
            await asking.embed("openai/e", ["a"], tenant="acme")
        await asking.embed("openai/e", ["a"], tenant="other")
    assert len(double.asked) == 4


async def test_a_failure_holds_no_budget(make: Make) -> None:
    kept = Told(Budget("tenant", tokens=50))
    with ProviderDouble([fails(500)] * 40) as double:
        asking = make(double.url, kept.books)
        for _ in range(40):
            with pytest.raises(ProviderFailed, match="500"):
                await asking.embed("openai/e", ["hello"], tenant="acme")
    assert kept.books.ledger.statistics()[0]["tokens"] == 0


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (fails(401, f"Incorrect API key provided: {CANARY}"), "key"),
        (fails(429, "slow down", {"retry-after": "3"}), "overloaded"),
        (fails(400, "no such dimension"), "invalid"),
        (told({"data": []}), "engine"),
        (told({"data": [{"index": 0, "embedding": [0, 0]}]}), "engine"),
        (told({"data": [{"index": 0, "embedding": ["x"]}]}), "engine"),
        (told({"data": [{"index": 0, "embedding": []}]}), "engine"),
        (told([1, 2]), "engine"),
        (told({"data": 3}), "engine"),
        (Played([b"{nope"]), "engine"),
        (Played([b'{"data": ['], ends="cut"), "overloaded"),
        (Played([b'{"data": ['], ends="held"), "timeout"),
    ],
)
async def test_what_is_no_answer_is_a_problem_without_a_key(make: Make, answer: Played, kind: str) -> None:
    with ProviderDouble([answer]) as double:
        first_s = 0.3 if answer.ends == "held" else 5.0
        with pytest.raises(CallFailed) as failed:
            await make(double.url, first_s=first_s).embed("openai/e", ["a"])
        double.released.set()
    shown = "".join(traceback.format_exception(failed.value))
    assert CANARY[3:12] not in shown
    assert failed.value.problem.kind == kind


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere/e", "provider/model"),
        ("openai", "provider/model"),
        ("anthropic/claude-x", "gives no vectors"),
        ("bedrock/anthropic.claude", "Titan or Cohere"),
        ("mistral/e", "MISTRAL_API_KEY"),
    ],
)
async def test_what_gives_no_vectors_is_said_to_give_none(make: Make, name: str, told: str) -> None:
    with ProviderDouble([]) as double:
        with pytest.raises(CallFailed, match=told):
            await make(double.url).embed(name, ["a"])
        assert not double.asked
