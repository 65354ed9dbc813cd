"""Tokens merged to words."""

import pytest

from qkv.lens.reading import read
from qkv.lens.subwords import word_ranges


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the playing .", [(0, 1), (1, 2), (2, 4), (4, 5), (5, 6)]),
        ("鼠标 cat", [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        ("cat. the", [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
    ],
)
def test_parts_of_words_are_merged(model, tokenizer, text, expected):
    reading = read(model, tokenizer, text)
    assert word_ranges(text, reading.spans, reading.special) == expected


def test_a_character_of_several_tokens_is_one_word():
    # As a tokenizer of bytes splits them; its tokens hold the space before the word.
    text = "a 鼠 bc"
    spans = [(0, 1), (1, 3), (2, 3), (3, 5), (5, 6)]
    assert word_ranges(text, spans, [False] * 5) == [(0, 1), (1, 3), (3, 5)]
