"""When values are read. What is said about them: test_errors.py."""

import pytest
import torch

from qkv.core.checks import check_lengths, check_values, is_integer, readable, shown
from qkv.core.types import Grid
from qkv.errors import ArgumentError


def test_values_are_read_on_the_cpu_alone() -> None:
    assert readable(torch.ones(1)) and readable(torch.nn.Parameter(torch.ones(1)))
    assert not readable(torch.ones(1, device="meta"))
    mapped: list[bool] = []
    torch.vmap(lambda x: mapped.append(readable(x)) or x)(torch.ones(2))
    assert mapped == [False]
    check_lengths("f", "lengths", torch.ones(1, device="meta", dtype=torch.long), 0, "keys")
    check_values("f", "x", torch.full((1,), torch.nan, device="meta"), "finite")
    with pytest.raises(ArgumentError, match=r"f: lengths must lie in 0\.\.2; got 3 \(there are 2 keys\)"):
        check_lengths("f", "lengths", torch.tensor([1, 3]), 2, "keys")


def test_integers_are_those_that_torch_computes_with() -> None:
    good = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8]
    bad = [torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.float32, torch.complex64]
    assert [is_integer(torch.zeros(1, dtype=dtype)) for dtype in good + bad] == [True] * 5 + [False] * 6


def test_values_are_shown_in_a_few_letters() -> None:
    values = (torch.ones(2, 3), "a", 1 << 70, 10**5000)
    assert [shown(value) for value in values] == ["float32[2, 3]", "'a'", "1180591620717411303424", "16610 bits"]


def test_an_offset_in_a_tensor_stays_within_what_sums_can_hold() -> None:
    grid = Grid((3,), 1, 2, 2)
    offset = torch.tensor([-(1 << 63), 5, (1 << 63) - 1])
    at = grid.positions(grid.rows(), offset)
    assert at.tolist() == [[[-(1 << 62), 1 - (1 << 62)]], [[5, 6]], [[1 << 62, (1 << 62) + 1]]]
