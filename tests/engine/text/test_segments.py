"""A text that is tokenised in remembered parts has the tokens of the whole, whatever the tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Plain

from engine.text.dialects import dialect
from engine.text.prompts import Prompter
from engine.text.segments import Segments, seams
from engine.text.templates import ChatTemplate
from engine.text.tokenizer import Tokenizer
from schemas.messages import Message
from tests.engine.text.test_tokenizer import CORPUS, trained

QUOTES = ("\uf8f0", "\uf8f1")
TURN, END, ROLE, WORD, LEFT, RIGHT = "<|turn|>", "<|end|>", "[ROLE]", "special", "<left>", "<right>"
ADDED = (
    AddedToken(TURN, special=True),
    AddedToken(END, special=True),
    AddedToken(ROLE, special=True),
    AddedToken("<|turn", special=False, normalized=False),
    AddedToken(WORD, special=False, single_word=True),
    AddedToken(LEFT, special=True, lstrip=True),
    AddedToken(RIGHT, special=True, rstrip=True),
    AddedToken("Hello", special=False, normalized=True),
)


def bytes_bpe() -> Plain:
    plain = trained()
    plain.add_tokens(list(ADDED))
    return plain


def bytes_bpe_with_a_space() -> Plain:
    plain = bytes_bpe()
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return plain


def unigram(scheme: str) -> Plain:
    """As sentencepiece's: a space is a mark, which texts begin with too."""
    plain = Plain(models.Unigram())
    plain.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    plain.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    plain.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    plain.train_from_iterator(CORPUS, trainer)
    plain.add_tokens(list(ADDED))
    return plain


def sentencepiece_bpe() -> Plain:
    """As Llama 2's: the mark is put before every piece between control tokens."""
    plain = Plain(models.BPE(unk_token="<unk>", byte_fallback=True))
    plain.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"], show_progress=False)
    plain.train_from_iterator(CORPUS, trainer)
    plain.add_tokens(list(ADDED))
    return plain


def words() -> Plain:
    """As BERT's: accents and case are taken away before words are looked up."""
    plain = Plain(models.WordPiece(unk_token="[UNK]"))
    plain.normalizer = normalizers.BertNormalizer(lowercase=True)
    plain.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]"], show_progress=False)
    plain.train_from_iterator(CORPUS, trainer)
    plain.add_tokens(list(ADDED))
    return plain


TOKENIZERS: dict[str, Callable[[], Plain]] = {
    "byte-level BPE": bytes_bpe,
    "byte-level BPE, a space before": bytes_bpe_with_a_space,
    "Unigram, always a mark": lambda: unigram("always"),
    "Unigram, a mark at first": lambda: unigram("first"),
    "Unigram, no mark": lambda: unigram("never"),
    "sentencepiece BPE": sentencepiece_bpe,
    "WordPiece": words,
}
PIECES = st.sampled_from(
    [
        *(TURN, END, ROLE, WORD, LEFT, RIGHT, "<|turn", "<|", "|>", "Hello", "hello", " the ", "  ", "\n", "é", "日本"),
        *(f"{QUOTES[0]}{TURN}{QUOTES[1]}", f"{QUOTES[0]}x{END}", QUOTES[1], "special", " special ", "x", "<", "R"),
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=6), max_size=25).map("".join)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_tokens_are_those_of_the_whole_text(name: str) -> None:
    tokenizer = Tokenizer(TOKENIZERS[name](), ())
    segments = tokenizer.segments()

    @settings(max_examples=400, deadline=None, derandomize=True, database=None)
    @given(TEXTS)
    def same(text: str) -> None:
        assert segments.encode(text) == tokenizer.encode(text)
        assert segments.encode(text) == tokenizer.encode(text), "now that it is known"

    same()


def test_only_tokens_that_part_a_text_whatever_is_beside_them_are_seams() -> None:
    assert seams(ADDED) == (TURN, END, ROLE, RIGHT)
    assert seams([AddedToken("</s>", special=True), AddedToken("x<", special=True)]) == ()
    assert seams([AddedToken("<s>", special=True), AddedToken("<s>x", special=True, lstrip=True)]) == ()
    assert seams([AddedToken("_end", special=True), AddedToken("end", special=True)]) == ()


class Counting:
    """Counts what is tokenised."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str) -> list[int]:
        self.texts.append(text)
        return [*text.encode()]


def test_what_was_said_before_is_not_tokenised_again() -> None:
    counting = Counting()
    segments = Segments(counting, (TURN,), QUOTES)
    text = "system: be brief"
    for turn in range(50):
        text += f"{TURN}user: {turn}{TURN}assistant: {turn}"
        assert segments.encode(text) == [*text.encode()]
    assert len(counting.texts) == 101
    segments.encode(text.replace("user: 7", "user: 8"))
    assert len(counting.texts) == 101
    segments.encode(text.replace("user: 7", "user: seven"))
    assert counting.texts[101:] == [f"{TURN}user: seven"]


def test_no_more_is_remembered_than_was_agreed() -> None:
    counting = Counting()
    segments = Segments(counting, (TURN,), QUOTES, most=1000)
    texts = [f"{TURN}{number:090}" for number in range(20)]
    for text in texts:
        segments.encode(text)
        assert segments._held <= 1000
        assert segments._held == sum(len(tokens) + 40 for tokens in segments._known.values())
    counting.texts.clear()
    segments.encode(texts[-1])
    assert counting.texts == []
    segments.encode(texts[0])
    assert counting.texts == [texts[0]]
    assert segments.encode(TURN + "x" * 2000) == [*(TURN + "x" * 2000).encode()]
    assert segments._held == 0


def test_a_tokenizer_without_control_tokens_is_asked_each_time() -> None:
    counting = Counting()
    segments = Segments(counting, (), QUOTES)
    assert segments.encode("abc") == segments.encode("abc")
    assert counting.texts == ["abc", "abc"]


def test_every_turn_of_a_conversation_has_the_prompt_that_a_new_process_would_give_it() -> None:
    source = (
        "{% for message in messages %}<|user|>{{ message.role }}: {{ message.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|user|>assistant: {% endif %}"
    )

    def prompter() -> Prompter:
        return Prompter(Tokenizer(trained(), ()), ChatTemplate(source), dialect("", "auto", "auto"))

    lasting, messages = prompter(), list[Message]()
    for turn in range(8):
        said = f"hello <|end|> {turn} 日本 \uf8f0"
        messages += [Message(role="user", content=said), Message(role="assistant", content=f"the {turn}")]
        found: Any = lasting.prompt(messages)
        assert found.tokens == prompter().prompt(messages).tokens
        assert found.tokens.count(lasting.tokenizer.special["<|end|>"]) == 2 * (turn + 1)
