"""Block layouts and BigBird: what a block is, what heads draw, and bad input."""

import pytest
import torch
from oracle import Case, assert_sound
from torch import Tensor

from qkv.core.types import Grid
from qkv.errors import ArgumentError, KindError, ShapeError
from qkv.masks.blocks import bigbird, blocks

LAYOUT = torch.tensor([[True, False], [False, True]])


def grid_of(queries: int, keys: int, heads: int = 4) -> Grid:
    return Grid((), heads, queries, keys)


def test_blocks_are_counted_from_the_first_query_and_key() -> None:
    mask = blocks(LAYOUT, 2)
    assert mask.picture(3, 3).split("\n") == ["■ ■ ·", "■ ■ ·", "· · ■"]
    assert mask.picture(1, 4) == "■ ■ · ·"
    assert mask.dense(0, 2).shape == (0, 2) and mask.dense(2, 0).shape == (2, 0)


def test_a_layout_for_each_head() -> None:
    dense = blocks(torch.stack([LAYOUT, ~LAYOUT]), 1).dense(2, 2, batch=(3,), heads=2)
    assert dense.int().tolist() == [[[1, 0], [0, 1]], [[0, 1], [1, 0]]]


def test_runs_of_a_layout_by_hand() -> None:
    layout = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 1]], dtype=torch.bool)
    some, every = blocks(layout, 2).runs(3, grid_of(4, 7))
    assert (some.start.tolist(), some.stop.tolist()) == ([[0, 6], [2, 6]], [[4, 7], [4, 7]])
    assert (every.start.tolist(), every.stop.tolist()) == ([[2, 6], [2, 6]], [[4, 7], [4, 7]])


def test_a_tile_of_many_rows_equals_a_tile_of_few() -> None:
    mask, grid = blocks(LAYOUT, 3), grid_of(6, 6)
    many = mask.tile(grid.rows(), grid.columns(), grid)
    few = torch.cat([mask.tile(row[None], grid.columns(), grid) for row in grid.rows()], dim=-2)
    assert torch.equal(many, few)


def test_bigbird_without_chance_is_window_and_global_blocks() -> None:
    assert bigbird(1, window=3, global_blocks=1, random=0).picture(6, 6).split("\n") == [
        "■ ■ ■ ■ ■ ■",
        "■ ■ ■ · · ·",
        "■ ■ ■ ■ · ·",
        "■ · ■ ■ ■ ·",
        "■ · · ■ ■ ■",
        "■ · · · ■ ■",
    ]
    assert bigbird(2, window=1, global_blocks=0, random=0).picture(3, 5).split("\n") == [
        "· · ■ ■ ·",
        "· · ■ ■ ·",
        "· · · · ■",
    ]


def rows_of_blocks(seed: int = 0, heads: int = 4) -> Tensor:
    return bigbird(1, window=1, global_blocks=0, random=3, seed=seed).dense(32, 32, heads=heads)


def test_each_head_and_query_block_draws_its_random_blocks() -> None:
    drawn = rows_of_blocks()
    assert (drawn.sum(-1) == 4).all()
    assert drawn.diagonal(dim1=-2, dim2=-1).all()
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn, rows_of_blocks(seed=1))
    assert not torch.equal(drawn, rows_of_blocks(seed=1 << 33))
    assert torch.equal(drawn, rows_of_blocks()), "the same seed draws the same"
    assert torch.equal(drawn[:2], rows_of_blocks(heads=2)), "a head draws the same among fewer"


def test_random_blocks_are_drawn_evenly() -> None:
    seen = rows_of_blocks(heads=64).sum((0, 1)) - 64
    # 64 heads draw 3 of 31 blocks in 31 rows each: 192 expected, with a standard deviation of 13.
    assert seen.min() > 192 - 60 and seen.max() < 192 + 60


def test_more_random_blocks_than_there_are_show_everything() -> None:
    assert bigbird(2, random=9).dense(5, 5, heads=2).all()


@pytest.mark.parametrize(("block", "window"), [(1, 1), (6, 1), (5, 9), (64, 41)])
def test_runs_of_bigbird_hold_every_random_block(block: int, window: int) -> None:
    grid = grid_of(62, 64, heads=32)
    assert_sound(Case(bigbird(1, window=window, random=3), None, True, True), block, grid)
    assert_sound(Case(bigbird(2, window=window, random=3), None, True, True), block, grid)


