"""`ostinato bench latency`, `throughput` and `serve`: how fast a model answers, here or by a server."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import math
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from actors.runtime.context import SystemClock
from infra.bench.client import ENDPOINTS, Target
from infra.bench.load import put_load
from infra.bench.measures import Sample, summary, table
from infra.bench.workload import Question, arrivals, custom_questions, random_questions
from infra.cli.asking import AGENT_PREFIX, served_at
from infra.cli.printing import say
from infra.cli.progress import Bar
from infra.cli.terminal import style_for
from infra.errors import InfraError
from infra.settings import EMBEDDED_CHECKPOINT
from schemas.times import rfc3339


class NoModel(InfraError):
    """It is not known which model to ask for."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url} does not say which models it serves: give --model, or see that it runs")


def main(options: argparse.Namespace) -> int:
    """Measure; exit code 1 when a request failed."""
    if options.verb == "serve":
        if options.dataset_name == "custom" and options.dataset_path is None:
            sys.stderr.write("ostinato bench serve: --dataset-name custom needs --dataset-path\n")
            return 2
        return _serve(options)
    return _offline(options)


def _offline(options: argparse.Namespace) -> int:
    # torch and the model are for those who measure here
    offline, engine = importlib.import_module("infra.bench.offline"), importlib.import_module("engine.llm")
    llm = engine.LLM(options.model or str(EMBEDDED_CHECKPOINT))
    shape = offline.Shape(options.input_len, options.output_len, options.seed)
    if options.verb == "latency":
        rounds = (options.batch_size, options.num_iters_warmup, options.num_iters)
        with Bar(sys.stderr, "measuring") as bar:
            told = offline.latency(llm, shape, *rounds, on_progress=bar)
        shares = "  ".join(f"p{share} {seconds:.4f}" for share, seconds in told["percentiles"].items())
        text = f"a batch of {options.batch_size} takes {told['avg_latency']:.4f} s on average\n{shares}"
    else:
        told = offline.throughput(llm, shape, options.num_prompts)
        text = (
            f"{told['requests_per_second']:.2f} requests/s, "
            f"{told['prompt_tokens_per_second']:.1f} prompt tokens/s, "
            f"{told['output_tokens_per_second']:.1f} output tokens/s"
        )
    if options.output_json is not None:
        _write(Path(options.output_json), told)
    say(text)
    return 0


def _serve(options: argparse.Namespace) -> int:
    base = (options.base_url or f"http://{options.host}:{options.port}").rstrip("/")
    endpoint = options.endpoint or ENDPOINTS[options.backend]
    model = options.model or _first_model(base)
    more = {"temperature": options.temperature} if options.temperature is not None else {}
    more |= {"ignore_eos": True} if options.ignore_eos else {}
    target = Target(base + endpoint, options.backend, model, more, os.environ.get("OPENAI_API_KEY", ""))
    times = arrivals(options.num_prompts, options.request_rate, options.burstiness, options.seed)
    with Bar(sys.stderr, "measuring") as bar:
        samples, duration = asyncio.run(put_load(target, _questions(options), times, options.max_concurrency, bar))
    told = summary(samples, duration, options.metric_percentiles, dict(options.goodput))
    sys.stdout.write(table(told, options.metric_percentiles))
    if options.save_result:
        clock = SystemClock()
        path = Path(options.result_dir or ".") / (options.result_filename or f"bench-serve-{clock.now() // 1000}.json")
        _write(path, {"date": rfc3339(clock.now()), **_asked(options, model), **told, **_details(options, samples)})
        say(f"written to {path}")
    failed = next((sample.error for sample in samples if sample.error), "")
    if failed:
        sys.stderr.write(style_for(sys.stderr).problem(f"ostinato: {told['failed']} failed, first: {failed}") + "\n")
    return int(bool(failed))


def _questions(options: argparse.Namespace) -> list[Question]:
    if options.dataset_path is not None and options.dataset_name != "random":
        return custom_questions(Path(options.dataset_path), options.num_prompts, options.custom_output_len)
    lengths = (options.random_input_len, options.random_output_len)
    ratio, prefix = options.random_range_ratio, options.random_prefix_len
    return random_questions(options.num_prompts, lengths, ratio, prefix, options.seed)


def _first_model(base: str) -> str:
    models = [name for name in served_at(base) if not name.startswith(AGENT_PREFIX)]
    if not models:
        raise NoModel(base)
    return models[0]


def _asked(options: argparse.Namespace, model: str) -> dict[str, Any]:
    return {
        "backend": options.backend,
        "model_id": model,
        "host": urlsplit(options.base_url).netloc if options.base_url else f"{options.host}:{options.port}",
        "num_prompts": options.num_prompts,
        "request_rate": "inf" if math.isinf(options.request_rate) else options.request_rate,
        "burstiness": options.burstiness,
        "max_concurrency": options.max_concurrency,
        "seed": options.seed,
    }


def _details(options: argparse.Namespace, samples: list[Sample]) -> dict[str, Any]:
    if not options.save_detailed:
        return {}
    return {
        "input_lens": [sample.prompt_tokens for sample in samples],
        "output_lens": [sample.output_tokens for sample in samples],
        "ttfts": [sample.ttft for sample in samples],
        "itls": [sample.gaps for sample in samples],
        "errors": [sample.error for sample in samples],
    }


def _write(path: Path, told: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(told)) + b"\n")
