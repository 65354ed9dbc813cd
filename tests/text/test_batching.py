"""Sequences in one row, and the batches made of them."""

import pytest
import torch

from qkv import errors
from qkv.text.batching import Masked, NextToken, Pairs, Pictures, Sequences


def packed(*rows):
    return Sequences.of(torch.tensor(row, dtype=torch.long) for row in rows)


def test_sequences_stand_one_after_another():
    sequences = packed([5, 6, 7], [], [8], [9, 4])
    assert sequences.tokens.tolist() == [5, 6, 7, 8, 9, 4]
    assert sequences.lengths.tolist() == [3, 0, 1, 2]
    assert sequences.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert sequences.rows.tolist() == [0, 0, 0, 2, 3, 3]
    assert (len(sequences), sequences.longest) == (4, 3)
    assert [row.tolist() for row in sequences.split()] == [[5, 6, 7], [], [8], [9, 4]]


def test_rows_are_filled_up_when_a_model_wants_them():
    sequences = packed([5, 6, 7], [], [8])
    rows, lengths = sequences.padded(fill=1)
    assert rows.tolist() == [[5, 6, 7], [1, 1, 1], [8, 1, 1]]
    assert lengths.tolist() == [3, 0, 1]
    assert sequences.spread(torch.tensor([1, 2, 3, 4]), fill=-1).tolist() == [[1, 2, 3], [-1, -1, -1], [4, -1, -1]]


def test_nothing_is_a_batch_too():
    sequences = packed()
    assert sequences.positions.tolist() == [] and sequences.padded()[0].shape == (0, 0)


def test_lengths_must_sum_to_the_tokens():
    with pytest.raises(errors.ShapeError) as raised:
        Sequences(torch.tensor([1, 2, 3]), torch.tensor([1, 1]))
    assert str(raised.value) == "Sequences: lengths must sum to the 3 tokens; got 2"


def test_batches_move_with_what_was_counted():
    sequences, targets = packed([5, 6, 7], [8]), torch.tensor([6, 7, -1, -1])
    batches = [
        Masked(sequences, None, torch.tensor([1, 3]), torch.tensor([9, 9])),
        NextToken(sequences, targets),
        Pairs(packed([1], [2, 3]), sequences, targets),
        Pictures(torch.zeros(2, 1, 8, 8), sequences, targets),
    ]
    for batch in batches:
        # No number can be read from the device "meta", as none may be from a GPU.
        moved = batch.to("meta")
        assert type(moved) is type(batch) and moved.count == batch.count == 2
        assert moved.targets.device.type == "meta"
    assert batches[1].to("meta").sequences.padded()[0].shape == (2, 3)
    assert batches[1].to("meta").sequences.positions.device.type == "meta"
    assert batches[3].to("meta").images.device.type == "meta"
