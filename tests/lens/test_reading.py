"""A text is read into tokens, vectors and maps."""

import pytest
import torch
from tokenizers import processors

from qkv.errors import ArgumentError, UnsupportedError
from qkv.lens.reading import read


def test_labels_are_as_written_and_keep_the_parts_of_words(model, tokenizer):
    reading = read(model, tokenizer, "The Cat playing .")
    assert reading.labels == ["[CLS]", "The", "Cat", "play", "##ing", ".", "[SEP]"]
    assert reading.special == [True, False, False, False, False, False, True]
    assert [reading.text[start:stop] for start, stop in reading.spans[1:3]] == ["The", "Cat"]
    assert len(reading.hidden) == 3 and reading.hidden[0].shape == (7, 8)
    torch.testing.assert_close(reading.weights(1).sum(-1), torch.ones(2, 7))


def test_chinese_never_shows_as_a_broken_character(model, tokenizer):
    assert read(model, tokenizer, "鼠标 cat 猫").labels == ["[CLS]", "鼠", "标", "cat", "猫", "[SEP]"]
    assert read(model, tokenizer, "鼠标 cat 猫").unknown == [4]


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_refused(model, tokenizer, text):
    with pytest.raises(ArgumentError, match=r"^read: text must hold something to read; got '"):
        read(model, tokenizer, text)


def test_a_text_too_long_is_refused(model, tokenizer):
    with pytest.raises(
        ArgumentError, match=r"^read: text must have at most 512 tokens; got 602 \(the model has no more"
    ):
        read(model, tokenizer, "cat " * 600)


def test_a_lone_surrogate_does_not_crash(model, tokenizer):
    assert read(model, tokenizer, "cat \ud800").labels[1] == "cat"


def test_a_text_that_the_tokenizer_makes_nothing_of_is_refused(model, tokenizer):
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    with pytest.raises(
        ArgumentError,
        match=r"^read: text must hold a token; got '\\u200b' \(the model's tokenizer makes no token of it\)$",
    ):
        read(model, tokenizer, "\u200b")


def test_a_model_that_computes_no_numbers_is_refused(bert, tokenizer):
    with torch.no_grad():
        bert.layers[1].attention.output.weight.fill_(torch.nan)
    got = r"NaN or infinity after layer 1 \(its weights may be broken, or too large for their type\)$"
    with pytest.raises(UnsupportedError, match=r"^read: model must give finite vectors; got " + got):
        read(bert, tokenizer, "the cat")
