"""Heads are measured by their weights."""

import math

import pytest
import torch

import qkv
from qkv.lens.heads import Head, habits, links, telling
from qkv.lens.reading import Reading, read


def reading_of(weights, special=None):
    """A reading of one layer whose weights are given."""
    heads, count, _ = weights.shape
    still = torch.zeros(1, heads, count, 1)
    seen = qkv.attention_map(still, still, bias=weights.log()[None])
    special = special or [False] * count
    return Reading(
        "t", [str(at) for at in range(count)], [(0, 1)] * count, special, [], [torch.zeros(count, 1)], [seen]
    )


def test_habits_of_heads_checked_by_hand():
    count = 4
    itself, before = torch.eye(count), torch.eye(count).roll(-1, 1)
    after, even = torch.eye(count).roll(1, 1), torch.full((count, count), 0.25)
    reading = reading_of(torch.stack([itself, before, after, even]), [True, False, False, True])
    on_itself, on_before, on_after, broad = habits(reading)
    assert (on_itself.diagonal, on_itself.previous, on_itself.entropy) == pytest.approx((1, 0, 0), abs=1e-6)
    assert (on_before.previous, on_before.diagonal) == pytest.approx((1, 0), abs=1e-6)
    assert (on_after.following, on_after.previous) == pytest.approx((1, 0), abs=1e-6)
    assert (broad.entropy, broad.first, broad.separator) == pytest.approx((math.log(4), 0.25, 0.25), abs=1e-6)
    assert (on_itself.first, on_itself.separator) == pytest.approx((0.25, 0.25), abs=1e-6)


def test_the_telling_heads_are_found(model, tokenizer):
    heads = habits(read(model, tokenizer, "the cat click the mouse ."))
    assert len(heads) == 4
    chosen = telling(heads)
    assert (chosen["most on the previous token"].layer, chosen["most on the previous token"].head) == (1, 1)
    assert chosen["sharpest"].entropy == min(head.entropy for head in heads)


def test_one_token_has_habits(model, tokenizer):
    weights = torch.ones(1, 1, 1)
    assert habits(reading_of(weights, [True])) == [Head(0, 0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0)]


@pytest.mark.parametrize(
    ("habit", "expected"),
    [
        ("sharpest", [(1, 2), (1, 1)]),
        ("most diagonal", [(1, 1), (3, 3)]),
        ("most on the previous token", [(3, 2), (1, 0)]),
        ("most on [SEP]", [(0, 3), (3, 3)]),
    ],
)
def test_links_are_those_of_the_habit(habit, expected):
    weights = torch.tensor([[[0, 0.3, 0.1, 0.6], [0.1, 0.2, 0.7, 0], [0.9, 0.1, 0, 0], [0.4, 0, 0.45, 0.15]]])
    reading = reading_of(weights, [True, False, False, True])
    found = links(reading, habits(reading)[0], habit, 2)
    assert [(query, key) for query, key, _ in found] == expected
    assert [weight for _, _, weight in found] == sorted((weight for _, _, weight in found), reverse=True)


def test_links_of_weight_0_are_none():
    reading = reading_of(torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), [True, False])
    assert links(reading, habits(reading)[0]) == []
