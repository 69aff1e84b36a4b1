"""Whole texts to vectors, labels and scores, from a folder as sentence-transformers lays it out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from engine.errors import BadRequest, CheckpointError, NotFinite, UnsupportedModel
from engine.llm import LLM
from engine.models import weights
from engine.pooling import load_pooler
from engine.runner.loading import RunnerConfig
from schemas.generation import Sampling
from tests.engine.models.test_pooled import EXACT, HALF, edit, write
from tests.engine.test_progress import Recorder

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
STORY = "a cat sat on the mat while two dogs slept in warm sun and nobody saw what they dreamt of"
WORDS = list(dict.fromkeys(STORY.split()))
TEXTS = [
    "a cat sat",
    "two dogs slept in the warm sun",
    "nobody",
    "what they dreamt of nobody saw while the cat sat on the mat and dogs slept",
    "the mat",
    "a strange word",
]
PAIRS = [("what slept", "two dogs slept in the sun"), ("what sat", "a cat"), ("the", "mat while two dogs")]
FRAMES = {
    "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "roberta": ("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B:1 [SEP]:1"),
    "decoder": ("$A [SEP]", "$A $B:1 [SEP]:1"),
}


def write_tokenizer(folder: Path, frame: str) -> Any:
    """Write a tokenizer of whole words; return it as `transformers` reads it."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    single, pair = FRAMES[frame]
    around = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=around)
    # what is saved with a tokenizer is for its training: neither padding nor this truncation may touch a text
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(4)
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **named)
    fast.save_pretrained(folder)
    return fast


