"""Padding: keys, queries or both, lengths or flags, either side, and bad input."""

import pytest
import torch
from torch import Tensor

from qkv.core.types import Grid
from qkv.errors import ArgumentError, KindError, ShapeError
from qkv.masks.padding import padding

LENGTHS = torch.tensor([2, 3])
KEEP = torch.tensor([[True, False, True], [True, True, False]])


def test_key_lengths_hide_the_last_keys_from_every_query() -> None:
    dense = padding(keys=LENGTHS).dense(2, 4, batch=(2,))
    assert dense.int().tolist() == [[[[1, 1, 0, 0], [1, 1, 0, 0]]], [[[1, 1, 1, 0], [1, 1, 1, 0]]]]


def test_left_padding_hides_the_first_keys() -> None:
    dense = padding(keys=LENGTHS, left=True).dense(1, 4, batch=(2,))
    assert dense.int().tolist() == [[[[0, 0, 1, 1]]], [[[0, 1, 1, 1]]]]


def test_padded_queries_see_nothing() -> None:
    right = padding(keys=LENGTHS, queries=torch.tensor([1, 2])).dense(2, 3, batch=(2,))
    assert right.int().tolist() == [[[[1, 1, 0], [0, 0, 0]]], [[[1, 1, 1], [1, 1, 1]]]]
    left = padding(queries=torch.tensor([1, 0]), left=True).dense(2, 2, batch=(2,))
    assert left.int().tolist() == [[[[0, 0], [1, 1]]], [[[0, 0], [0, 0]]]]


def test_flags_keep_keys_and_queries() -> None:
    keys = padding(keys=KEEP).dense(2, 3, batch=(2,))
    assert keys.int().tolist() == [[[[1, 0, 1], [1, 0, 1]]], [[[1, 1, 0], [1, 1, 0]]]]
    queries = padding(queries=KEEP).dense(3, 2, batch=(2,))
    assert queries.int().tolist() == [[[[1, 1], [0, 0], [1, 1]]], [[[1, 1], [1, 1], [0, 0]]]]
    assert padding(keys=KEEP[0], queries=KEEP[1]).picture(3, 3).split("\n") == ["■ · ■", "■ · ■", "· · ·"]


def test_flags_and_lengths_may_meet() -> None:
    mask = padding(keys=KEEP, queries=torch.tensor([1, 2]))
    assert mask.dense(2, 3, batch=(2,)).int().tolist() == [[[[1, 0, 1], [0, 0, 0]]], [[[1, 1, 0], [1, 1, 0]]]]


def test_runs_of_flags_reach_from_the_first_kept_key_to_the_last() -> None:
    keep = torch.tensor([[0, 1, 0, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    some, every = padding(keys=keep).runs(2, Grid((3,), 2, 2, 5))
    assert (some.start.flatten().tolist(), some.stop.flatten().tolist()) == ([1, 1, 5], [4, 4, 5])
    assert (every.start.flatten().tolist(), every.stop.flatten().tolist()) == ([5, 1, 5], [5, 4, 5])


@pytest.mark.parametrize("left", [False, True])
def test_no_keys_and_no_queries(left: bool) -> None:
    nothing = torch.tensor([0, 0])
    assert padding(keys=nothing, left=left).dense(2, 0, batch=(2,)).shape == (2, 1, 2, 0)
    assert padding(queries=nothing, left=left).dense(0, 3, batch=(2,)).shape == (2, 1, 0, 3)
    assert padding(keys=torch.ones(2, 0, dtype=torch.bool)).dense(2, 0, batch=(2,)).shape == (2, 1, 2, 0)


def test_it_reads_as_its_call() -> None:
    assert repr(padding(keys=LENGTHS, left=True)) == "padding(keys=int64[2], left=True)"
    both = "(padding(keys=bool[2, 3]) & padding(queries=int64[2]))"
    assert repr(padding(keys=KEEP, queries=LENGTHS)) == both


BATCH = "(query and key have the batch [2]: [*batch, heads, positions, dim])"


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"keys": torch.tensor([2, 4])}, ArgumentError, "padding: keys must lie in 0..3; got 4 (there are 3 keys)"),
        ({"keys": torch.tensor([-1, 2])}, ArgumentError, "padding: keys must lie in 0..3; got -1 (there are 3 keys)"),
        (
            {"queries": torch.tensor([2, 4])},
            ArgumentError,
            "padding: queries must lie in 0..3; got 4 (there are 3 queries)",
        ),
        ({"keys": torch.tensor([1])}, ShapeError, f"padding: keys must have the shape [*batch]; got [1] {BATCH}"),
        ({"queries": torch.tensor(1)}, ShapeError, f"padding: queries must have the shape [*batch]; got [] {BATCH}"),
        (
            {"keys": KEEP[:, :2]},
            ShapeError,
            "padding: keys must have the shape [*batch, keys] = [2, 3]; got [2, 2] (True = keep)",
        ),
        (
            {"queries": KEEP[0]},
            ShapeError,
            "padding: queries must have the shape [*batch, queries] = [2, 3]; got [3] (True = keep)",
        ),
        (
            {"keys": KEEP, "left": True},
            ArgumentError,
            "padding: left must be False without lengths; got True "
            "(keys is a keep-tensor, which says itself where its padding stands)",
        ),
        (
            {},
            ArgumentError,
            "padding: keys or queries must be given; got None "
            "(padding(keys=lengths), padding(keys=lengths, queries=lengths))",
        ),
    ],
)
def test_what_does_not_fit_is_refused(given: dict, kind: type, message: str) -> None:
    with pytest.raises(kind) as error:
        padding(**given).dense(3, 3, batch=(2,))
    assert str(error.value) == message


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keys": [1, 2]}, "padding: keys must be a tensor; got list (of lengths, or of booleans where True = keep)"),
        (
            {"queries": torch.tensor([1.0, 0.0])},
            "padding: queries must hold lengths or booleans; got torch.float32 (integers count positions; True = keep)",
        ),
    ],
)
def test_other_kinds_are_refused(given: dict, message: str) -> None:
    with pytest.raises(KindError) as error:
        padding(**given)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("keys", "fix"),
    [
        (torch.tensor([2, 4]), "(query and key have the batch []: [*batch, heads, positions, dim]; "),
        (torch.ones(2, 4, dtype=torch.bool), "(True = keep; "),
    ],
)
def test_a_picture_without_the_batch_says_how_to_give_it(keys: Tensor, fix: str) -> None:
    with pytest.raises(ShapeError) as error:
        padding(keys=keys).picture(4, 4)
    assert str(error.value).endswith(f"{fix}to draw a mask: picture(4, 4, batch=(2,)))")
    assert padding(keys=keys).picture(4, 4, batch=(2,)).count("■") in (8, 16)


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            torch.tensor([2, 3], device="meta"),
            "padding: keys must hold numbers, as the query on cpu does; got a meta tensor",
        ),
        (
            torch.ones(2, 3, dtype=torch.bool, device="meta"),
            "padding: keys must hold numbers, as the query on cpu does; got a meta tensor",
        ),
        (
            torch.tensor([2, 3]).to(torch.uint32),
            "padding: keys must hold lengths or booleans; got torch.uint32 (integers count positions; True = keep)",
        ),
        (
            torch.tensor([2, 3]).to_sparse(),
            "padding: keys must be a dense tensor; got torch.sparse_coo (.to_dense())",
        ),
    ],
)
def test_lengths_that_cannot_be_read_are_refused(keys: Tensor, message: str) -> None:
    with pytest.raises(KindError) as error:
        padding(keys=keys).dense(3, 3, batch=(2,))
    assert str(error.value) == message
