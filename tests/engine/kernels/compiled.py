"""Compiles every kernel for an accelerator that need not be there, and prints what each takes of a multiprocessor.

    TRITON_INTERPRET=0 python -m tests.engine.kernels.compiled [ARCHITECTURE of NVIDIA or AMD]

A program of its own: whether kernels are interpreted is decided when they are defined.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from benchmarks.gpu_kernels import ODD, cases

POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.float8_e4m3fn: "*fp8e4nv",
}


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
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[parameter.name] = "constexpr"
            constants[place,] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            aligned[place,] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "i32" if isinstance(value, int) else "fp32"
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)


def main() -> None:
    """Print {kernel: [bytes of shared memory, of each variant]}."""
    found: dict[str, dict[str, int]] = {}
    where = target(sys.argv[1] if len(sys.argv) > 1 else "90")

    def compile_instead(self: Any, *args: Any, grid: Any, warmup: bool = False, **named: Any) -> None:
        names = [parameter.name for parameter in self.params]
        given = dict(zip(names, args, strict=False)) | {name: named.pop(name) for name in names if name in named}
        fixed = {parameter.name: given[parameter.name] for parameter in self.params if parameter.is_constexpr}
        variants = found.setdefault(self.fn.__name__, {})
        variant = json.dumps([self.fn.__module__, fixed], default=str)
        if variant not in variants:
            variants[variant] = triton.compile(source(self, given), target=where, options=named).metadata.shared

    JITFunction.run = compile_instead
    for case in cases(ODD, "cpu", torch.bfloat16):
        case.compute()
    print(json.dumps({name: list(variants.values()) for name, variants in found.items()}))  # noqa: T201


if __name__ == "__main__":
    main()
