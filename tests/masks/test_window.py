"""Sliding windows: what the width counts, both sides, steps, and bad numbers."""

import pytest
import torch

from qkv.core.types import Grid
from qkv.errors import ArgumentError, KindError, ShapeError
from qkv.masks.window import window


def test_the_width_counts_the_query_itself() -> None:
    assert window(2).picture(3, 4).split("\n") == ["■ ■ · ·", "· ■ ■ ·", "· · ■ ■"]
    assert window(1).picture(2, 2).split("\n") == ["■ ·", "· ■"]
    assert window(4) == window(before=3, after=0) == window(before=3)


def test_both_sides() -> None:
    assert window(before=1, after=2).picture(4, 4).split("\n") == ["■ ■ ■ ·", "■ ■ ■ ■", "· ■ ■ ■", "· · ■ ■"]
    assert window(after=1).picture(2, 3).split("\n") == ["· ■ ■", "· · ■"]
    assert window(before=0) == window(1)


def test_a_dilation_counts_steps() -> None:
    assert window(4, dilation=2).picture(1, 8) == "· ■ · ■ · ■ · ■"
    assert window(before=1, after=1, dilation=3).picture(2, 8, batch=()).split("\n") == [
        "· · · ■ · · ■ ·",
        "· · · · ■ · · ■",
    ]
    assert window(1, dilation=5) == window(1)


def test_more_queries_than_keys_see_nothing_before_the_first_key() -> None:
    assert window(2).picture(4, 2).split("\n") == ["· ·", "· ·", "■ ·", "■ ■"]


def test_an_offset_places_the_first_query() -> None:
    assert window(2, offset=0).picture(2, 4).split("\n") == ["■ · · ·", "■ ■ · ·"]
    each = window(1, offset=torch.tensor([0, 3])).dense(1, 4, batch=(2,))
    assert each.tolist() == [[[[True, False, False, False]]], [[[False, False, False, True]]]]


def test_runs_by_hand() -> None:
    some, every = window(3).runs(2, Grid((), 1, 4, 6))
    assert (some.start.tolist(), some.stop.tolist()) == ([[0], [2]], [[4], [6]])
    assert (every.start.tolist(), every.stop.tolist()) == ([[1], [3]], [[3], [5]])


def test_a_wide_dilation_leaves_out_what_lies_between_the_steps() -> None:
    some, every = window(3, dilation=100).runs(10, Grid((), 1, 10, 400))
    assert (some.start.tolist(), some.stop.tolist()) == ([[190, 290, 390]], [[200, 300, 400]])
    assert every.count().tolist() == [0]
    far, _ = window(80, dilation=100).runs(10, Grid((), 1, 10, 400))
    assert (far.start.tolist(), far.stop.tolist()) == ([[0]], [[400]])


def test_it_reads_as_its_call() -> None:
    assert repr(window(before=3)) == "window(4)"
    assert repr(window(before=1, after=2)) == "window(before=1, after=2)"
    assert repr(window(4, dilation=2, offset=1)) == "window(4, dilation=2, offset=1)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 0}, "window: width must be >= 1; got 0 (width counts the query itself)"),
        ({"before": -1}, "window: before must be >= 0; got -1 (keys before the query's own)"),
        ({"after": -2}, "window: after must be >= 0; got -2 (keys after the query's own)"),
        ({"width": 2, "dilation": 0}, "window: dilation must be >= 1; got 0 (1 leaves no gaps)"),
        ({}, "window: width must be given, or before and after; got None (window(4), window(before=3))"),
        (
            {"width": 4, "after": 1},
            "window: width must be given alone, without before and after; got 4 "
            "(window(4) is window(before=3, after=0))",
        ),
        ({"before": 100, "after": (1 << 63) - 1}, "window: after must be below 2^31; got 9223372036854775807"),
        ({"before": 1 << 62, "dilation": 2}, "window: before must be below 2^31; got 4611686018427387904"),
        ({"width": 2, "dilation": 1 << 31}, "window: dilation must be below 2^31; got 2147483648"),
        ({"width": 1 << 70}, "window: width must be below 2^31; got 1180591620717411303424"),
        ({"width": 2, "offset": 1 << 31}, "window: offset must lie between -2^31 and 2^31; got 2147483648"),
    ],
)
def test_bad_numbers_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ArgumentError) as error:
        window(**given)
    assert str(error.value) == message


@pytest.mark.parametrize("dilation", [1, 2])
def test_an_offset_for_another_batch_is_refused(dilation: int) -> None:
    with pytest.raises(ShapeError) as error:
        window(2, dilation=dilation, offset=torch.tensor([1, 2])).dense(2, 2)
    fix = (
        "(query and key have the batch []: [*batch, heads, positions, dim]; to draw a mask: picture(2, 2, batch=(2,)))"
    )
    assert str(error.value) == f"window: offset must have the shape [*batch]; got [2] {fix}"


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": "4"}, "window: width must be an integer; got str (width counts the query itself)"),
        ({"before": 1.0}, "window: before must be an integer; got float (keys before the query's own)"),
        ({"after": False}, "window: after must be an integer; got bool (keys after the query's own)"),
        ({"width": 2, "dilation": 2.0}, "window: dilation must be an integer; got float (1 leaves no gaps)"),
        ({"width": 2, "offset": "0"}, "window: offset must be an integer or a tensor of integers; got str"),
    ],
)
def test_other_kinds_are_refused(given: dict, message: str) -> None:
    with pytest.raises(KindError) as error:
        window(**given)
    assert str(error.value) == message


def test_the_largest_numbers_do_not_overflow() -> None:
    most = (1 << 31) - 1
    assert window(before=most, after=most).dense(3, 3).all()
    assert torch.equal(window(before=most, after=most, dilation=most).dense(3, 3), torch.eye(3, dtype=torch.bool))
    for offset in (torch.tensor((1 << 63) - 1), torch.tensor(-(1 << 63))):
        for dilation in (1, most):
            mask, grid = window(before=most, after=most, dilation=dilation, offset=offset), Grid((), 1, 3, 3)
            some, _ = mask.runs(2, grid)
            assert not mask.dense(3, 3).any() and (some.start >= some.stop).all()
