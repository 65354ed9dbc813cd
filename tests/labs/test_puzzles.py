"""Puzzles by hand, and what a model answered of them."""

import torch

import qkv
from qkv.labs.puzzles import START, answered, copying, draw_symbols, reversal
from qkv.text.batching import Sequences

ROWS = torch.tensor([[3, 1, 2], [2, 2, 1]])


def test_copying_and_reversal():
    same, back = copying(ROWS), reversal(ROWS)
    assert same.source.tokens.tolist() == back.source.tokens.tolist() == [3, 1, 2, 2, 2, 1]
    assert same.targets.tolist() == [3, 1, 2, 2, 2, 1] and same.target.tokens.tolist() == [START, 3, 1, START, 2, 2]
    assert back.targets.tolist() == [2, 1, 3, 1, 2, 2] and back.target.tokens.tolist() == [START, 2, 1, START, 1, 2]
    assert same.source.lengths.tolist() == same.target.lengths.tolist() == [3, 3]


def test_symbols_never_start_an_answer():
    drawn = draw_symbols(200, 5, 4, torch.Generator().manual_seed(0))
    assert drawn.shape == (200, 5) and set(drawn.unique().tolist()) == {1, 2, 3, 4} and START not in drawn


def test_what_a_model_answered():
    torch.manual_seed(0)
    model = qkv.Recurrent(qkv.RecurrentConfig(vocabulary=4, width=4)).eval()
    pairs = reversal(ROWS)
    right = answered(model, pairs)
    read = qkv.translate(model, Sequences.of(ROWS), start=START, stop=START, beams=1, new=3)
    assert right.shape == (2, 3)
    for row, symbols, answer in zip(right, read, ROWS.flip(1), strict=True):
        assert bool(row.all()) == (symbols.tolist() == answer.tolist())
    with torch.no_grad():
        model.bias[2] = 100
    assert answered(model, pairs).tolist() == [[1, 0, 0], [0, 1, 1]]
