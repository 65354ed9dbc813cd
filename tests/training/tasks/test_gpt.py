"""The GPT task: what its loss is, and positions by name."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from qkv.errors import ArgumentError
from qkv.text.tokenizer import characters
from qkv.text.tokens import token_file
from qkv.training.recipe import Recipe
from qkv.training.tasks.gpt import POSITIONS, GptTask

RECIPE = Recipe(width=16, layers=1, heads=2, steps=1, rate=1e-2, tokens=64, positions=16, dropout=0.0)


@pytest.fixture
def task(tmp_path):
    def make(kind="learned", positions=RECIPE.positions):
        texts = ["abcabcabcabc", "cba" * 9, "ab"]
        tokenizer = characters(texts)
        file = token_file(tmp_path / "texts.tokens", texts, tokenizer, identity="x", progress=False)
        torch.manual_seed(0)
        return GptTask(replace(RECIPE, positions=positions), tokenizer, file, file, position_kind=kind)

    return make


@pytest.mark.parametrize("kind", POSITIONS)
def test_packed_documents_keep_to_themselves(task, kind):
    made = task(kind)
    made.model.eval()
    batch = made.batches[0]
    total, count = made.loss(batch)
    losses, place = [], 0
    for tokens in batch.sequences.split():
        targets = batch.targets[place : place + len(tokens)]
        place += len(tokens)
        logits = made.model.predict_tokens(made.model(tokens[None]))[0]
        losses.append(F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum"))
    assert count == int((batch.targets >= 0).sum()) and made.tokens(batch) == len(batch.sequences.tokens)
    torch.testing.assert_close(total, torch.stack(losses).sum(), rtol=1e-5, atol=1e-5)


def test_a_sample_goes_on_from_the_held_out_text(task):
    made = task()
    made.model.eval()
    begun, _, more = made.sample().partition(" ▸ ")
    assert begun == "abcabcab" and set(more) <= set("abc[UNK]") and more


def test_few_positions_leave_room_for_a_sample(task):
    for positions in (2, 3, 8, 9):
        made = task(positions=positions)
        made.model.eval()
        begun, _, more = made.sample().partition(" ▸ ")
        assert begun and more
    with pytest.raises(ArgumentError, match=r"^train gpt: positions must be >= 2; got 1"):
        task(positions=1)
