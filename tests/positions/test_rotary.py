"""Rotary positions: other people's code, and exact far out."""

import pytest
import torch

import qkv


def test_rotary_sees_the_distance_alone() -> None:
    query, key = torch.randn(2, 1, 8, dtype=torch.float64)
    for turn in (qkv.rotary(), qkv.rotary(interleaved=True), qkv.rotary(base=100.0, dim=4)):
        met = [turn(query, torch.tensor([at])) @ turn(key, torch.tensor([at + 7])).T for at in (0, 1, 100, 10_000)]
        for other in met[1:]:
            torch.testing.assert_close(other, met[0])
        assert torch.equal(turn(query), query)


def test_rotary_half_split_is_llamas() -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    query, key = torch.randn(2, 1, 3, 5, 8, dtype=torch.float64)
    angle = torch.arange(5)[:, None] * 10000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    angle = torch.cat((angle, angle), -1)[None]
    expected = apply_rotary_pos_emb(query, key, angle.cos(), angle.sin())
    turn = qkv.rotary()
    torch.testing.assert_close((turn(query), turn(key)), expected)


def test_rotary_interleaved_is_gpt_js() -> None:
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb

    x = torch.randn(1, 5, 3, 8, dtype=torch.float64)
    angle = torch.arange(5)[:, None] * 10000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    expected = apply_rotary_pos_emb(x, angle.sin()[None], angle.cos()[None])
    torch.testing.assert_close(qkv.rotary(interleaved=True)(x.transpose(1, 2)).transpose(1, 2), expected)


def test_rotary_turns_the_first_features_alone() -> None:
    x = torch.randn(3, 5, 8)
    out = qkv.rotary(dim=4)(x)
    assert torch.equal(out[..., 4:], x[..., 4:])
    torch.testing.assert_close(out[..., :4], qkv.rotary()(x[..., :4]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rotary_far_out_is_as_exact_as_near(dtype: torch.dtype) -> None:
    x = torch.randn(1, 64).to(dtype)
    at = torch.tensor([100_000])
    torch.testing.assert_close(
        qkv.rotary()(x, at).double(), qkv.rotary()(x.double(), at), rtol=0, atol=4 * torch.finfo(dtype).eps
    )