def test_query_blocks_stand_at_the_last_keys() -> None:
    mask = bigbird(2, random=2)
    whole, last = mask.dense(16, 16, heads=2), mask.dense(5, 16, heads=2)
    assert torch.equal(whole[:, -5:], last)


def test_rows_before_the_first_key_are_not_global() -> None:
    assert bigbird(1, window=1, global_blocks=1, random=0).picture(4, 2).split("\n") == ["■ ·", "■ ·", "■ ■", "■ ■"]


def test_bigbird_is_a_value() -> None:
    assert bigbird(64) == bigbird(64, seed=0) and hash(bigbird(64)) == hash(bigbird(64, seed=0))
    assert bigbird(64) != bigbird(64, seed=1)
    assert bigbird(64).is_value


def test_they_read_as_their_calls() -> None:
    assert repr(blocks(LAYOUT, 2)) == "blocks(bool[2, 2], 2)"
    assert repr(bigbird(64, seed=3)) == "bigbird(64, window=3, global_blocks=1, random=3, seed=3)"


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (
            LAYOUT,
            "blocks: layout must cover 5 queries and 4 keys in blocks of 2; got [2, 2] (needs at least [3, 2])",
        ),
        (
            LAYOUT.new_ones(3, 3, 3),
            "blocks: layout must broadcast to [*batch, heads] = [3, 2] before its blocks; got [3, 3, 3]",
        ),
        (
            LAYOUT.new_ones(1, 3, 2, 3, 3),
            "blocks: layout must broadcast to [*batch, heads] = [3, 2] before its blocks; got [1, 3, 2, 3, 3]",
        ),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(layout: Tensor, message: str) -> None:
    with pytest.raises(ShapeError) as error:
        blocks(layout, 2).dense(5, 4, batch=(3,), heads=2)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"block": 0}, "bigbird: block must be >= 1; got 0 (positions in a block)"),
        ({"window": 0}, "bigbird: window must be >= 1; got 0 (blocks around the query's own, itself included)"),
        ({"window": 2}, "bigbird: window must be odd; got 2 (the query's own block stands in its middle)"),
        ({"global_blocks": -1}, "bigbird: global_blocks must be >= 0; got -1 (blocks that all see, and that see all)"),
        ({"random": -1}, "bigbird: random must be >= 0; got -1 (random blocks for each query block)"),
        ({"seed": -1}, "bigbird: seed must be >= 0; got -1 (below 2^62)"),
        ({"block": 1 << 70}, "bigbird: block must be below 2^31; got 1180591620717411303424"),
        ({"seed": 1 << 62}, "bigbird: seed must be below 2^62; got 4611686018427387904"),
    ],
)
def test_bad_numbers_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ArgumentError) as error:
        bigbird(**{"block": 4, **given})
    assert str(error.value) == message


def test_a_size_below_1_is_refused() -> None:
    with pytest.raises(ArgumentError) as error:
        blocks(LAYOUT, 0)
    assert str(error.value) == "blocks: size must be >= 1; got 0 (positions in a block)"


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (
            lambda: blocks([[True]], 2),
            KindError,
            "blocks: layout must be a boolean tensor; got list (True where a block may meet)",
        ),
        (
            lambda: blocks(LAYOUT.int(), 2),
            KindError,
            "blocks: layout must be boolean; got torch.int32 (layout > 0, True where a block may meet)",
        ),
        (
            lambda: blocks(LAYOUT[0], 2),
            ShapeError,
            "blocks: layout must have the shape [*lead, query blocks, key blocks]; got [2]",
        ),
        (lambda: blocks(LAYOUT, 2.0), KindError, "blocks: size must be an integer; got float (positions in a block)"),
        (lambda: bigbird("64"), KindError, "bigbird: block must be an integer; got str (positions in a block)"),
    ],
)
def test_other_kinds_are_refused(build, kind: type, message: str) -> None:
    with pytest.raises(kind) as error:
        build()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (
            torch.ones(2, 2, dtype=torch.bool, device="meta"),
            "blocks: layout must hold numbers, as the query on cpu does; got a meta tensor",
        ),
        (
            torch.ones(2, 2, dtype=torch.bool).to_sparse(),
            "blocks: layout must be a dense tensor; got torch.sparse_coo (.to_dense())",
        ),
    ],
)
def test_a_layout_that_cannot_be_read_is_refused(layout: Tensor, message: str) -> None:
    with pytest.raises(KindError) as error:
        blocks(layout, 2).dense(4, 4)
    assert str(error.value) == message
