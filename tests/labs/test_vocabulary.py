"""The lab on the vocabulary: a small run, counts by hand and by transformers, and a tokenizer that knows words only."""

from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
import torch
from checks import check_lab, same_again
from tokenizers import Tokenizer, models, pre_tokenizers

from qkv.labs import vocabulary
from qkv.labs.lab import Progress, Verdict
from qkv.labs.vocabulary import COUNTS, LAB, published, unseen, words
from qkv.text.stdlib import prose

SMALL = replace(LAB.quick, letters=150_000, vocabulary=1000)


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    """Read the standard library once for all tests: parsing it takes seconds."""
    monkeypatch.setattr(vocabulary, "prose", lambda held_out=False: iter(_prose(held_out)))


@cache
def _prose(held_out: bool) -> list[str]:
    return list(prose(held_out=held_out))


@pytest.mark.slow
def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    same_again(LAB, SMALL, figures)
    assert LAB.verdict([figures]) is Verdict.HOLDS
    assert figures["corpus_words"][-1] / figures["corpus_words"][-2] == pytest.approx(2, rel=0.1)
    assert 1 < figures["bpe_length"] < figures["letters_length"]
    # QUESTIONS' computed differences from the papers.
    off = {"transformer": -0.030, "bert_large": -0.014, "gpt2": 0.064}
    for name, value in off.items():
        assert figures[f"{name}_published"] == pytest.approx(value, abs=0.0006)


def test_words_and_the_unseen():
    assert words(["The cat, the hat."]) == {"the": 2, "cat": 1, "hat": 1}
    assert unseen(Counter(a=3, b=1), {"a"}) == 1 / 4


@pytest.mark.slow
def test_transformers_counts_the_same():
    transformers = pytest.importorskip("transformers")
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    with torch.device("meta"):
        theirs = {
            "bert_base": transformers.BertModel(transformers.BertConfig()),
            "bert_large": transformers.BertModel(transformers.BertConfig(**large)),
            "gpt2": transformers.GPT2LMHeadModel(transformers.GPT2Config()),
        }
    ours = published()
    for name, model in theirs.items():
        count = sum(each.numel() for each in model.parameters())
        assert count == COUNTS[name] == sum(each.numel() for each in ours[name].parameters())


def test_with_whole_words_in_the_place_of_bytes_it_does_not_come_out(monkeypatch):
    def train(texts, size):
        known = [word for word, _ in words(texts).most_common(size - 1)]
        tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0} | {word: 1 + i for i, word in enumerate(known)}, "[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        return tokenizer

    monkeypatch.setattr(vocabulary, "train_byte_bpe", train)
    figures = LAB.measure(0, SMALL, Progress())
    broken = {threshold.figure for threshold in LAB.thresholds if not threshold.met([figures])}
    assert broken == {"bpe_lost"}
    assert LAB.verdict([figures]) is Verdict.OPEN
