"""What holds of every bias by distance."""

import pytest
import torch
from tiles import tile

import qkv


@pytest.mark.parametrize("offset", [(1 << 63) - 1, -(1 << 63)])
def test_a_bias_of_an_offset_beyond_every_grid_is_finite(offset: int) -> None:
    at = torch.tensor([offset])
    for bias in (qkv.alibi(heads=2, offset=at), qkv.T5Relative(2, offset=at)):
        assert tile(bias, 2, 3, 2, (1,)).isfinite().all()
