"""The commands about a bare model, as the command line takes them: `serve`, `complete` and `bench`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Reader = Callable[[str], int]
Adder = Callable[[argparse.ArgumentParser], None]

_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_DTYPES = ("auto", "bfloat16", "float16", "float32")
_LOGPROBS = ("raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits")
_POLICIES = ("fcfs", "priority", "agents")
_BACKENDS = ("openai", "vllm", "openai-chat")
_LIMITED = ("ttft", "tpot", "e2el")


def size(text: str) -> int:
    """Read a count that may end in k, m, g or t (powers of 1000) or K, M, G or T (powers of 1024)."""
    unit = {**_DECIMAL, **_BINARY}.get(text[-1:], 1)
    digits = text if unit == 1 else text[:-1]
    try:
        number = round(float(digits) * unit) if unit > 1 else int(digits)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no size, such as 4096, 4k or 2G") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def mebibytes(text: str) -> int:
    """Read a number of bytes, as whole MiB."""
    number = size(text) >> 20
    if not number:
        raise argparse.ArgumentTypeError(f"{text} bytes are less than 1 MiB")
    return number


def temperature(text: str) -> float:
    """Read a temperature."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= number <= 2:
        raise argparse.ArgumentTypeError(f"{text} is no temperature: 0 to 2")
    return number


