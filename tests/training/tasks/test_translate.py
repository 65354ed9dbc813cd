"""The translation task: the models that the command line names, and that attention, soft or hard, learns to copy."""

import pytest
import torch
from torch import nn

from qkv.errors import ArgumentError
from qkv.models.recurrent import InputFed, LookThenStep, Recurrent, StepThenLook
from qkv.models.transformer import Transformer
from qkv.text.tokenizer import characters
from qkv.text.tokens import token_file
from qkv.training.recipe import Recipe
from qkv.training.tasks.translate import ATTENTIONS, PRESETS, TranslateTask, translator

RECIPE = Recipe(width=32, layers=1, heads=2, steps=1, rate=1e-2, tokens=256, positions=16, dropout=0.0)


def copying(folder, recipe=RECIPE, special=("[UNK]", "<s>", "</s>"), **choices):
    """A task of copying three letters; the last rows are held out."""
    letters = torch.randint(6, (120, 3), generator=torch.Generator().manual_seed(0)).tolist()
    rows = ["".join("abcdef"[letter] for letter in row) for row in letters]
    tokenizer = characters(rows, special=special)
    files = [
        token_file(folder / f"{name}.tokens", some, tokenizer, identity=name, progress=False)
        for name, some in (("training", rows[:100]), ("held_out", rows[100:]))
    ]
    torch.manual_seed(0)
    return TranslateTask(recipe, tokenizer, *((file, file) for file in files), **choices)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_a_recurrent_translator_by_its_name(name):
    made = translator(PRESETS["quick"], 20, name, "lstm")
    assert isinstance(made, Recurrent) and isinstance(made.encoder.cell, nn.LSTM)
    decoders = {"input-feeding": InputFed, "none": LookThenStep, "additive": LookThenStep, "coverage": LookThenStep}
    assert type(made.decoder) is decoders.get(name, StepThenLook)
    assert made.decoder.attention.fixed == (name == "none")


def test_without_a_name_it_is_a_transformer():
    assert isinstance(translator(PRESETS["quick"], 20, None), Transformer)


@pytest.mark.slow
@pytest.mark.unhooked
@pytest.mark.parametrize("attention", ["additive", "hard"])
def test_it_learns(tmp_path, attention):
    task = copying(tmp_path, attention=attention)
    optimizer = torch.optim.Adam(task.model.parameters(), 1e-2)
    for step in range(150):
        parts, count = task.loss(task.batches[step])
        assert parts.keys() == ({"loss", "attention_loss"} if attention == "hard" else {"loss"})
        optimizer.zero_grad()
        (sum(parts.values()) / count).backward()
        nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        optimizer.step()
    task.model.eval()
    right, _, rest = task.sample().partition(" of 20 as they should be: ")
    assert int(right) >= 18, rest
    shown = [pair.split(" → ") for pair in rest.split("; ")]
    assert len(shown) == 2 and sum(source == said for source, said in shown) >= 1


def test_a_tokenizer_without_a_start_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"^TranslateTask: tokenizer must have the tokens <s> and </s>; got none$"):
        copying(tmp_path, special=("[UNK]",))
