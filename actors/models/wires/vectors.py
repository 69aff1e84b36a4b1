"""Vectors of texts, as providers are asked for them: OpenAI's embeddings, Gemini's, and two of Bedrock's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from actors.models.registry import Reached
from actors.models.wires.failures import unheeded
from actors.models.wires.wire import Request

_MOST_TEXTS: Final = 64
_JSON: Final = {"content-type": "application/json"}


def most_texts(reached: Reached) -> int:
    """Say of how many texts one request may be: Titan takes one at a time."""
    single = _titan(reached.model) or (_on_vertex(reached) and reached.model.startswith("gemini-embedding"))
    return 1 if single else _MOST_TEXTS


def request_of(reached: Reached, texts: Sequence[str], dimensions: int | None) -> Request:
    """Write a request.

    Raises:
        ProviderFailed: the provider gives no vectors, or not so many at once.
    """
    match reached.provider.wire:
        case "chat" | "responses" | "azure":
            body = {"model": reached.model, "input": list(texts), "encoding_format": "float"}
            return _request(_address(reached), body | ({"dimensions": dimensions} if dimensions else {}))
        case "gemini" if _on_vertex(reached):
            asked: dict[str, Any] = {"instances": [{"content": text} for text in texts]}
            if dimensions:
                asked["parameters"] = {"outputDimensionality": dimensions}
            return _request(f"{reached.url}/models/{quote(reached.model, safe='@')}:predict", asked)
        case "gemini":
            name = f"models/{reached.model}"
            width = {"outputDimensionality": dimensions} if dimensions else {}
            each = [{"model": name, "content": {"parts": [{"text": text}]}, **width} for text in texts]
            address = f"{reached.url}/models/{quote(reached.model, safe='')}:batchEmbedContents"
            return _request(address, {"requests": each})
        case "bedrock":
            address = f"{reached.url}/model/{quote(reached.model, safe='')}/invoke"
            return _request(address, _of_bedrock(reached, texts, dimensions))
        case _:
            raise unheeded(reached.name, "model", "gives no vectors: ask a model that embeds")


def told_of(reached: Reached, body: bytes) -> tuple[list[list[float]], int]:
    """Read an answer: the vectors, in the order of their texts, and how many tokens those were, 0 where nobody says."""
    told: Any = msgspec.json.decode(body)
    match reached.provider.wire:
        case "gemini" if _on_vertex(reached):
            found = [one["embeddings"] for one in told["predictions"]]
            tokens = sum(int((one.get("statistics") or {}).get("token_count") or 0) for one in found)
            return [_numbers(one["values"]) for one in found], tokens
        case "gemini":
            return [_numbers(one["values"]) for one in told["embeddings"]], 0
        case "bedrock" if "embedding" in told:
            return [_numbers(told["embedding"])], int(told.get("inputTextTokenCount") or 0)
        case "bedrock":
            given = told["embeddings"]
            return [_numbers(one) for one in (given["float"] if isinstance(given, dict) else given)], 0
        case _:
            vectors = [_numbers(one["embedding"]) for one in sorted(told["data"], key=lambda one: int(one["index"]))]
            return vectors, int((told.get("usage") or {}).get("prompt_tokens") or 0)


def _numbers(given: Any) -> list[float]:
    return [float(number) for number in given]


def _address(reached: Reached) -> str:
    if reached.provider.wire == "azure":
        version = reached.provider.version
        return f"{reached.url}/openai/deployments/{reached.model}/embeddings?api-version={version}"
    return f"{reached.url}/embeddings"


def _of_bedrock(reached: Reached, texts: Sequence[str], dimensions: int | None) -> dict[str, Any]:
    if _titan(reached.model):
        return {"inputText": texts[0], **({"dimensions": dimensions, "normalize": True} if dimensions else {})}
    if "cohere.embed" in reached.model:
        width = {"output_dimension": dimensions} if dimensions else {}
        return {"texts": list(texts), "input_type": "search_document", **width}
    raise unheeded(reached.name, "model", "gives no vectors that can be asked for here: name a Titan or Cohere one")


def _on_vertex(reached: Reached) -> bool:
    return reached.provider.auth == "google"


def _titan(model: str) -> bool:
    return "amazon.titan-embed" in model


def _request(url: str, body: dict[str, Any]) -> Request:
    return Request(url, msgspec.json.encode(body), _JSON)
