"""Masks combined: their meaning, their runs, equality and how they read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Case, assert_sound, grids, leaves, trees, whole

from qkv.core.card import Card
from qkv.core.types import Grid
from qkv.errors import KindError
from qkv.masks import blocks as blocks_file
from qkv.masks import causal as causal_file
from qkv.masks import dense as dense_file
from qkv.masks import documents as documents_file
from qkv.masks import padding as padding_file
from qkv.masks import prefix as prefix_file
from qkv.masks import window as window_file
from qkv.masks.algebra import MANY, IntervalMask, Mask
from qkv.masks.blocks import bigbird
from qkv.masks.causal import causal
from qkv.masks.dense import dense_mask
from qkv.masks.documents import documents
from qkv.masks.padding import padding
from qkv.masks.prefix import prefix
from qkv.masks.window import window

# beartype picks at random which items of a tuple it looks at; no example depends on that.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

CORNER = torch.eye(3, dtype=torch.bool)
FILES = (blocks_file, causal_file, dense_file, documents_file, padding_file, prefix_file, window_file)


@settings(max_examples=300)
@given(st.data())
def test_a_mask_means_what_it_says_and_its_runs_are_sound(data: st.DataObject) -> None:
    grid = data.draw(grids())
    assert_sound(data.draw(leaves(grid)), data.draw(st.integers(1, 6)), grid)


@settings(max_examples=300)
@given(st.data())
def test_a_tree_of_masks_has_sound_runs(data: st.DataObject) -> None:
    grid = data.draw(grids())
    assert_sound(Case(data.draw(trees(grid))), data.draw(st.integers(1, 6)), grid)


@settings(max_examples=100)
@given(st.data())
def test_operators_act_on_pairs(data: st.DataObject) -> None:
    grid = data.draw(grids())
    left, right = data.draw(trees(grid, depth=1)), data.draw(trees(grid, depth=1))
    assert torch.equal(whole(left & right, grid), whole(left, grid) & whole(right, grid))
    assert torch.equal(whole(left | right, grid), whole(left, grid) | whole(right, grid))
    assert torch.equal(whole(~left, grid), ~whole(left, grid))


@settings(max_examples=100)
@given(st.data())
def test_masks_answer_on_the_meta_device(data: st.DataObject) -> None:
    grid = data.draw(grids())
    mask, block = data.draw(trees(grid)), data.draw(st.integers(1, 6))
    there = Grid(grid.batch, grid.heads, grid.queries, grid.keys, torch.device("meta"))
    here = mask.tile(grid.rows(), grid.columns(), grid)
    tile = mask.tile(there.rows(), there.columns(), there)
    assert tile.device.type == "meta" and tile.shape == here.shape
    for planned, real in zip(mask.runs(block, there), mask.runs(block, grid), strict=True):
        assert planned.start.device.type == "meta" and planned.start.shape == real.start.shape


@pytest.mark.parametrize("card", [card for file in FILES for card in file.CARDS], ids=lambda card: card.name)
def test_every_card_builds_a_mask_that_hides_some_pairs_only(card: Card) -> None:
    grid = Grid((2,), 2, 5, 7)
    mask = card.build()
    assert_sound(Case(mask), 2, grid)
    assert 0 < whole(mask, grid).float().mean() < 1


def test_two_interval_masks_meet_in_one_exactly() -> None:
    mask = causal() & window(before=2, after=3) & padding(keys=torch.tensor([4, 7]))
    assert isinstance(mask, IntervalMask)
    some, every = mask.runs(2, Grid((2,), 1, 6, 7))
    assert some.start.tolist() == [[[[0], [1], [3]]], [[[0], [1], [3]]]]
    assert some.stop.tolist() == [[[[3], [4], [4]]], [[[3], [5], [7]]]]
    assert every.start.tolist() == [[[[0], [2], [7]]], [[[0], [2], [4]]]]
    assert every.stop.tolist() == [[[[2], [4], [7]]], [[[2], [4], [6]]]]


def test_masks_of_numbers_are_equal_when_their_numbers_are() -> None:
    pairs = [
        (causal(), causal()),
        (causal() & window(4), causal() & window(before=3)),
        (~prefix(2) | bigbird(4), ~prefix(2) | bigbird(4, seed=0)),
    ]
    for left, right in pairs:
        assert left.is_value and left == right and hash(left) == hash(right)
    assert causal() != causal(offset=0)
    assert window(4) != window(4, dilation=2)
    assert causal() & prefix(1) != causal() | prefix(1)
    assert causal() != "causal()"


@pytest.mark.parametrize(
    "build",
    [
        lambda: causal(offset=torch.tensor([1, 2])),
        lambda: window(2, offset=torch.tensor([1, 2])),
        lambda: prefix(torch.tensor([1, 2])),
        lambda: padding(keys=torch.tensor([1, 2])),
        lambda: padding(keys=CORNER, queries=CORNER),
        lambda: documents(torch.tensor([1, 2])),
        lambda: dense_mask(CORNER),
        lambda: ~(causal() & dense_mask(CORNER)),
    ],
)
def test_a_mask_that_holds_a_tensor_equals_itself_alone(build) -> None:
    mask = build()
    assert not mask.is_value
    assert mask == mask and hash(mask) == hash(mask)
    assert mask != build()


def test_a_mask_reads_as_the_call_that_made_it() -> None:
    mask: Mask = causal() & (window(256) | ~prefix(4)) & padding(keys=torch.tensor([3, 4]))
    assert repr(mask) == "((causal() & (window(256) | ~prefix(4))) & padding(keys=int64[2]))"


def test_a_picture_shows_the_first_batch_row_and_head() -> None:
    assert causal().picture(2, 3) == "■ ■ ·\n■ ■ ■"
    assert padding(keys=torch.tensor([1, 2])).picture(2, 3, batch=(2,)) == "■ · ·\n■ · ·"
    assert causal().picture(0, 3) == ""


def test_a_tree_checks_both_sides() -> None:
    for mask in (prefix(torch.tensor([1])) & causal(), causal() | ~prefix(torch.tensor([1]))):
        with pytest.raises(ValueError, match=r"^prefix: length must have the shape \[\*batch\]; got \[1\] "):
            mask.dense(3, 3, batch=(2,))


@pytest.mark.parametrize(("operator", "combine"), [("&", lambda a, b: a & b), ("|", lambda a, b: a | b)])
def test_only_masks_combine(operator: str, combine) -> None:
    with pytest.raises(KindError) as error:
        combine(causal(), CORNER)
    fix = "(wrap a boolean tensor: qkv.dense_mask(tensor))"
    assert str(error.value) == f"{operator}: the other side must be a mask; got Tensor {fix}"


@pytest.mark.parametrize(("operator", "combine"), [("&", lambda a, b: a & b), ("|", lambda a, b: a | b)])
def test_a_tensor_before_a_mask_is_told_the_same(operator: str, combine) -> None:
    with pytest.raises(KindError) as error:
        combine(CORNER, causal())
    fix = "(wrap a boolean tensor: qkv.dense_mask(tensor))"
    assert str(error.value) == f"{operator}: the other side must be a mask; got Tensor {fix}"


def test_a_large_tile_is_what_small_ones_are() -> None:
    for mask in (causal(), window(before=30, after=9), causal(offset=torch.tensor([-400, 5])) & prefix(200)):
        large = mask.dense(300, 290, batch=(2,))
        grid = Grid((2,), 1, 300, 290)
        small = [mask.tile(rows, grid.columns(), grid) for rows in grid.rows().split(50)]
        assert 300 * 290 >= MANY > 50 * 290 and torch.equal(large, torch.cat(small, -2))


def test_a_mask_and_itself_is_itself() -> None:
    for mask in (causal(), window(2, dilation=2), causal() | prefix(2)):
        assert (mask & mask) is mask and (mask | mask) is mask
