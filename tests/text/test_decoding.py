"""Tokens back to text: nothing shows before it is whole, and nothing shows as the replacement character."""

import pytest

from qkv.text.decoding import Decoder, text_of, token_labels
from qkv.text.tokenizer import characters, train_byte_bpe, train_unigram, train_wordpiece

TEXTS = ["老鼠爱大米。", "a 🐭 naïve 老鼠 eats", "\x00�\n\n  é"]
BYTES = train_byte_bpe(["plain words"], 257)


def byte(value: int) -> int:
    """The token of one byte: the vocabulary is sorted as GPT-2's letters for the bytes are."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [value for value in range(256) if value not in shown]
    return 1 + (shown + hidden).index(value)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("vocabulary", [257, 290])
def test_each_character_comes_when_it_is_whole(text, vocabulary):
    tokenizer = train_byte_bpe(TEXTS * 3, vocabulary)
    decoder, shown = Decoder(tokenizer), ""
    for token in tokenizer.encode(text).ids:
        shown += decoder.feed([token])
        assert text.startswith(shown)
    assert shown == text
    assert Decoder(tokenizer).feed(tokenizer.encode(text).ids) == text


def test_a_broken_character_shows_its_bytes():
    decoder = Decoder(BYTES)
    assert decoder.feed([byte(0xE8), byte(0x80)]) == ""
    assert decoder.feed([byte(0x41)]) == "\\xe8\\x80A"
    assert decoder.feed([byte(0xFF)]) == "\\xff"
    assert decoder.feed([byte(0x80)]) == "\\x80"
    assert decoder.feed([byte(0xF0), byte(0x9F), byte(0x90)]) == ""
    assert decoder.feed([byte(0xAD)]) == "🐭"
    # No character begins with the bytes of half of a surrogate pair.
    assert decoder.feed([byte(0xED), byte(0xA0)]) == "\\xed\\xa0"


def test_special_tokens_show_when_asked():
    tokens = BYTES.encode("a<|endoftext|>b").ids
    assert Decoder(BYTES).feed(tokens) == "ab"
    assert Decoder(BYTES, special=True).feed(tokens) == "a<|endoftext|>b"


def test_a_token_beyond_the_vocabulary_shows_nothing():
    assert Decoder(BYTES).feed([5000, byte(0x41)]) == "A"


@pytest.mark.parametrize(
    "tokenizer, text",
    [
        (train_wordpiece(["talking, talked 老鼠"] * 2, 26), "talked, 老 talking"),
        (train_unigram(["a mouse and a mouse 老鼠"] * 3, 15), "a mouse 老鼠 and"),
        (characters(TEXTS), TEXTS[1]),
    ],
    ids=["wordpiece", "unigram", "characters"],
)
def test_other_tokenizers_stream_what_they_decode(tokenizer, text):
    tokens, decoder = tokenizer.encode(text).ids, Decoder(tokenizer)
    assert "".join(decoder.feed([token]) for token in tokens) == tokenizer.decode(tokens) == text


def test_labels_can_be_read():
    tokens = BYTES.encode("a老 é").ids
    assert token_labels(BYTES, tokens) == ["a", "老", "老", "老", " ", "é", "é"]
    assert token_labels(BYTES, [0, byte(0xE8), byte(0x41), byte(0x80)]) == ["<|endoftext|>", "\\xe8", "A", "\\x80"]
    assert token_labels(characters(["ab"]), [1, 2, 99]) == ["a", "b", ""]


def test_the_text_of_all_tokens_has_no_broken_characters():
    assert text_of(BYTES, BYTES.encode("a 猫").ids) == "a 猫"
    assert text_of(BYTES, [byte(0xE7), byte(ord("a")), byte(0xE7)]) == "\\xe7a\\xe7"
    letters = characters(["ab 猫"], unknown="[UNK]")
    assert text_of(letters, letters.encode("a 猫").ids) == "a 猫"
