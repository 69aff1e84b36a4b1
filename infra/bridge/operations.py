"""Of routes whose protocols are described elsewhere: what they take and give, and what they are for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from infra.bridge.doors import ANSWERING, Operation
from schemas.about import (
    CachesEmptied,
    Detokenized,
    DocumentTold,
    Health,
    LoadTold,
    Models,
    ModelShown,
    Tokenized,
    TokenizerQuery,
    TokenizerTold,
    VersionTold,
)
from schemas.agent_card import AgentCardShown
from schemas.agui import AguiInput
from schemas.agui_told import AguiTold
from schemas.anthropic import MessagesRequest
from schemas.anthropic_told import AnthropicError, AnthropicMessageTold, MessageEvent, TokensCounted
from schemas.chat_told import ChatChunk, ChatCompletion, TextChunk, TextCompletion
from schemas.completions import CompletionRequest
from schemas.embeddings import ClassifyRequest, EmbeddingRequest, PoolingRequest, RerankRequest, ScoreRequest
from schemas.openai import ChatRequest, ErrorResponse
from schemas.pooling_told import Classified, Embeddings, Pooled, Ranked, ScoresTold
from schemas.responses import ResponsesRequest
from schemas.responses_told import (
    InputItems,
    InputItemsQuery,
    ResponseDeleted,
    ResponseEvent,
    ResponseQuery,
    ResponseTold,
)
from schemas.tokenizing import DetokenizeRequest, TokenizeRequest
from schemas.uimessages import ChatAsked
from schemas.uimessages_told import UiMessageTold, UiTold

Route = tuple[str, str]
"""A method and a path."""

_METRICS: Final = ("text/plain", "application/openmetrics-text")
_DONE: Final = "[DONE]"
_RESPONSE: Final = "/v1/responses/{response_id}"
_UI_MESSAGES: Final = list[UiMessageTold]


def _openai() -> Iterator[tuple[Route, Operation]]:
    yield (
        ("POST", "/v1/chat/completions"),
        Operation(
            *("OpenAI: chat completions", ChatRequest, ChatCompletion),
            streams=True,
            tells=(ChatChunk, ErrorResponse),
            last=_DONE,
            fails=ANSWERING,
        ),
    )
    yield (
        ("POST", "/v1/completions"),
        Operation(
            *("OpenAI: completions", CompletionRequest, TextCompletion),
            streams=True,
            tells=(TextChunk, ErrorResponse),
            last=_DONE,
            fails=ANSWERING,
        ),
    )
    responses = Operation("OpenAI: create a response", ResponsesRequest, ResponseTold, streams=True)
    yield ("POST", "/v1/responses"), responses._replace(tells=(ResponseEvent,), fails=ANSWERING)
    told = Operation("OpenAI: tell how a response stands", gives=ResponseTold, query=ResponseQuery, streams=True)
    yield ("GET", _RESPONSE), told._replace(tells=(ResponseEvent,), fails=(503,))
    gone = Operation("OpenAI: have a response be shown no more", gives=ResponseDeleted, fails=(409, 503))
    yield ("DELETE", _RESPONSE), gone
    yield ("POST", f"{_RESPONSE}/cancel"), Operation("OpenAI: end a response", gives=ResponseTold, fails=(503,))
    items = Operation("OpenAI: list what a response was asked with", gives=InputItems, query=InputItemsQuery)
    yield ("GET", f"{_RESPONSE}/input_items"), items._replace(fails=(503,))
    yield ("GET", "/v1/models"), Operation("List what may be given as `model`", gives=Models)
    one = Operation("Tell of one thing that may be given as `model`", gives=ModelShown)
    yield ("GET", "/v1/models/{model:path}"), one


def _anthropic() -> Iterator[tuple[Route, Operation]]:
    create = Operation("Anthropic: create a message", MessagesRequest, AnthropicMessageTold, streams=True)
    create = create._replace(tells=(MessageEvent,), fails=ANSWERING, error=AnthropicError)
    yield ("POST", "/v1/messages"), create
    count = Operation("Anthropic: count tokens", MessagesRequest, TokensCounted, fails=(404, 503))
    yield ("POST", "/v1/messages/count_tokens"), count._replace(error=AnthropicError)


def _pooling() -> Iterator[tuple[Route, Operation]]:
    score = Operation("vLLM: score pairs of texts", ScoreRequest, ScoresTold)
    rank = Operation("Put documents in order", RerankRequest, Ranked)
    for path, operation in (
        ("/v1/embeddings", Operation("OpenAI: vectors of texts", EmbeddingRequest, Embeddings)),
        ("/classify", Operation("vLLM: the chances of labels", ClassifyRequest, Classified)),
        ("/pooling", Operation("vLLM: what a model makes of texts", PoolingRequest, Pooled)),
        *((path, score) for path in ("/score", "/v1/score")),
        *((path, rank) for path in ("/rerank", "/v1/rerank", "/v2/rerank")),
    ):
        yield ("POST", path), operation._replace(fails=ANSWERING)


def _vllm() -> Iterator[tuple[Route, Operation]]:
    asked = (404, 503)
    yield ("POST", "/tokenize"), Operation("vLLM: a text's tokens", TokenizeRequest, Tokenized, fails=asked)
    yield ("POST", "/detokenize"), Operation("vLLM: tokens' text", DetokenizeRequest, Detokenized, fails=asked)
    tokenizer = Operation("vLLM: say what the tokenizer is", gives=TokenizerTold, query=TokenizerQuery, fails=asked)
    yield ("GET", "/tokenizer_info"), tokenizer
    empty = Operation("vLLM: empty the prefix caches of all models", gives=CachesEmptied, fails=(503,))
    yield ("POST", "/reset_prefix_cache"), empty
    yield ("GET", "/version"), Operation("vLLM: say which version it is", gives=VersionTold)
    yield ("GET", "/load"), Operation("vLLM: say how many requests are under way", gives=LoadTold)


def _of_the_stack() -> Iterator[tuple[Route, Operation]]:
    health = Operation("Say whether all is well: 503 where it is not", gives=Health, also={503: Health})
    yield ("GET", "/health"), health
    metrics = Operation("Metrics, for Prometheus", gives=str, media=_METRICS, fails=(404,))
    yield ("GET", "/metrics"), metrics
    yield ("GET", "/openapi.json"), Operation("Tell of all routes: this document", gives=DocumentTold)


def _agents() -> Iterator[tuple[Route, Operation]]:
    run = Operation("AG-UI: run an agent", AguiInput, streams=True, tells=(AguiTold,), fails=ANSWERING)
    yield ("POST", "/ag-ui/{agent}"), run
    stop = Operation("AG-UI: end a thread's run", status=204, fails=(503,))
    yield ("POST", "/ag-ui/{agent}/threads/{thread_id}/stop"), stop
    for path in ("/api/chat", "/api/agents/{agent}/chat"):
        streamed: Any = {"streams": True, "tells": (UiTold,), "last": _DONE}
        chat = Operation("AI SDK: go on with a conversation", ChatAsked, fails=ANSWERING, **streamed)
        yield ("POST", path), chat
        told = "AI SDK: tell what is under way in a conversation"
        yield ("GET", f"{path}/{{chat_id}}/stream"), Operation(told, also={204: None}, fails=ANSWERING, **streamed)
        ended = Operation("AI SDK: end the run of a conversation", status=204, fails=(503,))
        yield ("POST", f"{path}/{{chat_id}}/stop"), ended
        stored = Operation("AI SDK: list the messages of a conversation", gives=_UI_MESSAGES)
        yield ("GET", f"{path}/{{chat_id}}/messages"), stored._replace(fails=(400, 503))


CARD: Final = Operation("A2A: describe an agent", gives=AgentCardShown, fails=(501,))
"""Of every agent there is one."""
OTHERS: Final[Mapping[Route, Operation]] = dict(
    told for some in (_openai, _anthropic, _pooling, _vllm, _of_the_stack, _agents) for told in some()
)
