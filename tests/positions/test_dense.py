"""A bias given as a tensor."""

import torch
from tiles import tile

import qkv
from qkv.core.types import Grid


def test_dense_bias_spreads_and_picks() -> None:
    column = qkv.dense_bias(torch.tensor([[1.0], [2.0]]))
    assert tile(column, 2, 3, 1).tolist() == [[1, 1, 1], [2, 2, 2]]
    grid = Grid((), 1, 2, 3)
    whole = qkv.dense_bias(torch.arange(6.0).view(2, 3))
    assert whole.tile(torch.tensor([1]), torch.tensor([2, 0]), grid).tolist() == [[5, 3]]
    assert repr(whole) == "dense_bias([2, 3])"
