"""The lab on the embedding layer: a small run, and parameters as transformers counts them."""

from dataclasses import replace

import pytest
from checks import check_lab, same_again

from qkv.labs import vocabulary
from qkv.labs.lab import Progress, Verdict
from qkv.labs.vocabulary import LAB

SMALL = replace(LAB.quick, shares=(0.5, 1.0), texts=24, pieces=600)


@pytest.mark.slow
def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    same_again(LAB, SMALL, figures)
    assert LAB.verdict([figures]) is Verdict.HOLDS
    assert figures["transformer_base_to_published"] == pytest.approx(-0.030, abs=5e-4)
    assert figures["bert_large_to_published"] == pytest.approx(-0.014, abs=5e-4)
    assert figures["gpt2_small_to_published"] == pytest.approx(0.064, abs=5e-4)


def test_parameters_are_as_transformers_counts_them():
    transformers = pytest.importorskip("transformers")
    import torch

    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    with torch.device("meta"):
        theirs = [
            transformers.BertModel(transformers.BertConfig()),
            transformers.BertModel(transformers.BertConfig(**large)),
            transformers.GPT2Model(transformers.GPT2Config()),
        ]
    counted = [sum(part.numel() for part in model.parameters()) for model in theirs]
    assert counted == [vocabulary.BERT_BASE, vocabulary.BERT_LARGE, vocabulary.GPT2_SMALL]


@pytest.mark.slow
def test_a_tokenizer_that_loses_text_does_not_come_out(monkeypatch):
    monkeypatch.setattr(vocabulary, "train_byte_bpe", lambda texts, pieces: vocabulary.train_wordpiece(texts, pieces))
    assert LAB.verdict([LAB.measure(0, SMALL, Progress())]) is Verdict.OPEN
