"""The BERT task: what its loss is, its objectives, and its sample."""

import pytest
import torch
from torch.nn import functional as F

from qkv.errors import ArgumentError
from qkv.text.tokenizer import characters, train_wordpiece
from qkv.text.tokens import token_file
from qkv.training.recipe import Recipe
from qkv.training.tasks.bert import OBJECTIVES, BertTask

RECIPE = Recipe(width=16, layers=1, heads=2, steps=1, rate=1e-2, tokens=64, positions=32, dropout=0.0)
TEXTS = ["the cat chased the mouse into its hole", "a mouse is a cat to a flea, the cat knows"] * 6


@pytest.fixture
def task(tmp_path):
    def make(**choices):
        tokenizer = train_wordpiece(TEXTS, 60)
        file = token_file(tmp_path / "texts.tokens", TEXTS, tokenizer, identity="x", progress=False)
        torch.manual_seed(0)
        return BertTask(RECIPE, tokenizer, file, file, **choices)

    return make


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_is_that_of_the_hidden_tokens(task, objective):
    made = task(objective=objective)
    made.model.eval()
    batch = made.batches[0]
    total, count = made.loss(batch)
    logits = torch.cat([made.model.predict_tokens(made.model(text[None]))[0] for text in batch.sequences.split()])
    expected = F.cross_entropy(logits[batch.places], batch.targets, reduction="sum")
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
    assert count == len(batch.targets) > 0


def test_two_means_are_added_when_it_also_tells_what_follows(task):
    made = task(next_sentence=True)
    made.model.eval()
    batch = made.batches[0]
    total, count = made.loss(batch)
    texts = list(zip(batch.sequences.split(), batch.segments.split(batch.sequences.lengths.tolist()), strict=True))
    hidden = [made.model(text[None], segments[None])[0] for text, segments in texts]
    words = F.cross_entropy(made.model.predict_tokens(torch.cat(hidden))[batch.places], batch.targets)
    follows = torch.cat([made.model.predict_next(one[None]) for one in hidden])
    torch.testing.assert_close(total / count, words + F.cross_entropy(follows, batch.not_next), rtol=1e-5, atol=1e-5)


def test_the_sample_hides_a_word(task):
    made = task()
    made.model.eval()
    said = made.sample()
    assert said.count("[MASK]") >= 1 and " ▸ " in said and said.count("%") == 3 and "(it was " in said


def test_a_tokenizer_without_a_mask_is_refused(tmp_path):
    tokenizer = characters(TEXTS)
    file = token_file(tmp_path / "texts.tokens", TEXTS, tokenizer, identity="x", progress=False)
    with pytest.raises(ArgumentError, match=r"^BertTask: tokenizer must have the tokens \[PAD\].*; got no \[PAD\]"):
        BertTask(RECIPE, tokenizer, file, file)
