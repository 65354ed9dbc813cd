"""Learned tables of positions and segments."""

import pytest
import torch

import qkv


def test_learned_tables() -> None:
    positions, segments = qkv.LearnedPositions(4, 3), qkv.Segments(2, 3)
    assert torch.equal(positions(torch.tensor([3, 0])), positions.weight[[3, 0]])
    assert torch.equal(segments(torch.tensor([[1], [0]])), segments.weight[torch.tensor([[1], [0]])])
    assert repr(positions) == "LearnedPositions(positions=4, width=3)"


@pytest.mark.unhooked
@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.int8, torch.int32])
def test_tables_take_every_integer(dtype: torch.dtype) -> None:
    table = qkv.LearnedPositions(4, 3)
    assert torch.equal(table(torch.tensor([3, 0], dtype=dtype)), table.weight[[3, 0]])
