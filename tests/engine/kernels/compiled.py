"""Compiles every kernel for an accelerator that need not be there, and prints what each takes of a multiprocessor.

    TRITON_INTERPRET=0 python -m tests.engine.kernels.compiled [ARCHITECTURE of NVIDIA or AMD [NUMBER FORMAT]]

What is compiled are the launches of models that are served, with the numbers that Triton specialises kernels by:
whether strides are multiples of sixteen decides what is copied ahead, and so what is held. Tensors have shapes and no
numbers.
A program of its own: whether kernels are interpreted is decided when they are defined.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from benchmarks.gpu_kernels import ODD, cases
from engine.kernels.chances import Chances
from engine.kernels.gpu import experts, lora, pointwise
from engine.kernels.gpu.decode import decode
from engine.kernels.gpu.drawing import draw
from engine.kernels.gpu.few import CLASSES, candidates, candidates_gated
from engine.kernels.gpu.gated import linear_gated
from engine.kernels.gpu.keys import Look
from engine.kernels.gpu.prefill import prefill
from engine.kernels.gpu.quantized import linear, steady_tiling
from engine.kernels.gpu.routing import route
from engine.kernels.gpu.whole_numbers import linear_in_8_bits
from engine.kernels.packing import Format, Packed, plain, quantize
from engine.kernels.weights import Int8Weight

POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.float8_e4m3fn: "*fp8e4nv",
}
ALIGNED = [["tt.divisibility", 16]]


@dataclass(frozen=True, slots=True)
class Heads:
    """How a model attends."""

    heads: int
    kv_heads: int
    head_dim: int
    looks: tuple[Look, ...]


PLAIN = (Look(0.1),)
MODELS = {
    "Llama-3-8B": Heads(32, 8, 128, PLAIN),
    "Qwen3-30B-A3B": Heads(32, 4, 128, (Look(0.1), Look(0.1, 4096))),
    "Gemma-2-9B": Heads(16, 8, 256, (Look(0.1, 4096, 50.0), Look(0.1, None, 50.0))),
    "SmolLM2-135M": Heads(9, 3, 64, PLAIN),
    "Falcon-7B": Heads(71, 1, 64, PLAIN),
}


def empty(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def attention(own: Heads, dtype: torch.dtype) -> None:
    """Launch what a step of a model has beside products."""
    query = empty(64, own.heads, own.head_dim, dtype=dtype)
    cache = empty(99, 16, 2, own.kv_heads, own.head_dim, dtype=dtype)
    tables, out = empty(64, 512), torch.empty_like(query)
    for look in own.looks:
        for longest in (200, 2048):
            decode(query, cache, tables, empty(64), longest, look, out)
        prefill(query, cache, tables, empty(40, 4), look, out)
    both = own.heads + own.kv_heads
    qkv = empty(64, both + own.kv_heads, own.head_dim, dtype=dtype)
    angles = (empty(64, 1, own.head_dim, dtype=dtype), empty(64, 1, own.head_dim, dtype=dtype))
    pointwise.turn_and_store(qkv[:, :both], qkv[:, both:], angles, cache, empty(64))
    pointwise.rms_norm(qkv[:, :both], empty(both, own.head_dim, dtype=dtype), 1e-5)


def rows(hidden: int, inner: int, vocabulary: int, dtype: torch.dtype, count: int = 64) -> None:
    """Launch what is done row by row."""
    x, weight = empty(count, hidden, dtype=dtype), empty(hidden, dtype=dtype)
    pointwise.rms_norm(x, weight, 1e-5)
    pointwise.add_rms_norm(x, x, weight, 1e-5)
    pointwise.gate(empty(count, 2 * inner, dtype=dtype), "silu")
    pointwise.gate(empty(count, 2 * inner, dtype=dtype), "gelu_tanh")
    some, whole = empty(count, dtype=torch.float32), empty(count)
    draw(empty(count, vocabulary, dtype=torch.float32), Chances(some, whole, some, some, whole, whole))


def tried(out: int, width: int, dtype: torch.dtype) -> None:
    """Launch what products of few rows are tried with; where one does not fit another is taken."""
    weight = plain(empty(out, width, dtype=dtype))
    for many in CLASSES:
        x = empty(many, width, dtype=dtype)
        for tiling in candidates(many, weight):
            linear(x, weight, None, tiling, dtype)
        for tiling in candidates_gated(many, weight):
            linear_gated(x, weight, "silu", tiling)


def products(out: int, width: int, dtype: torch.dtype, *, fp8: bool) -> None:
    """Launch products with weights in every format, of one row to many."""
    weight = plain(empty(out, width, dtype=dtype))
    linear(empty(4096, width, dtype=dtype), weight, empty(out, dtype=dtype), steady_tiling(weight))
    for packed in packings(out, width, dtype, fp8=fp8):
        for many in (1, 64, 4096):
            linear(empty(many, width, dtype=dtype), packed)
    narrow = Int8Weight(empty(out, width, dtype=torch.int8), empty(out, dtype=torch.float32), dtype)
    for many in (1, 64, 4096):
        linear_in_8_bits(empty(many, width, dtype=dtype), narrow, empty(out, dtype=dtype), dtype)


def packings(*shape_and_type: Any, fp8: bool) -> Iterator[Packed]:
    """Give a weight in every format."""
    *shape, dtype = shape_and_type
    kinds: list[tuple[Format, int | None]] = [("plain", None), ("int8", None), ("int4", 128)]
    for form, group in (*kinds, *([("fp8", None), ("fp8", 128)] if fp8 else [])):
        yield quantize(empty(*shape, dtype=dtype), form, group)
    asymmetric = quantize(empty(*shape, dtype=dtype), "int4", 32)
    assert asymmetric.scales is not None
    yield Packed("int4", asymmetric.data, asymmetric.scales, asymmetric.scales, asymmetric.width, 32)


def mixtures(hidden: int, inner: int, dtype: torch.dtype, *, fp8: bool) -> None:
    """Launch a mixture."""
    both = (packings(128, *shape, dtype, fp8=fp8) for shape in ((2 * inner, hidden), (hidden, inner)))
    for first, second in zip(*both, strict=True):
        for tokens in (1, 64, 4096):
            x, shares = empty(tokens, hidden, dtype=dtype), empty(tokens, 8, dtype=torch.float32)
            experts.mix(x, first, second, shares, empty(tokens, 8), "silu")
            route(empty(tokens, 128, dtype=dtype), 8, renormalised=True)
            if first.format != "plain":
                break


def adapters(hidden: int, dtype: torch.dtype, count: int = 64) -> None:
    """Launch what adapters add."""
    aligned, x = lora.by_adapter(empty(count), 4), empty(count, hidden, dtype=dtype)
    low = lora.shrink(x, empty(4, 16, hidden, dtype=dtype), aligned)
    ones, out = empty(4, dtype=torch.float32), empty(count, hidden, dtype=torch.float32)
    lora.expand(low, empty(4, hidden, 16, dtype=dtype), ones, aligned, out)


def launches(dtype: torch.dtype, *, fp8: bool) -> None:
    """Launch everything."""
    for own in MODELS.values():
        attention(own, dtype)
    rows(4096, 14336, 128256, dtype)
    products(4096, 14336, dtype, fp8=fp8)
    mixtures(2048, 768, dtype, fp8=fp8)
    adapters(2048, dtype)


def others(dtype: torch.dtype) -> None:
    """Launch the same for other steps: as many rows, requests and blocks as nothing was compiled for."""
    own = MODELS["Llama-3-8B"]
    cache = empty(99, 16, 2, own.kv_heads, own.head_dim, dtype=dtype)
    for requests, widest, longest in ((1, 64, 900), (17, 333, 5000)):
        query = empty(requests, own.heads, own.head_dim, dtype=dtype)
        tables, out = empty(requests, widest), torch.empty_like(query)
        decode(query, cache, tables, empty(requests), longest, PLAIN[0], out)
        prefill(query, cache, tables, empty(requests, 4), PLAIN[0], out)
    packed = [plain(empty(128, *shape, dtype=dtype)) for shape in ((2 * 768, 2048), (2048, 768))]
    for count in (1, 3, 16):
        rows(4096, 14336, 128256, dtype, count)
        linear(empty(count, 14336, dtype=dtype), quantize(empty(4096, 14336, dtype=dtype), "int8"))
        narrow = Int8Weight(empty(4096, 14336, dtype=torch.int8), empty(4096, dtype=torch.float32), dtype)
        linear_in_8_bits(empty(count, 14336, dtype=dtype), narrow, empty(4096, dtype=dtype), dtype)
        shares = empty(count, 8, dtype=torch.float32)
        experts.mix(empty(count, 2048, dtype=dtype), *packed, shares, empty(count, 8), "silu")
        route(empty(count, 128, dtype=dtype), 8, renormalised=True)
        adapters(2048, dtype, count)


def target(architecture: str) -> GPUTarget:
    """`90` is Hopper, `gfx942` an MI300."""
    return (
        GPUTarget("hip", architecture, 64)
        if architecture.startswith("gfx")
        else GPUTarget("cuda", int(architecture), 32)
    )


def source(kernel: Any, given: dict[str, Any]) -> ASTSource:
    """Say what a launch would have compiled."""
    signature, constants, aligned = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        value = given[parameter.name]
        special = not parameter.do_not_specialize
        if parameter.is_constexpr or (special and type(value) is int and value == 1):
            signature[parameter.name] = "constexpr"
            constants[place,] = value
        elif isinstance(value, Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            if value.storage_offset() * value.itemsize % 16 == 0:
                aligned[place,] = ALIGNED
        elif isinstance(value, int):
            signature[parameter.name] = "i32" if value < 1 << 31 else "i64"
            if special and value % 16 == 0:
                aligned[place,] = ALIGNED
        else:
            signature[parameter.name] = "fp32"
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)


def used(compiled: Any) -> dict[str, int]:
    """Say what a compiled kernel takes: bytes of shared memory, registers, and bytes of each thread that spill."""
    found = {"shared": compiled.metadata.shared, "registers": 0, "spilled": 0}
    if "cubin" in compiled.asm:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            argv = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
            told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        registers, stack = (int(number) for number in re.findall(r"REG:(\d+) STACK:(\d+)", told)[0])
        found |= {"registers": registers, "spilled": stack}
    return found


def main() -> None:
    """Print a line for each variant of a kernel: its name, what it takes, and what it was compiled for.

    `late` is one that was compiled for a step that differs in nothing but numbers.
    """
    known, late = set[str](), False
    where = target(sys.argv[1] if len(sys.argv) > 1 else "90")
    dtype = getattr(torch, sys.argv[2] if len(sys.argv) > 2 else "bfloat16")

    def compile_instead(self: Any, *args: Any, grid: Any, warmup: bool = False, **named: Any) -> None:
        names = [parameter.name for parameter in self.params]
        given = dict(zip(names, args, strict=False)) | {name: named.pop(name) for name in names if name in named}
        asked = source(self, given)
        told = [
            self.fn.__module__,
            self.fn.__name__,
            asked.signature,
            [*asked.constants.items()],
            [*asked.attrs],
            named,
        ]
        variant = json.dumps(told, default=str)
        if variant in known:
            return
        known.add(variant)
        fixed = {parameter.name: given[parameter.name] for parameter in self.params if parameter.is_constexpr}
        made = triton.compile(asked, target=where, options=named)
        types = [kind for kind in asked.signature.values() if kind != "constexpr"]
        own = {"kernel": self.fn.__name__, **used(made), "for": fixed | named, "types": types, "late": late}
        print(json.dumps(own, default=str), flush=True)  # noqa: T201

    JITFunction.run = compile_instead
    with torch.inference_mode():
        fp8 = where.backend == "hip" or int(where.arch) >= 89  # before Ada there was no instruction to convert E4M3
        launches(dtype, fp8=fp8)
        tried(4096, 14336, dtype)
        late = True
        others(dtype)
        late = False
        if not fp8:  # the largest heads, of the largest numbers, in the least memory; a compiler takes long for them
            attention(MODELS["Gemma-2-9B"], torch.float32)
    if fp8:  # what `benchmarks/gpu.py` begins with
        for other in (torch.bfloat16, torch.float32):
            for case in cases(ODD, "cpu", other):
                case.compute()


if __name__ == "__main__":
    main()
