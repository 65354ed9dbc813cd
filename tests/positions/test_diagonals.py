"""Diagonals: a bias of the distance alone, and dense ones told by it."""

import pytest
import torch

import qkv
from qkv.core.types import Grid
from qkv.errors import ShapeError
from qkv.positions.diagonals import Diagonals, diagonals_of


def test_each_pair_gets_the_number_of_its_distance():
    bias, grid = Diagonals(torch.tensor([-2.0, -1, 0, 1]), 2), Grid((), 1, 3, 2)
    bias.check(grid)
    assert bias.tile(grid.rows(), grid.columns(), grid).tolist() == [[0, 1], [-1, 0], [-2, -1]]


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (1, 7), (3, 8), (8, 3)])
def test_relative_positions_spelled_out_are_told_by_them(queries, keys):
    bias, grid = qkv.T5Relative(heads=3), Grid((2,), 3, queries, keys)
    dense = bias.tile(grid.rows(), grid.columns(), grid)
    told = diagonals_of(dense)
    assert told.table.shape == (3, queries + keys - 1)
    told.check(grid)
    assert torch.equal(told.tile(grid.rows(), grid.columns(), grid), dense)
    query, key = torch.randn(2, 3, queries, 4), torch.randn(2, 3, keys, 4)
    torch.testing.assert_close(
        qkv.attend(query, key, key, bias=told), qkv.attend(query, key, key, bias=dense), rtol=0, atol=1e-5
    )


def test_others_are_not():
    assert diagonals_of(torch.tensor([[0.0, 1], [1, 0]])) is not None
    assert diagonals_of(torch.tensor([[0.0, 1], [1, 2]])) is None
    assert diagonals_of(torch.zeros(2, 0, 3)) is None


@pytest.mark.parametrize("above", [1, 3])
def test_a_table_that_is_too_short_is_refused(above):
    text = r"^diagonals: table must have a number for each distance of 3 × 2 pairs, and each head; got \[4\]$"
    with pytest.raises(ShapeError, match=text):
        Diagonals(torch.zeros(4), above).check(Grid((), 1, 3, 2))
