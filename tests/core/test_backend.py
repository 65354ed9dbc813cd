"""What is counted: pairs, operations and bytes, by hand."""

import torch

import qkv


def test_costs_by_hand() -> None:
    query, key = torch.zeros(2, 4, 5, 8), torch.zeros(2, 4, 7, 8)
    told = qkv.explain(query, key, torch.zeros(2, 4, 7, 3), impl="reference")
    pairs = 2 * 4 * 5 * 7
    assert told.cost.pairs == told.pairs_possible == pairs
    # A score: 8 multiply-adds; softmax: 5; a value: 3 multiply-adds.
    assert told.cost.flops == pairs * (2 * 8 + 5 + 2 * 3)
    ends = 2 * 4 * (5 * 8 + 7 * 8 + 7 * 3 + 5 * 3)
    # Scores and weights, and what a dot product holds: three numbers a pair, written and read.
    assert told.cost.bytes == 4 * ends + 3 * 8 * pairs