def write_sentence(folder: Path, **mode: Any) -> None:
    """Write what sentence-transformers puts beside a checkpoint."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    edit(folder, "1_Pooling/config.json", word_embedding_dimension=32, **mode)


class Given:
    """A checkpoint with a tokenizer, and what `transformers` makes of it."""

    def __init__(self, folder: Path, architecture: str, **changes: Any) -> None:
        self.folder = folder
        self._types = architecture.startswith("Bert")
        frame = "bert" if "Bert" in architecture else "roberta" if "Roberta" in architecture else "decoder"
        self.reference = write(folder, architecture, pad_token_id=0, **changes)
        self.tokenizer = write_tokenizer(folder, frame)

    def __call__(self, *text: str) -> Any:
        """Compute one text or pair by itself."""
        asked = {"truncation": True, "padding": False, "return_token_type_ids": self._types}
        encoded = self.tokenizer(*text, return_tensors="pt", **asked)
        with torch.inference_mode():
            return self.reference(**encoded)

    def vector(self, mode: str, *text: str) -> torch.Tensor:
        """Pool the states of a text to a vector of length one."""
        states = self(*text).last_hidden_state[0]
        pooled = {"cls": states[0], "mean": states.mean(0), "last": states[-1]}[mode]
        return torch.nn.functional.normalize(pooled, dim=0)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Given]:
    @cache
    def make(architecture: str, labels: int | None = None) -> Given:
        changes = {} if labels is None else {"num_labels": labels}
        return Given(tmp_path_factory.mktemp(architecture), architecture, **changes)

    return make


def farthest(found: Any, expected: Any) -> float:
    return float(np.abs(np.asarray(found) - np.asarray(expected)).max())


@pytest.mark.parametrize("mode", ["cls", "mean", "last"])
@pytest.mark.parametrize(
    "architecture", ["BertModel", "ModernBertModel", "RobertaModel", "XLMRobertaModel", "Qwen3Model", "LlamaModel"]
)
def test_vectors_are_pooled_as_the_files_beside_the_checkpoint_say(
    given: Callable[..., Given], architecture: str, mode: str
) -> None:
    one = given(architecture)
    (one.folder / "1_Pooling" / "config.json").unlink(missing_ok=True)
    others = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": False}
    name = {"cls": "cls_token", "mean": "mean_tokens", "last": "lasttoken"}[mode]
    write_sentence(one.folder, **others | {f"pooling_mode_{name}": True})
    vectors = load_pooler(str(one.folder)).embed(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert vector.dtype == np.float32
        assert abs(np.linalg.norm(vector) - 1) < 1e-6
        assert farthest(vector, one.vector(mode, text)) <= EXACT


def test_newer_names_of_modes_are_read_and_an_argument_overrides_them(given: Callable[..., Given]) -> None:
    one = given("BertModel")
    (one.folder / "1_Pooling" / "config.json").unlink(missing_ok=True)
    write_sentence(one.folder, pooling_mode="lasttoken")
    assert farthest(load_pooler(str(one.folder)).embed(["a cat"]), one.vector("last", "a cat")) <= EXACT
    assert farthest(load_pooler(str(one.folder), pooling="cls").embed(["a cat"]), one.vector("cls", "a cat")) <= EXACT


@pytest.mark.parametrize("architecture", ["BertModel", "ModernBertModel", "Qwen3Model"])
def test_vectors_in_half_precision_stay_close(given: Callable[..., Given], architecture: str) -> None:
    one = given(architecture)
    vectors = load_pooler(str(one.folder), dtype="bfloat16", pooling="mean").embed(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert vector.dtype == np.float32
        assert float(vector @ one.vector("mean", text).numpy()) > HALF


def test_fewer_dimensions_are_the_first_ones_of_length_one(given: Callable[..., Given]) -> None:
    pooler = load_pooler(str(given("BertModel").folder), pooling="mean")
    (whole,), (short,) = pooler.embed(["a cat"]), pooler.embed(["a cat"], dimensions=5)
    assert pooler.width == 32
    assert farthest(short, whole[:5] / np.linalg.norm(whole[:5])) < 1e-6
    for wrong in (0, 33):
        with pytest.raises(BadRequest, match=r"dimensions: .*1 to 32"):
            pooler.embed(["a cat"], dimensions=wrong)


HEADS = ["Bert", "ModernBert", "Roberta", "XLMRoberta", "Llama", "Qwen3", "Mistral"]


@pytest.mark.parametrize("family", HEADS)
def test_labels_of_texts_and_pairs_get_the_probabilities_of_transformers(
    given: Callable[..., Given], family: str
) -> None:
    one = given(f"{family}ForSequenceClassification", 3)
    pooler = load_pooler(str(one.folder))
    assert pooler.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    mixed = [*TEXTS, *PAIRS]
    for text, found in zip(mixed, pooler.classify(mixed), strict=True):
        parts = text if isinstance(text, tuple) else (text,)
        assert tuple(found) == pooler.labels
        assert farthest(list(found.values()), one(*parts).logits[0].softmax(0)) <= EXACT


@pytest.mark.parametrize("family", HEADS)
def test_scores_of_pairs_are_the_logits_of_transformers_between_zero_and_one(
    given: Callable[..., Given], family: str
) -> None:
    one = given(f"{family}ForSequenceClassification", 1)
    scores = load_pooler(str(one.folder)).score(PAIRS)
    assert farthest(scores, [one(*pair).logits[0].sigmoid().item() for pair in PAIRS]) <= EXACT
    half = load_pooler(str(one.folder), dtype="bfloat16").score(PAIRS)
    assert farthest(half, scores) <= 0.15


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_head_may_be_given_the_mean_of_a_text(tmp_path: Path, dtype: Any) -> None:
    """As rerankers on ModernBERT are published."""
    one = Given(tmp_path, "ModernBertForSequenceClassification", num_labels=1, classifier_pooling="mean")
    pooler = load_pooler(str(tmp_path), dtype=dtype)
    expected = [one(*pair).logits[0].sigmoid().item() for pair in PAIRS]
    assert farthest(pooler.score(PAIRS), expected) <= (EXACT if dtype == "float32" else 0.15)
    assert pooler.score(PAIRS) == [pooler.score([pair])[0] for pair in PAIRS]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("config.json", {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}),
        ("config.json", {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}),
        ("config_sentence_transformers.json", {"activation_fn": "torch.nn.modules.linear.Identity"}),
    ],
)
def test_a_cross_encoder_may_keep_its_logits(tmp_path: Path, name: str, key: dict[str, Any]) -> None:
    one = Given(tmp_path, "BertForSequenceClassification", num_labels=1)
    edit(tmp_path, name, **key)
    expected = [one(*pair).logits[0].item() for pair in PAIRS]
    assert farthest(load_pooler(str(tmp_path)).score(PAIRS), expected) <= EXACT
    edit(tmp_path, name, **json.loads(json.dumps(key).replace("linear.Identity", "activation.Tanh")))
    with pytest.raises(CheckpointError, match="'Tanh' is not supported"):
        load_pooler(str(tmp_path))


def test_labels_that_do_not_exclude_each_other_have_probabilities_of_their_own(tmp_path: Path) -> None:
    one = Given(
        tmp_path,
        "BertForSequenceClassification",
        id2label={0: "rude", 1: "off topic"},
        problem_type="multi_label_classification",
    )
    (found,) = load_pooler(str(tmp_path)).classify(["a cat"])
    assert tuple(found) == ("rude", "off topic")
    assert farthest(list(found.values()), one("a cat").logits[0].sigmoid()) <= EXACT


@pytest.mark.parametrize("architecture", ["BertModel", "BertForSequenceClassification"])
def test_documents_are_ranked_by_their_score(given: Callable[..., Given], architecture: str) -> None:
    pooler = load_pooler(str(given(architecture, 1 if "For" in architecture else None).folder))
    scores = pooler.score([("what sat", text) for text in TEXTS])
    ranked = pooler.rerank("what sat", TEXTS)
    assert [one.index for one in ranked] == sorted(range(len(TEXTS)), key=lambda i: -scores[i])
    assert all((one.document, one.score) == (TEXTS[one.index], scores[one.index]) for one in ranked)
    assert pooler.rerank("what sat", TEXTS, 2) == ranked[:2]
    with pytest.raises(BadRequest, match="top_n"):
        pooler.rerank("what sat", TEXTS, 0)


def test_scores_of_a_model_of_vectors_are_cosines(given: Callable[..., Given]) -> None:
    pooler = load_pooler(str(given("BertModel").folder), pooling="mean")
    one, other = pooler.embed(PAIRS[0])
    assert pooler.score([PAIRS[0], ("a cat", "a cat")]) == pytest.approx([float(one @ other), 1.0], abs=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("architecture", "pooling"),
    [("BertModel", "mean"), ("ModernBertModel", "mean"), ("XLMRobertaModel", "cls"), ("Qwen3Model", "last")],
)
def test_a_text_gets_the_same_bits_whatever_is_beside_it(
    given: Callable[..., Given], architecture: str, pooling: Any, dtype: Any
) -> None:
    folder = str(given(architecture).folder)
    together = load_pooler(folder, pooling=pooling, dtype=dtype).embed(TEXTS)
    backwards = load_pooler(folder, pooling=pooling, dtype=dtype, batch_tokens=20).embed(TEXTS[::-1])[::-1]
    alone = load_pooler(folder, pooling=pooling, dtype=dtype)
    for i, text in enumerate(TEXTS):
        assert np.array_equal(together[i], alone.embed([text])[0])
        assert np.array_equal(together[i], backwards[i])


@pytest.mark.parametrize("family", HEADS)
def test_a_pair_gets_the_same_bits_whatever_is_beside_it(given: Callable[..., Given], family: str) -> None:
    pooler = load_pooler(str(given(f"{family}ForSequenceClassification", 1).folder))
    assert pooler.score(PAIRS) == [pooler.score([pair])[0] for pair in PAIRS]


def test_batches_stay_within_their_budget_and_progress_is_told(given: Callable[..., Given]) -> None:
    pooler = load_pooler(str(given("BertModel").folder), batch_tokens=10)
    bar = Recorder()
    pooler.embed(TEXTS, use_tqdm=bar)
    # with a mark on both sides 5, 9, 3, 17, 4 and 5 tokens: a text that is longer than the budget goes alone
    assert bar.done == [1, 1, 1, 1, 2]
    assert pooler.embed([]) == []


@pytest.mark.parametrize("architecture", ["BertModel", "Qwen3Model"])
def test_a_long_text_is_cut_to_the_context_as_transformers_cuts_it_or_refused(
    given: Callable[..., Given], architecture: str
) -> None:
    one = given(architecture)
    pooler = load_pooler(str(one.folder), pooling="mean")
    assert pooler.context_length == 32  # the tokenizer's, fewer than the model's 66
    long = " ".join(WORDS * 3)
    (vector,) = pooler.embed([long])
    assert farthest(vector, one.vector("mean", long)) <= EXACT
    around = 2 if architecture == "BertModel" else 1
    with pytest.raises(BadRequest, match=rf"texts\[1\]: has {3 * len(WORDS) + around} tokens, the model takes 32"):
        pooler.embed(["a cat", long], too_long="refuse")


def test_of_a_long_pair_the_longer_text_is_cut(given: Callable[..., Given]) -> None:
    one = given("BertForSequenceClassification", 1)
    long = " ".join(WORDS * 3)
    pairs = [("a cat", long), (long, "a cat"), (long, long)]
    pooler = load_pooler(str(one.folder))
    expected = [one(*pair).logits[0].sigmoid().item() for pair in pairs]
    assert farthest(pooler.score(pairs), expected) <= EXACT
    with pytest.raises(BadRequest, match=r"pairs\[0\]: has \d+ tokens"):
        pooler.score(pairs, too_long="refuse")


def test_the_limit_of_sentence_transformers_counts(tmp_path: Path) -> None:
    Given(tmp_path, "BertModel")
    edit(tmp_path, "sentence_xlm-roberta_config.json", max_seq_length=7)
    assert load_pooler(str(tmp_path)).context_length == 7
    edit(tmp_path, "sentence_bert_config.json", max_seq_length=9, do_lower_case=False)
    assert load_pooler(str(tmp_path)).context_length == 9
    edit(tmp_path, "sentence_bert_config.json", max_seq_length=4)
    with pytest.raises(CheckpointError, match="4 tokens do not hold a pair of texts"):
        load_pooler(str(tmp_path))
    edit(tmp_path, "sentence_bert_config.json", do_lower_case=True)
    with pytest.raises(CheckpointError, match="do_lower_case"):
        load_pooler(str(tmp_path))


def test_prompts_of_the_checkpoint_go_before_texts(tmp_path: Path) -> None:
    one = Given(tmp_path, "Qwen3Model")
    edit(tmp_path, "config_sentence_transformers.json", prompts={"query": "what ", "document": ""})
    pooler = load_pooler(str(tmp_path))
    assert farthest(pooler.embed(["sat"], prompt="query"), one.vector("last", "what sat")) <= EXACT
    assert farthest(pooler.embed(["sat"]), one.vector("last", "sat")) <= EXACT
    with pytest.raises(
        BadRequest, match="prompt: 'passage' is not one of the checkpoint's, which are: document, query"
    ):
        pooler.embed(["sat"], prompt="passage")
    with pytest.raises(BadRequest, match=r"texts\[0\]: is empty"):
        pooler.embed([""], prompt="query")
    edit(tmp_path, "config_sentence_transformers.json", default_prompt_name="query")
    assert farthest(load_pooler(str(tmp_path)).embed(["sat"]), one.vector("last", "what sat")) <= EXACT
    edit(tmp_path, "config_sentence_transformers.json", default_prompt_name="passage")
    with pytest.raises(CheckpointError, match="'passage' is not among its prompts"):
        load_pooler(str(tmp_path))


def test_a_token_of_padding_is_not_the_last_one_for_a_decoder_with_a_head(given: Callable[..., Given]) -> None:
    one = given("Qwen3ForSequenceClassification", 3)
    texts = ["a [PAD] cat", "a cat [PAD]"]
    tokenizer = one.tokenizer.backend_tokenizer
    assert tokenizer.token_to_id("[PAD]") in tokenizer.encode(texts[1]).ids
    for text, found in zip(texts, load_pooler(str(one.folder)).classify(texts), strict=True):
        assert farthest(list(found.values()), one(text).logits[0].softmax(0)) <= EXACT


def test_what_a_model_does_not_do_is_said_with_what_it_does(given: Callable[..., Given]) -> None:
    vectors = load_pooler(str(given("BertModel").folder))
    labels = load_pooler(str(given("BertForSequenceClassification", 3).folder))
    with pytest.raises(BadRequest, match="gives vectors, not labels: ask `embed`"):
        vectors.classify(TEXTS)
    with pytest.raises(BadRequest, match="gives labels, not vectors: ask `classify`"):
        labels.embed(TEXTS)
    with pytest.raises(BadRequest, match="has 3 labels, a score needs one"):
        labels.score(PAIRS)


def test_texts_that_are_none_are_refused_by_place(given: Callable[..., Given]) -> None:
    pooler = load_pooler(str(given("BertModel").folder))
    with pytest.raises(BadRequest, match=r"texts\[1\]: is empty; leave it out"):
        pooler.embed(["a cat", ""])
    with pytest.raises(BadRequest, match="texts: is one text; give a list"):
        pooler.embed("a cat")
    with pytest.raises(BadRequest, match="documents: is one text; give a list"):
        pooler.rerank("a cat", "a dog")
    with pytest.raises(BadRequest, match="pairs: is one text; give a list"):
        pooler.score("a cat")  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="too_long: 'drop' is none of cut, refuse"):
        pooler.embed(["a cat"], too_long="drop")  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="pooling: 'max' is none of cls, mean, last"):
        load_pooler(str(given("BertModel").folder), pooling="max")  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="batch_tokens"):
        load_pooler(str(given("BertModel").folder), batch_tokens=0)


def test_a_text_that_is_no_token_is_refused(tmp_path: Path) -> None:
    Given(tmp_path, "Qwen3Model")
    edit(tmp_path, "tokenizer.json", post_processor=None)
    with pytest.raises(BadRequest, match=r"texts\[1\]: is no token to the model"):
        load_pooler(str(tmp_path)).embed(["a cat", "  "])


def test_an_embedding_model_that_calls_itself_a_generator_gives_the_vectors_of_its_last_tokens(tmp_path: Path) -> None:
    """As Qwen3-Embedding is published: without a head, without `model.` before names, with a prompt for queries."""
    one = Given(tmp_path, "Qwen3Model", tie_word_embeddings=True)
    edit(tmp_path, "config.json", architectures=["Qwen3ForCausalLM"])
    edit(tmp_path, "config_sentence_transformers.json", prompts={"query": "what ", "document": ""})
    write_sentence(tmp_path, pooling_mode_mean_tokens=False, pooling_mode_lasttoken=True, include_prompt=True)
    pooler = load_pooler(str(tmp_path))
    (query,) = pooler.embed(["nobody saw"], prompt="query", dimensions=16)
    whole = one.vector("last", "what nobody saw")[:16]
    assert farthest(query, whole / whole.norm()) <= EXACT
    (document,) = pooler.embed([TEXTS[3]])
    assert farthest(document, one.vector("last", TEXTS[3])) <= EXACT
    llm = LLM(str(tmp_path), device="cpu")
    assert np.array_equal(llm.embed(["nobody saw"], prompt="query", dimensions=16)[0], query)
    with pytest.raises(BadRequest, match="model: Qwen3ForCausalLM reads texts and writes none: ask `embed`"):
        llm.generate(["nobody"])


@pytest.mark.parametrize("architecture", ["BertModel", "ModernBertModel", "Qwen3Model"])
def test_a_model_of_vectors_is_used_as_every_model_is(given: Callable[..., Given], architecture: str) -> None:
    one = given(architecture)
    llm = LLM(str(one.folder), device="cpu", pooling="mean")
    for text, vector in zip(TEXTS, llm.embed(TEXTS), strict=True):
        assert farthest(vector, one.vector("mean", text)) <= EXACT
    assert llm.score(PAIRS) == load_pooler(str(one.folder), pooling="mean").score(PAIRS)
    assert [found.index for found in llm.rerank(TEXTS[0], TEXTS, 1)] == [0]
    assert llm.labels == ()
    for ask in (llm.generate, llm.beam_search, llm.chat):
        with pytest.raises(BadRequest, match=f"{architecture} .* writes none: ask `embed`, `score` or `rerank`"):
            ask([])
    with pytest.raises(BadRequest, match="gives vectors, not labels"):
        llm.classify(TEXTS)


@pytest.mark.parametrize(("labels", "ask"), [(1, "`score`, `rerank` or `classify`"), (3, "`classify`")])
@pytest.mark.parametrize("family", ["Bert", "ModernBert", "Qwen3"])
def test_a_model_of_labels_is_used_as_every_model_is(
    given: Callable[..., Given], family: str, labels: int, ask: str
) -> None:
    one = given(f"{family}ForSequenceClassification", labels)
    llm = LLM(str(one.folder), device="cpu")
    assert len(llm.labels) == labels
    for text, found in zip(TEXTS, llm.classify(TEXTS), strict=True):
        logits = one(text).logits[0]
        expected = logits.sigmoid() if labels == 1 else logits.softmax(-1)
        assert farthest(list(found.values()), expected) <= EXACT
    if labels == 1:
        assert llm.score(PAIRS) == load_pooler(str(one.folder)).score(PAIRS)
        assert llm.rerank("what sat", TEXTS) == load_pooler(str(one.folder)).rerank("what sat", TEXTS)
    with pytest.raises(BadRequest, match=f"writes none: ask {ask}$"):
        llm.generate(["nobody"])


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_model_that_writes_gives_the_vectors_of_the_weights_it_has(
    given: Callable[..., Given], pooling: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = given("Qwen3ForCausalLM")
    llm = LLM(str(one.folder), device="cpu", runner=RunnerConfig(model="", blocks=64), pooling=pooling)
    before = llm.generate([TEXTS[0]], Sampling(max_tokens=4))
    with monkeypatch.context() as patched:
        patched.setattr(weights, "safe_open", None)  # nothing is loaded again
        vectors = llm.embed(TEXTS)
    assert all(map(np.array_equal, vectors, load_pooler(str(one.folder), pooling=pooling).embed(TEXTS)))
    assert llm.generate([TEXTS[0]], Sampling(max_tokens=4))[0].tokens == before[0].tokens


def test_an_architecture_that_is_none_of_ours_is_refused_with_all_that_are(tmp_path: Path) -> None:
    Given(tmp_path, "BertModel")
    edit(tmp_path, "config.json", architectures=["T5Model"])
    with pytest.raises(UnsupportedModel, match=r"'T5Model' is not supported.*BertModel.*LlamaForCausalLM"):
        LLM(str(tmp_path), device="cpu")
    with pytest.raises(BadRequest, match="pooling: 'max' is none of"):
        LLM(str(tmp_path), device="cpu", pooling="max")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ({"pooling_mode_max_tokens": True}, "pools by max_tokens; supported is"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "pools by cls_token, mean_tokens"),
        ({"pooling_mode": ["cls", "max"]}, "pools by cls, max"),
        ({}, "pools by nothing"),
        ({"pooling_mode_cls_token": True, "include_prompt": False}, "include_prompt"),
    ],
)
def test_a_way_to_pool_that_we_lack_is_refused_by_name(tmp_path: Path, mode: dict[str, Any], message: str) -> None:
    Given(tmp_path, "BertModel")
    write_sentence(tmp_path, **mode)
    with pytest.raises(CheckpointError, match=message):
        load_pooler(str(tmp_path))


def test_a_module_that_we_lack_is_refused_by_name(tmp_path: Path) -> None:
    Given(tmp_path, "BertModel")
    modules = [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(CheckpointError, match="the module 'Dense' is not supported, only Normalize, Pooling"):
        load_pooler(str(tmp_path))
    (tmp_path / "modules.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"modules\.json.*not a JSON list"):
        load_pooler(str(tmp_path))


def test_a_number_that_is_not_finite_is_told_and_no_result(tmp_path: Path) -> None:
    one = Given(tmp_path, "BertModel")
    with torch.no_grad():
        one.reference.embeddings.word_embeddings.weight[len(SPECIAL)] = math.inf
    one.reference.save_pretrained(tmp_path)
    pooler = load_pooler(str(tmp_path))
    pooler.embed(["the cat"])
    with pytest.raises(NotFinite, match=r"text 1: .*not finite; take dtype float32"):
        pooler.embed(["the cat", "a cat"])
