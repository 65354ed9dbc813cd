"""Sequences in one row, and the batches made of them."""

import pytest
import torch
from torch.utils.data import DataLoader

from qkv import errors
from qkv.text.batching import Buckets, Masked, NextToken, Pairs, Pictures, Sequences, generator


def packed(*rows):
    return Sequences.of(torch.tensor(row, dtype=torch.long) for row in rows)


def test_sequences_stand_one_after_another():
    sequences = packed([5, 6, 7], [], [8], [9, 4])
    assert sequences.tokens.tolist() == [5, 6, 7, 8, 9, 4]
    assert sequences.lengths.tolist() == [3, 0, 1, 2]
    assert sequences.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert sequences.rows.tolist() == [0, 0, 0, 2, 3, 3]
    assert (len(sequences), sequences.longest, sequences[3].tolist()) == (4, 3, [9, 4])
    assert [row.tolist() for row in sequences] == [[5, 6, 7], [], [8], [9, 4]]


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


def test_random_numbers_follow_from_the_seed_and_the_place():
    def first(*place):
        return torch.rand(1, generator=generator(*place)).item()

    assert first(3, 1) == first(3, 1)
    assert len({first(3, 1), first(1, 3), first(31), first(3), first(3, 1, 0), first(-3, 1)}) == 6


LENGTHS = torch.randint(1, 200, (1000,), generator=generator(0))


@pytest.mark.parametrize("sequences", [None, 7])
def test_an_epoch_holds_each_sequence_once_within_the_budget(sequences):
    buckets = Buckets(LENGTHS, tokens=400, sequences=sequences, seed=5)
    for epoch in range(2):
        batches = [buckets[epoch * len(buckets) + step] for step in range(len(buckets))]
        assert sorted(torch.cat(batches).tolist()) == list(range(1000))
        for batch in batches:
            assert len(batch) * LENGTHS[batch].max() <= 400
            assert sequences is None or len(batch) <= sequences
    # Few batches lie across two buckets.
    alike = [LENGTHS[batch].max() <= 1.1 * LENGTHS[batch].min() for batch in batches]
    assert sum(alike) > 0.9 * len(batches)


def test_a_budget_is_used():
    buckets = Buckets(LENGTHS, tokens=4000)
    assert LENGTHS.sum() / (4000 * len(buckets)) > 0.85


def test_any_step_is_the_same_whatever_came_before():
    one, other = Buckets(LENGTHS, tokens=400, seed=5), Buckets(LENGTHS, tokens=400, seed=5)
    steps = [0, 3 * len(one) + 4, 7, 3 * len(one) + 4, 0]
    assert [one[step].tolist() for step in steps] == [other[step].tolist() for step in steps[::-1]][::-1]
    assert one[0].tolist() != one[len(one)].tolist()
    assert one[0].tolist() != Buckets(LENGTHS, tokens=400, seed=6)[0].tolist()


def test_one_sequence_is_one_batch():
    buckets = Buckets(torch.tensor([5]), tokens=5)
    assert len(buckets) == 1 and buckets[0].tolist() == buckets[9].tolist() == [0]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(workers):
    buckets = Buckets(LENGTHS, tokens=400, seed=5)
    loader = DataLoader(buckets, batch_size=None, sampler=range(3, 3 + len(buckets)), num_workers=workers)
    assert [batch.tolist() for batch in loader] == [buckets[step].tolist() for step in range(3, 3 + len(buckets))]


@pytest.mark.parametrize(
    "lengths, options, message",
    [
        ([], {"tokens": 5}, "lengths must hold a sequence; got none"),
        ([3, 0], {"tokens": 5}, "lengths must be >= 1; got 0 (sequence 1)"),
        (
            [3, 6],
            {"tokens": 5},
            "lengths must be at most tokens = 5; got 6 (sequence 1 fits no batch: cut it",
        ),
        ([3], {"tokens": 0}, "tokens must be >= 1; got 0"),
        ([3], {"tokens": 5, "sequences": 0}, "sequences must be >= 1; got 0"),
    ],
)
def test_what_buckets_refuse(lengths, options, message):
    with pytest.raises(errors.ArgumentError) as raised:
        Buckets(torch.tensor(lengths, dtype=torch.long), **options)
    assert str(raised.value).startswith(f"Buckets: {message}")
