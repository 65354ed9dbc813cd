"""ALiBi: the paper's numbers."""

import pytest
import torch
from tiles import tile

import qkv
from qkv.positions.alibi import slopes


def test_slopes_of_the_paper() -> None:
    assert slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert slopes(1) == [1 / 256]
    # 12 heads, by the authors' own recipe: the slopes of 8, then every other one of 16.
    sixteen = [2 ** (-(head + 1) / 2) for head in range(16)]
    assert slopes(12) == pytest.approx([*slopes(8), *sixteen[0::2][:4]])


def test_alibi_by_hand() -> None:
    near = tile(qkv.alibi(heads=8), 2, 3, 8)[0]
    assert near.tolist() == [[-0.5, 0, -0.5], [-1, -0.5, 0]]
    far = tile(qkv.alibi(heads=8, offset=torch.tensor([0, 1])), 2, 3, 8, (2,))
    assert far.shape == (2, 8, 2, 3) and far[0, 0].tolist() == [[0, -0.5, -1], [-0.5, 0, -0.5]]
    assert torch.equal(far[1, 0], near)


def test_alibi_is_float32_whatever_the_default() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        near = tile(qkv.alibi(heads=6), 2, 300, 6)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(near, tile(qkv.alibi(heads=6), 2, 300, 6)) and near.dtype == torch.float32


def test_it_tells_its_offset() -> None:
    assert (
        repr(qkv.alibi(heads=2)) == "alibi(heads=2)"
        and repr(qkv.alibi(heads=2, offset=3)) == "alibi(heads=2, offset=3)"
    )
