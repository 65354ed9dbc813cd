"""A call: what autocast casts, and how the heads group. What is refused: test_errors.py."""

import torch

import qkv
from qkv.attention import call_of
from qkv.core.call import Call, cast_as_autocast


def call(heads: int, key_heads: int) -> Call:
    tensors = torch.ones(1, heads, 2, 4), torch.ones(1, key_heads, 3, 4), torch.ones(1, key_heads, 3, 4)
    return call_of("test", *tensors, None, None, None, None, 0.0)


def test_heads_group() -> None:
    assert (call(4, 4).group, call(4, 2).group, call(4, 1).group) == (1, 2, 4)
    assert call(4, 2).grid.rows().tolist() == [0, 1] and call(4, 2).grid.positions(torch.arange(2)).tolist() == [1, 2]


def test_autocast_casts_what_torch_casts() -> None:
    single, double = torch.ones(1), torch.ones(1, dtype=torch.float64)
    assert cast_as_autocast(single)[0] is single
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [x.dtype for x in cast_as_autocast(single, double)] == [torch.bfloat16, torch.float64]


def test_scores_stay_wide_under_autocast() -> None:
    query, key, value = torch.randn(3, 1, 2, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, seen = qkv.attend_with_map(query, key, value, impl="reference")
    assert output.dtype == torch.bfloat16 and seen.dense().dtype == torch.float32
    torch.testing.assert_close(seen.dense().sum(-1), torch.ones(1, 2, 5))
