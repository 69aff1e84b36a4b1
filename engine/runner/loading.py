"""From a checkpoint and what is wanted of it to a runner that is ready to execute plans."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch

from engine.errors import CheckpointError, NotEnoughMemory
from engine.kernels.weights import Quantization
from engine.logprobs import LogprobsMode
from engine.models.adapters import read_adapter
from engine.models.config import ModelConfig
from engine.models.registry import load_model
from engine.models.weights import LoadFormat, find_checkpoint
from engine.platforms import Dtype, Platform
from engine.progress import UseTqdm
from engine.runner.current import current
from engine.runner.kv_cache import KV_MEND, KvCache, block_bytes, blocks_that_fit
from engine.runner.model_runner import ModelRunner
from engine.structured.compiler import Grammars
from engine.structured.grammar import GrammarError, Vocabulary
from engine.structured.registry import BUILT_IN, backend
from engine.text.tokenizer import Tokenizer


class RunnerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told when it is made."""

    model: str
    """A checkpoint folder, or the id of a hub model."""
    dtype: Dtype = "auto"
    load_format: LoadFormat = "auto"
    """`dummy` makes weights up, so that a folder with a config.json is enough."""
    quantization: Quantization = "none"
    """`int8` computes products in 8 bits on both sides, weights rounded as they are loaded."""
    block_size: int = 16
    """Tokens per KV block: the scheduler's."""
    blocks: int | None = None
    """KV blocks to hold; as many as `memory_share` gives if `None`."""
    memory_share: float | None = None
    """Part of the memory free after loading that KV blocks may fill; by kind of device if `None`."""
    context_length: int | None = None
    """Positions that are served at most; the model's own if `None`. LongRoPE turns by it."""
    most_contexts: int = 256
    """But no more blocks than so many requests of full context length could fill."""
    threads: int | None = None
    """Processor threads for one operation, in the whole process; torch's choice if `None`. Small models want 1."""
    grammar_backend: str = BUILT_IN
    """Who compiles grammars: `llguidance`, or an entry point of the group `ostinato.grammars`."""
    logprobs_mode: LogprobsMode = "raw_logprobs"
    """What `logprobs` are: see `engine.logprobs`."""
    adapters: Mapping[str, str] = {}
    """By the names that requests ask for, folders of adapters (LoRA) as `peft` writes them, or ids of hub models."""
    enforce_eager: bool = False
    """Whether steps are launched one by one where they could be captured as graphs, which takes memory."""
    batch_invariant: bool = False
    """Whether a request's tokens must not depend on the batch on an accelerator; on a processor they never do."""


def load_runner(config: RunnerConfig, platform: Platform, worker: str, use_tqdm: UseTqdm = False) -> ModelRunner:
    """Load a checkpoint and allocate its KV cache; `use_tqdm` shows how far the weights are.

    Raises:
        CheckpointError: The checkpoint is not there or not whole.
        UnsupportedModel: Its architecture is not one of ours.
        NotEnoughMemory: The weights or the KV cache do not fit.
        BadRequest: There is no grammar backend of that name.
        PlatformUnavailable: Its ops depend on the batch, where they must not.
    """
    with current(platform.device):
        return _load(config, platform, worker, use_tqdm)


def _load(config: RunnerConfig, platform: Platform, worker: str, use_tqdm: UseTqdm) -> ModelRunner:
    if config.batch_invariant:
        platform = platform.steady()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    folder = find_checkpoint(config.model, config.load_format, use_tqdm)
    model = load_model(
        folder,
        platform,
        config.dtype,
        context_length=config.context_length,
        load_format=config.load_format,
        quantization=config.quantization,
        use_tqdm=use_tqdm,
    )
    if config.adapters:
        with torch.inference_mode():
            model.adapt([read_adapter(adapter, model) for adapter in config.adapters.values()])
    one = block_bytes(model.config, config.block_size, model.dtype)
    blocks = config.blocks
    if blocks is None:
        row = model.config.groups.count
        useful = config.most_contexts * -(-model.config.context_length // config.block_size) * row
        blocks = min(useful, blocks_that_fit(platform, one, config.memory_share, row))
    elif (available := platform.free_memory()) < blocks * one:
        raise NotEnoughMemory("the KV cache", blocks * one, available, KV_MEND)
    grammars = Grammars(backend(config.grammar_backend), lambda: vocabulary(folder, model.config))
    cache = KvCache(model, blocks, config.block_size)
    runner = (model, cache, worker, grammars, config.logprobs_mode)
    made = ModelRunner(*runner, adapters=tuple(config.adapters), captured=not config.enforce_eager)
    made.warm_up(config.most_contexts)
    return made


def vocabulary(folder: Path, config: ModelConfig) -> Vocabulary:
    """Read the tokens of a checkpoint, as grammars need them.

    Raises:
        GrammarError: It has no tokenizer, or no token that ends an answer.
    """
    try:
        ends = {*config.stop_tokens, *Tokenizer.load(folder).stop_tokens}
    except CheckpointError as error:
        raise GrammarError(f"no grammars: {error}") from error
    ends = {token for token in ends if token < config.vocabulary}
    if not ends:
        raise GrammarError("this model has no token that ends an answer, so none can keep to a grammar")
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    return Vocabulary(text, config.vocabulary, tuple(sorted(ends)))
