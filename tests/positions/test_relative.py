"""T5's relative bias: the buckets of transformers, and offsets."""

import pytest
import torch
from tiles import tile

import qkv


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 16), (64, 500)])
def test_t5_buckets_are_those_of_transformers(after: bool, buckets: int, furthest: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    ahead = torch.arange(-300, 301)
    expected = T5Attention._relative_position_bucket(ahead, after, buckets, furthest)
    made = qkv.T5Relative(2, buckets=buckets, max_distance=furthest, after=after)
    assert torch.equal(made.bucket(ahead), expected)


def test_t5_offsets() -> None:
    made = qkv.T5Relative(2, buckets=8, max_distance=16, offset=torch.tensor([2, 0]))
    whole = tile(made, 2, 4, 2, (2,))
    assert whole.shape == (2, 2, 2, 4)
    corner = qkv.T5Relative(2, buckets=8, max_distance=16)
    corner.weight = made.weight
    assert torch.equal(whole[0], tile(corner, 2, 4, 2))
