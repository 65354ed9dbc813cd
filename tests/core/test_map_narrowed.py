"""AttentionMap.head and .example: a narrowed map is a piece of the whole one."""

import pytest
import torch
from torch.testing import assert_close

import qkv


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_narrowed_map_is_a_piece_of_the_whole(asked_before: bool) -> None:
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8)
    mask = qkv.causal() & qkv.padding(keys=torch.tensor([4, 7])) & qkv.dense_mask(torch.rand(2, 4, 5, 7) > 0.2)
    whole = qkv.attention_map(query, key, mask=mask, bias=qkv.alibi(heads=4))
    if asked_before:
        whole.entropy()
    weights = qkv.attention_map(query, key, mask=mask, bias=qkv.alibi(heads=4)).dense()
    assert_close(whole.head(3).dense(), weights[:, 3:])
    assert_close(whole.example(1).dense(), weights[1:])
    assert_close(whole.example(-1).head(1)[0, 0, :3, 2:], weights[1, 1, :3, 2:])
