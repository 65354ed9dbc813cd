"""A mask cut into pieces covers every pair that may meet once, and joins what is alike."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import grids, trees, whole

from qkv.backends.pieces import Pieces, plan_pieces
from qkv.core.types import Grid
from qkv.masks.causal import causal
from qkv.masks.documents import documents
from qkv.masks.padding import padding
from qkv.masks.prefix import prefix
from qkv.masks.window import window


def spelled(plan: Pieces, grid: Grid) -> torch.Tensor:
    """Count how often each pair meets in the pieces: [batch, heads, queries, keys]."""
    seen = torch.zeros(torch.Size(grid.batch).numel(), grid.heads, grid.queries, grid.keys, dtype=torch.long)
    for piece in plan.pieces:
        batch, head = (slice(None) if at is None else slice(at, at + 1) for at in piece.lane)
        open_ = 1 if piece.tile is None else (piece.tile == 0).long()
        for block in range(piece.blocks):
            rows = slice(piece.row + block * piece.rows, piece.row + (block + 1) * piece.rows)
            keys = slice(piece.key + block * piece.step, piece.key + block * piece.step + piece.keys)
            assert rows.stop <= grid.queries and keys.stop <= grid.keys
            seen[batch, head, rows, keys] += open_
    return seen


@given(st.data())
def test_every_pair_that_may_meet_meets_once(data):
    grid = data.draw(grids())
    mask = data.draw(trees(grid))
    plan = plan_pieces(mask, grid, data.draw(st.sampled_from([1, 2, 3, 4, 16])))
    dense = whole(mask, grid).reshape(torch.Size(grid.batch).numel(), grid.heads, grid.queries, grid.keys)
    assert torch.equal(spelled(plan, grid), dense.long())
    assert torch.equal(plan.sees.expand(dense.shape[:-1]), dense.any(-1))
    assert torch.equal(plan.shown.expand(*dense.shape[:2], -1), dense.any(-2))
    met = torch.zeros(dense.shape[0], grid.heads, grid.queries, dtype=torch.bool)
    for piece in plan.pieces:
        batch, head = (slice(None) if at is None else slice(at, at + 1) for at in piece.lane)
        rows = slice(piece.row, piece.row + piece.rows * piece.blocks)
        assert not (piece.first and met[batch, head, rows].any()), "a first piece meets rows met before"
        assert piece.first or met[batch, head, rows].all(), "a later piece meets rows not met before"
        met[batch, head, rows] = True


def test_the_blocks_of_a_window_are_one_call():
    grid = Grid((1,), 8, 4096, 4096)
    plan = plan_pieces(window(257), grid, 64)
    assert max(piece.blocks for piece in plan.pieces) == 60
    assert len(plan.pieces) <= 5
    assert plan.pairs < 0.08 * 8 * 4096 * 4096
    assert plan_pieces(window(257), grid, 64) is plan


def test_padding_is_one_piece_a_row_without_a_tile():
    lengths = torch.tensor([3, 0, 10])
    grid = Grid((3,), 2, 10, 10)
    plan = plan_pieces(padding(keys=lengths, queries=lengths), grid, 4)
    assert [(piece.lane, piece.rows, piece.keys, piece.tile) for piece in plan.pieces] == [
        ((0, None), 3, 3, None),
        ((2, None), 10, 10, None),
    ]
    assert plan.pairs == 2 * (9 + 100) and not plan.fill


def test_documents_are_not_straddled():
    plan = plan_pieces(documents(torch.tensor([100, 60, 40])) & causal(), Grid((), 1, 200, 200), 64)
    assert plan.pairs < 100 * 100 + 60 * 60 + 40 * 40
    assert all(piece.rows <= 64 for piece in plan.pieces)


def test_what_every_row_sees_needs_no_tile():
    plan = plan_pieces(causal() & ~window(100) | prefix(3), Grid((), 1, 2048, 2048), 128)
    assert any(piece.tile is None and piece.keys >= 512 for piece in plan.pieces)


@pytest.mark.parametrize(("queries", "keys"), [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_degenerate_grids(queries, keys):
    for mask in (causal(), window(2) | prefix(1)):
        plan = plan_pieces(mask, Grid((2,), 3, queries, keys), 4)
        assert plan.pairs == 6 * queries * keys