def module(text: str) -> tuple[str, str]:
    """Read the name of an adapter, and where it is."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=FOLDER")
    return name, path


class _Modules(argparse.Action):
    """Collects pairs."""

    def __call__(
        self, parser: argparse.ArgumentParser, options: argparse.Namespace, values: object, flag: str | None = None
    ) -> None:
        """Add them to those that were given before."""
        known: dict[str, str] = dict(getattr(options, self.dest) or {})
        assert isinstance(values, list)
        for name, path in values:
            if name in known:
                parser.error(f"{flag}: {name!r} is given twice")
            known[name] = path
        setattr(options, self.dest, known)


def _add_adapters(parser: argparse.ArgumentParser) -> None:
    about = "adapters (LoRA), by the names that clients ask for"
    parser.add_argument(
        "--lora-modules", type=module, nargs="+", action=_Modules, metavar="NAME=FOLDER", default=None, help=about
    )


def add_serve(parser: argparse.ArgumentParser, data: Adder, file: Adder, port: Reader, positive: Reader) -> None:
    """Add what `serve` takes: `data` and `file` are the options that every stack has, `port` and `positive` read
    numbers. They come as arguments, as the module that has them imports this one.
    """
    parser.set_defaults(module="infra.cli.serve")
    parser.add_argument("model", metavar="MODEL", nargs="?", help="folder in Hugging Face layout, or hub id")
    data(parser)
    file(parser)
    parser.add_argument("--host", default=None, help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=port, default=None, help="port to listen on (default: 8000)")
    counts = (
        ("--max-model-len", size, "tokens of prompt and answer together (default: the model's own)"),
        ("--block-size", positive, "tokens in a KV block (default: 16)"),
        ("--kv-cache-memory-bytes", mebibytes, "memory for KV blocks, such as 2G (default: 256M)"),
        ("--num-gpu-blocks-override", positive, "KV blocks, whatever memory they take"),
        ("--max-num-seqs", positive, "requests computed at the same time (default: 256)"),
        ("--max-num-batched-tokens", size, "positions computed in one step (default: 2048)"),
        ("--long-prefill-token-threshold", size, "positions of one prompt computed in one step (default: 512)"),
        ("--max-num-queued-reqs", positive, "requests that may wait (default: 1024)"),
        ("--max-num-queued-tokens", size, "tokens of requests that may wait (default: 1048576)"),
        ("--shutdown-timeout", count, "seconds to finish in at a stop (default: 3)"),
    )
    for name, reader, told in counts:
        parser.add_argument(name, type=reader, default=None, metavar="N", help=told)
    texts = (
        ("--device", "NAME", "auto, cpu, cuda:1, xpu, or what a package calls its own (default: auto)"),
        ("--tool-call-parser", "NAME", "how the model writes tool calls (default: auto, by its chat template)"),
        ("--reasoning-parser", "NAME", "how it writes what it thinks (default: auto, by its chat template)"),
        ("--chat-template", "FILE", "a template in place of the model's own"),
        ("--served-model-name", "NAME", "what clients call the model"),
    )
    for name, metavar, told in texts:
        parser.add_argument(name, default=None, metavar=metavar, help=told)
    _add_adapters(parser)
    switches = (
        ("--trust-request-chat-template", "let requests bring chat templates of their own"),
        ("--enforce-eager", "on an accelerator, launch steps one by one instead of as captured graphs"),
        ("--batch-invariant", "on an accelerator, tokens do not depend on the batch (a processor's never do)"),
        ("--enable-auto-tool-choice", "changes nothing: tools are served wherever the model writes calls"),
    )
    for name, told in switches:
        parser.add_argument(name, action="store_true", default=None, help=told)
    chosen = (
        ("--dtype", _DTYPES, "number format (default: auto)"),
        ("--scheduling-policy", _POLICIES, "who begins first (default: fcfs)"),
        ("--logprobs-mode", _LOGPROBS, "what is told of tokens (default: raw_logprobs)"),
        ("--load-format", ("auto", "dummy"), "dummy: weights are made up (default: auto)"),
        ("--quantization", ("none", "int8"), "int8: products in 8 bits (default: none)"),
    )
    for name, choices, told in chosen:
        parser.add_argument(name, choices=choices, default=None, help=told)
    parser.add_argument("--nats", default=None, metavar="URL", help="use these NATS servers (default: run our own)")
    parser.add_argument("--postgres", default=None, metavar="URL", help="use this database (default: run our own)")
    parser.add_argument("--json", action="store_true", help="print where it is served as one JSON object")


def add_complete(
    parser: argparse.ArgumentParser, data: Adder, positive: Reader, seconds: Callable[[str], float]
) -> None:
    """Add what `complete` takes."""
    parser.set_defaults(module="infra.cli.complete")
    data(parser)
    parser.add_argument("text", metavar="TEXT", nargs="?", help="what it goes on with; - or nothing reads a pipe")
    parser.add_argument(
        "--model", default=None, help="load this folder or hub model here and now (default: ask the running stack)"
    )
    parser.add_argument("--max-tokens", type=positive, default=16, metavar="N", help="at most so many (default: 16)")
    parser.add_argument("--temperature", type=temperature, default=None, help="0 takes the likeliest (default: 0)")
    parser.add_argument("--seed", type=int, default=None, help="for draws that can be had again")
    parser.add_argument("--stop", action="append", default=None, metavar="TEXT", help="end before it; may be repeated")
    parser.add_argument("--timeout", type=seconds, default=None, metavar="SECONDS", help="end it after so long")
    parser.add_argument("--json", action="store_true", help="print every frame, or the completion, as a JSON line")


def add_bench_verbs(
    parser: argparse.ArgumentParser, told: Callable[..., argparse.ArgumentParser], port: Reader, positive: Reader
) -> None:
    """Add them: `told` adds a verb, `port` and `positive` read numbers. They come as arguments, as the module that has
    them imports this one.
    """
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    latency = told(verbs, "latency", "time one batch of requests in this process")
    throughput = told(verbs, "throughput", "time many requests in this process")
    serve = told(verbs, "serve", "put load on a server that speaks OpenAI's API")
    _latency(latency, positive)
    _throughput(throughput, positive)
    _server(serve, port)
    _workload(serve, positive)
    _report(serve)
    for name, verb in (("latency", latency), ("throughput", throughput), ("serve", serve)):
        verb.set_defaults(module="infra.cli.bench", verb=name)
        verb.add_argument("--seed", type=count, default=0, metavar="N", help="for all that is drawn (default: 0)")


def count(text: str) -> int:
    """Read a number from 0."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return number


def rate(text: str) -> float:
    """Read a number above 0; `inf` is one."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not more than 0")
    return number


def limit(text: str) -> tuple[str, float]:
    """Read a limit, such as `ttft:200`, milliseconds."""
    name, _, number = text.partition(":")
    if name not in _LIMITED:
        raise argparse.ArgumentTypeError(f"{text!r} is no limit, such as {', '.join(f'{one}:200' for one in _LIMITED)}")
    return name, rate(number)


def share(text: str) -> float:
    """Read a share, from 0 to less than 1."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no share from 0 to less than 1")
    return number


