"""A word's vectors are found and compared."""

import pytest
import torch

from qkv.errors import ArgumentError
from qkv.lens.reading import read
from qkv.lens.words import compare, places, vectors


@pytest.fixture
def readings(model, tokenizer):
    return [read(model, tokenizer, text) for text in ("the mouse click", "The Mouse playing . mouse", "鼠标 click")]


def test_every_place_is_found_in_any_case(readings):
    found = places(readings, "MOUSE")
    assert [(place.reading, place.tokens) for place in found] == [(0, (2,)), (1, (2,)), (1, (6,))]


def test_a_word_in_parts_is_the_mean_of_its_parts(readings):
    (place,) = places(readings, "playing")
    assert place.tokens == (3, 4)
    expected = readings[1].hidden[1][3:5].mean(0)
    torch.testing.assert_close(vectors(readings, [place], 1)[0], expected)


def test_a_part_of_a_longer_word_is_not_the_word(readings):
    with pytest.raises(ArgumentError, match=r"^see: --word must stand in one of the texts; got 'play'$"):
        places(readings, "play")


def test_chinese_words_stand_inside_longer_strings(readings):
    assert places(readings, "鼠")[0].tokens == (1,)
    assert places(readings, "鼠标")[0].tokens == (1, 2)


@pytest.mark.parametrize("word", ["", "  "])
def test_an_empty_word_is_refused(readings, word):
    with pytest.raises(ArgumentError, match=r"^words: word must not be empty; got"):
        places(readings, word)


def test_special_characters_are_text_not_a_pattern(readings):
    assert [place.reading for place in places(readings, ".")] == [1]


def test_the_comparison_is_the_cosine_raw_and_centred(readings):
    found = compare(readings, "mouse")
    assert found.raw.shape == found.centred.shape == (3, 3, 3)
    one, other = readings[0].hidden[2][2], readings[1].hidden[2][6]
    middle = torch.cat([reading.hidden[2] for reading in readings]).mean(0)
    assert found.raw[2, 0, 2].item() == pytest.approx(torch.cosine_similarity(one, other, 0).item(), abs=1e-6)
    centred = torch.cosine_similarity(one - middle, other - middle, 0).item()
    assert found.centred[2, 0, 2].item() == pytest.approx(centred, abs=1e-6)
    torch.testing.assert_close(found.raw.diagonal(0, -2, -1), torch.ones(3, 3))
