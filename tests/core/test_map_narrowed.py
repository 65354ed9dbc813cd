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


def test_a_map_of_tensors_that_changed_since_says_so() -> None:
    query, key, value = torch.randn(2, 5, 8), torch.randn(2, 7, 8), torch.randn(2, 7, 8)
    score, bias, seen_by = qkv.Additive(8, 8, 4), torch.zeros(5, 7), torch.ones(5, 7, dtype=torch.bool)
    for changed, parts in (
        (query, {}),
        (score.vector, {"score": score}),
        (bias, {"bias": bias}),
        (seen_by, {"mask": qkv.dense_mask(seen_by) & qkv.prefix(4)}),
    ):
        _, seen = qkv.attend_with_map(query, key, value, **parts)
        seen.entropy()
        assert seen.head(1).entropy().isfinite().all()
        with torch.no_grad():
            changed.zero_()
        for question in (seen.dense, seen.head(1).entropy, lambda seen=seen: seen[0, :2]):
            with pytest.raises(
                qkv.ArgumentError, match=r"^AttentionMap: its tensors must be as they were .*; got one changed"
            ):
                question()


def test_a_map_of_inference_mode_still_answers() -> None:
    with torch.inference_mode():
        query = torch.randn(2, 5, 8)
        seen = qkv.attention_map(query, query)
    assert seen.dense().sum(-1).allclose(torch.ones(2, 5))
