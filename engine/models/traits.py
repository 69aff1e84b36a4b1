"""Where the decoders of families differ, as values: a family is a choice of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class NormNames:
    """Which norms a block has, by what the checkpoint calls them; `None` is none."""

    before: str | None
    """Ahead of attention."""
    behind_attention: str | None
    """On what attention gives, before it joins the residual."""
    between: str | None
    """Ahead of feed-forward."""
    behind: str | None
    """On what feed-forward gives."""


AHEAD: Final = NormNames("input_layernorm", None, "post_attention_layernorm", None)
BEHIND: Final = NormNames(None, "post_attention_layernorm", None, "post_feedforward_layernorm")
AROUND: Final = NormNames(
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
)


@dataclass(frozen=True, slots=True)
class ProjectionNames:
    """What the checkpoint calls the projections that we compute as one."""

    qkv: tuple[str, ...]
    gate_up: tuple[str, ...]


APART: Final = ProjectionNames(("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
JOINED: Final = ProjectionNames(("qkv_proj",), ("gate_up_proj",))


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """What the checkpoint calls a mixture of experts."""

    block: str
    gate: str
    up: str
    down: str


@dataclass(frozen=True, slots=True)
class Traits:
    """The defaults are the plain decoder."""

    norms: NormNames = AHEAD
    norm_offset: float = 0.0
    """Added to the weight of every norm."""
    head_norm: Literal["head", "width"] | None = None
    """Normalise queries and keys before rotation: each head by itself, or all heads of a token together."""
    projections: ProjectionNames = APART
    experts: ExpertNames = ExpertNames("mlp", "gate_proj", "up_proj", "down_proj")
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    embedding_scale: float | None = None
    """What the vectors of tokens are multiplied by."""
