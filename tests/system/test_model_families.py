"""`ostinato up --model DIR` serves what `transformers` saved, token for token, in every layout of several families."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from schemas import codec
from schemas.steps import StepPlan
from tests.system.conftest import records, start
from tests.system.test_record import rows, wait_until_recorded

pytestmark = pytest.mark.servers

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    # far from the usual 0.02, so that attention is sharp and greedy tokens vary
    "initializer_range": 0.3,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>"]
ANSWER = 40
QUESTIONS = ("Hello!", "What is the cat called? " * 4)


@dataclass(frozen=True)
class Layout:
    """How a checkpoint is saved."""

    family: str
    tied: bool
    sharded: bool
    template_in_a_file: bool
    more: dict[str, Any]


WINDOWS = {
    "num_hidden_layers": 3,
    "sliding_window": 9,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "query_pre_attn_scalar": 8,
}
LAYOUTS = {
    "qwen3-tied-one-file-jinja": Layout("Qwen3", True, False, True, {}),
    "qwen3-untied-sharded-config": Layout("Qwen3", False, True, False, {}),
    "llama-untied-sharded-jinja": Layout("Llama", False, True, True, {}),
    "llama-tied-scaled-one-file-config": Layout("Llama", True, False, False, {"rope_parameters": LLAMA3}),
    "gemma3-tied-windows-one-file-jinja": Layout("Gemma3", True, False, True, WINDOWS),
}


def saved_tokenizer(folder: Path, template_in_a_file: bool) -> transformers.PreTrainedTokenizerFast:
    """Save a tokenizer whose tokens are characters, so that equal text means equal tokens; return it."""
    letters = ["Ġ", *map(chr, range(ord("!"), ord("~") + 1))]  # Ġ is how such vocabularies write a space
    plain = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[2:],
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder, save_jinja_files=template_in_a_file)
    assert (folder / "chat_template.jinja").exists() == template_in_a_file
    config = json.loads((folder / "tokenizer_config.json").read_bytes())
    assert ("chat_template" in config) != template_in_a_file
    return tokenizer


def saved_model(folder: Path, layout: Layout, tokenizer: transformers.PreTrainedTokenizerFast) -> Any:
    """Save a model of random weights and return it."""
    build = getattr(transformers, f"{layout.family}ForCausalLM")
    config = build.config_class(
        **SHAPE | layout.more,
        vocab_size=len(tokenizer),
        tie_word_embeddings=layout.tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(11)
    model = build(config).eval()
    with torch.no_grad():  # norms start as ones, which would hide a mistake
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
    model.save_pretrained(folder, max_shard_size="20KB" if layout.sharded else "1GB")
    assert (folder / "model.safetensors.index.json").exists() == layout.sharded
    return model


@pytest.mark.parametrize("name", LAYOUTS)
def test_greedy_answers_over_http_are_those_of_transformers(name: str, tmp_path: Path, system_folder: Path) -> None:
    layout = LAYOUTS[name]
    folder = tmp_path / name
    tokenizer = saved_tokenizer(folder, layout.template_in_a_file)
    model = saved_model(folder, layout, tokenizer)
    up = start(system_folder / name, "--model", str(folder), "--model-name", "family")
    try:
        with openai.OpenAI(base_url=f"{up.url}/v1", api_key="none", timeout=60, max_retries=0) as client:
            assert "family" in {served.id for served in client.models.list()}
            for question in QUESTIONS:
                messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
                given = client.chat.completions.create(
                    model="family", messages=messages, temperature=0, max_tokens=ANSWER
                )
                prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
                ids = prompt["input_ids"]
                whole = model.generate(**prompt, max_new_tokens=ANSWER, do_sample=False, pad_token_id=0)
                expected = whole[0, ids.shape[1] :].tolist()
                assert given.usage is not None
                assert given.usage.prompt_tokens == ids.shape[1]
                assert given.usage.completion_tokens == len(expected)
                assert given.choices[0].message.content == tokenizer.decode(expected, skip_special_tokens=True)
        wait_until_recorded(up)
        *_, verified = records(up.cli("replay", "engine", "--last", "--verify", "--json"))
        assert (verified["ok"], verified["problem"], verified["running"]) == (True, "", 0)
        (first,) = rows(up, "SELECT payload FROM record WHERE subject LIKE 'step.%.plan' AND n = 1")
        began: Any = codec.decode(first["payload"], StepPlan).told[0]
        kinds = (began.limits["groups"], began.limits["windowed"], began.limits.get("window"))
        assert kinds == ((3, 2, 9) if layout.more is WINDOWS else (1, 1, None))
    finally:
        assert up.stop() == 0
