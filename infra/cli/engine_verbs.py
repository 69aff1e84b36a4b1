"""The commands about a bare model, as the command line takes them: `serve`, `complete` and `bench`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Reader = Callable[[str], int]
Adder = Callable[[argparse.ArgumentParser], None]

_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_DTYPES = ("auto", "bfloat16", "float16", "float32")
_POLICIES = ("fcfs", "priority")


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
    parser.add_argument("--served-model-name", default=None, metavar="NAME", help="what clients call the model")
    parser.add_argument("--dtype", choices=_DTYPES, default=None, help="number format (default: auto)")
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
    )
    for name, reader, told in counts:
        parser.add_argument(name, type=reader, default=None, metavar="N", help=told)
    parser.add_argument("--scheduling-policy", choices=_POLICIES, default=None, help="who begins first (default: fcfs)")
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
