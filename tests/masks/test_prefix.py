"""The prefix mask: one length or one for each row, and bad lengths."""

import pytest
import torch

from qkv.core.types import Grid
from qkv.errors import ArgumentError, KindError, ShapeError
from qkv.masks.causal import causal
from qkv.masks.prefix import prefix


def test_every_query_sees_the_first_keys() -> None:
    assert prefix(2).picture(2, 4).split("\n") == ["■ ■ · ·", "■ ■ · ·"]
    assert prefix(0).picture(1, 2) == "· ·"
    assert prefix(9).picture(1, 2) == "■ ■"


def test_with_causal_it_is_a_prefix_language_model() -> None:
    assert (causal() | prefix(2)).picture(3, 3).split("\n") == ["■ ■ ·", "■ ■ ·", "■ ■ ■"]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_length_for_each_row(dtype: torch.dtype) -> None:
    lengths = torch.tensor([[0, 1], [2, 9]], dtype=dtype)
    dense = prefix(lengths).dense(1, 3, batch=(2, 2))
    assert dense.sum(-1).flatten().tolist() == [0, 1, 2, 3]
    some, every = prefix(lengths).runs(4, Grid((2, 2), 1, 5, 3))
    for runs in (some, every):
        assert runs.count().tolist() == [[[[0, 0]], [[1, 1]]], [[[2, 2]], [[3, 3]]]]


def test_it_reads_as_its_call() -> None:
    assert repr(prefix(2)) == "prefix(2)"
    assert repr(prefix(torch.tensor([2]))) == "prefix(int64[1])"


def test_bad_lengths_are_refused() -> None:
    with pytest.raises(ArgumentError) as error:
        prefix(-1)
    assert str(error.value) == "prefix: length must be >= 0; got -1 (keys that every query sees)"
    with pytest.raises(ArgumentError) as error:
        prefix(torch.tensor([1, -3])).dense(2, 2, batch=(2,))
    assert str(error.value) == "prefix: length must be >= 0; got -3"
    with pytest.raises(ShapeError) as error:
        prefix(torch.tensor([[1]])).dense(2, 2, batch=(1,))
    fix = "(query and key have the batch [1]: [*batch, heads, positions, dim])"
    assert str(error.value) == f"prefix: length must have the shape [*batch]; got [1, 1] {fix}"


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("length", "message"),
    [
        (2.5, "prefix: length must be an integer; got float (keys that every query sees)"),
        (torch.tensor([0.5]), "prefix: length must hold integers; got torch.float32 (one length for each batch row)"),
    ],
)
def test_other_kinds_are_refused(length: object, message: str) -> None:
    with pytest.raises(KindError) as error:
        prefix(length)
    assert str(error.value) == message


def test_a_length_beyond_every_row_is_refused() -> None:
    with pytest.raises(ArgumentError) as error:
        prefix(1 << 70)
    assert str(error.value) == "prefix: length must be below 2^31; got 1180591620717411303424"
