"""A corpus is tokenised in parts, and each word has its tokens."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from qkv.errors import KindError
from qkv.lens import sentences
from qkv.lens.sentences import Word, encoded, plain, words_of


def test_a_word_is_compared_in_lower_case_and_has_all_its_tokens(tokenizer):
    text = "The cat, playing 鼠标 ."
    # [CLS] the cat , play ##ing 鼠 标 . [SEP]
    assert list(words_of(text, tokenizer.encode(text))) == [
        Word("the", 0, 3, 1, 2), Word("cat", 4, 7, 2, 3), Word("playing", 9, 16, 4, 6), Word("鼠", 17, 18, 6, 7),
        Word("标", 18, 19, 7, 8),
    ]  # fmt: skip


def test_spaces_that_a_tokenizer_counts_to_a_word_are_none_of_it():
    tokenizer = Tokenizer(models.WordLevel({"the": 0, " cat": 1}, unk_token="the"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    encoding = tokenizer.encode("the cat")
    assert encoding.offsets == [(0, 3), (3, 7)]
    assert list(words_of("the cat", encoding)) == [Word("the", 0, 3, 0, 1), Word("cat", 4, 7, 1, 2)]


def test_noise_is_no_word(tokenizer):
    text = "x" * 101 + " cat"
    assert [word.written for word in words_of(text, tokenizer.encode(text))] == ["cat"]


def test_texts_come_in_parts_without_blank_ones_and_cut(tokenizer, monkeypatch):
    monkeypatch.setattr(sentences, "PART", 2)
    parts = list(encoded(["the", " ", "cat", "", "mouse " * 300], plain(tokenizer, 8), 8))
    assert [[text for text, _ in part] for part in parts] == [["the", "cat"], [("mouse " * 300)[:800]]]
    assert [len(encoding.ids) for part in parts for _, encoding in part] == [3, 3, 8]


def test_the_users_tokenizer_is_left_as_it_is(tokenizer):
    tokenizer.enable_padding(length=9)
    assert len(plain(tokenizer, 4).encode("the cat mouse").ids) == 4
    assert tokenizer.truncation is None and len(tokenizer.encode("the").ids) == 9


@pytest.mark.unhooked
def test_what_is_no_string_is_said(tokenizer):
    with pytest.raises(KindError, match=r"^words: texts must hold strings; got 1$"):
        list(encoded(["the", 1], tokenizer, 8))
