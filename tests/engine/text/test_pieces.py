"""Tokens as bytes: put together they are the text, wherever a character is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from engine.text.pieces import Pieces


def byte_level() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: at for at, letter in enumerate(letters)} | {"Ġt": 256, "he": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", "t"), ("h", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


@given(st.text(max_size=20))
def test_the_pieces_of_a_byte_level_vocabulary_are_the_text(text: str) -> None:
    tokenizer = byte_level()
    pieces = Pieces(tokenizer)
    assert b"".join(pieces.piece(token) for token in tokenizer.encode(text).ids) == text.encode()


def test_special_tokens_are_their_own_names_and_ids_without_a_token_nothing() -> None:
    pieces = Pieces(byte_level())
    assert pieces.piece(258) == b"<|end|>"
    assert pieces.piece(9_999) == b""


def test_a_sentencepiece_vocabulary_writes_spaces_and_bytes_in_its_own_way() -> None:
    vocabulary = {"<unk>": 0, "\u2581the": 1, "<0xE2>": 2, "<0x0A>": 3, "caf\u00e9": 4}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    pieces = Pieces(tokenizer)
    assert [pieces.piece(token) for token in range(1, 5)] == [b" the", b"\xe2", b"\n", "caf\u00e9".encode()]


def test_without_a_decoder_a_token_is_its_text() -> None:
    assert Pieces(Tokenizer(models.WordLevel({"<0x0A>": 0}, unk_token="<0x0A>"))).piece(0) == b"<0x0A>"
