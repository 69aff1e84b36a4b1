"""The structures that the kernels are handed, as `trunk.h`, `attention.h`, `pointwise.h` and `draw.h` have them."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int64, c_void_p
from typing import Any, ClassVar


class Cache(Structure):
    """`Cache`: how keys and values lie in a block."""

    _fields_: ClassVar[Any] = [(name, c_int64) for name in ("block_size", "kv_heads", "head_dim")]


class Look(Structure):
    """`Look`: how far attention sees; a cap or window of 0 is none."""

    _fields_: ClassVar[Any] = [("scale", c_float), ("cap", c_float), ("window", c_int64)]


class Held(Structure):
    """`Held`: slots and tables of a group."""

    _fields_: ClassVar[Any] = [("slots", c_void_p), ("tables", c_void_p)]


class Batch(Structure):
    """`Batch`: a step's tokens."""

    _fields_: ClassVar[Any] = [
        *((name, c_int64) for name in ("tokens", "requests", "widest")),
        *((name, c_void_p) for name in ("positions", "counts", "lengths", "groups")),
        *((name, c_int64) for name in ("routed", "stretches")),
        *((name, c_void_p) for name in ("rows", "adapters", "ends")),
    ]


class Part(Structure):
    """`NamedPart`: what an adapter has beside a product."""

    _fields_: ClassVar[Any] = [("up", c_void_p), ("from", c_int64), ("first", c_int64)]


class Parts(Structure):
    """`NamedParts`."""

    _fields_: ClassVar[Any] = [("down", c_void_p), ("parts", c_void_p), ("count", c_int64)]


class Layer(Structure):
    """`NamedLayer`."""

    _fields_: ClassVar[Any] = [
        *((name, c_void_p) for name in ("qkv", "out", "gate_up", "down")),
        *((name, c_void_p) for name in ("before", "behind_attention", "between", "behind", "head_norm")),
        *((name, c_int64) for name in ("wide_norm", "window", "rope", "group")),
        ("adapted", c_void_p * 4),
    ]


class Turning(Structure):
    """`Turning`."""

    _fields_: ClassVar[Any] = [("frequencies", c_void_p), ("half", c_int64), ("magnitude", c_float)]


class Shape(Structure):
    """`Shape`: what all layers share."""

    _fields_: ClassVar[Any] = [
        *((name, c_int64) for name in ("hidden", "heads", "kv_heads", "head_dim", "inner", "block_size")),
        *((name, c_float) for name in ("eps", "scale", "cap")),
        ("gate", c_int64),
    ]


class Chances(Structure):
    """`Chances`: how rows of logits are drawn from, [rows] each."""

    _fields_: ClassVar[Any] = [(name, c_void_p) for name in ("temperature", "top_p", "min_p", "top_k", "seed", "index")]