def percentiles(text: str) -> tuple[float, ...]:
    """Read numbers from 0 to 100, parted by commas."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, such as 90,99") from None
    if not all(0 <= number <= 100 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text}: a percentile is from 0 to 100")
    return numbers


def _inline(parser: argparse.ArgumentParser, positive: Reader) -> None:
    parser.add_argument("--model", default=None, help="folder in Hugging Face layout, or hub id (default: embedded)")
    parser.add_argument("--input-len", type=positive, default=32, metavar="N", help="tokens of a prompt (default: 32)")
    parser.add_argument("--output-len", type=positive, default=128, metavar="N", help="of an answer (default: 128)")
    parser.add_argument("--output-json", default=None, metavar="FILE", help="write the figures there")


def _latency(parser: argparse.ArgumentParser, positive: Reader) -> None:
    _inline(parser, positive)
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help="requests in it (default: 8)")
    parser.add_argument("--num-iters-warmup", type=count, default=10, metavar="N", help="not counted (default: 10)")
    parser.add_argument("--num-iters", type=positive, default=30, metavar="N", help="how often (default: 30)")


def _throughput(parser: argparse.ArgumentParser, positive: Reader) -> None:
    _inline(parser, positive)
    parser.add_argument("--num-prompts", type=positive, default=1000, metavar="N", help="requests (default: 1000)")


def _server(parser: argparse.ArgumentParser, port: Reader) -> None:
    parser.add_argument(
        "--backend",
        choices=("openai", "vllm", "openai-chat"),
        default="openai",
        help="completions or chat (default: openai)",
    )
    parser.add_argument("--base-url", default=None, metavar="URL", help="of the server, in place of host and port")
    parser.add_argument("--host", default="127.0.0.1", help="of the server (default: 127.0.0.1)")
    parser.add_argument("--port", type=port, default=8000, help="of the server (default: 8000)")
    parser.add_argument("--endpoint", default=None, metavar="PATH", help="in place of the back end's own")
    parser.add_argument("--model", default=None, metavar="NAME", help="to ask for (default: the first it serves)")
    parser.add_argument("--temperature", type=float, default=None, metavar="T", help="of every request")
    parser.add_argument("--ignore-eos", action="store_true", help="have every answer be as long as it may")


def _workload(parser: argparse.ArgumentParser, positive: Reader) -> None:
    parser.add_argument("--num-prompts", type=positive, default=1000, metavar="N", help="requests (default: 1000)")
    parser.add_argument("--dataset-name", choices=("random", "custom"), default=None, help="custom is of a file")
    parser.add_argument(
        "--dataset-path", default=None, metavar="FILE", help='JSONL of {"prompt": ...} (default: random)'
    )
    parser.add_argument("--custom-output-len", type=positive, default=256, metavar="N", help="of such an answer")
    parser.add_argument("--random-input-len", type=positive, default=1024, metavar="N", help="words (default: 1024)")
    parser.add_argument("--random-output-len", type=positive, default=128, metavar="N", help="tokens (default: 128)")
    parser.add_argument("--random-range-ratio", type=share, default=0.0, metavar="R", help="how far lengths vary")
    parser.add_argument("--random-prefix-len", type=count, default=0, metavar="N", help="words that all begin with")
    parser.add_argument("--request-rate", type=rate, default=float("inf"), metavar="R", help="a second (default: inf)")
    parser.add_argument("--burstiness", type=rate, default=1.0, metavar="B", help="1 is Poisson, less is burstier")
    parser.add_argument("--max-concurrency", type=positive, default=None, metavar="N", help="at once (default: all)")


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--goodput", nargs="+", type=limit, default=(), metavar="NAME:MS", help="limits, as ttft:200")
    parser.add_argument(
        "--metric-percentiles", type=percentiles, default=(99.0,), metavar="P,P", help="beside the median (default: 99)"
    )
    parser.add_argument("--save-result", action="store_true", help="write the figures to a file, as JSON")
    parser.add_argument("--save-detailed", action="store_true", help="and those of every request")
    parser.add_argument("--result-dir", default=None, metavar="DIR", help="where to (default: here)")
    parser.add_argument("--result-filename", default=None, metavar="NAME", help="of that file")
