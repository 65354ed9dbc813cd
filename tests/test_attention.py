"""The front door: defaults, and plain tensors in the place of parts. What is computed: tests/contract."""

import torch

import qkv

QKV = torch.randn(3, 2, 2, 5, 8, generator=torch.Generator().manual_seed(0)).unbind()


def test_defaults_are_scaled_dot_product_attention() -> None:
    query, key, value = QKV
    expected = (query @ key.transpose(-2, -1) / 8**0.5).softmax(-1) @ value
    torch.testing.assert_close(qkv.attend(*QKV), expected)
    assert torch.equal(qkv.attend(*QKV), qkv.attend(*QKV, score=qkv.scaled_dot(), select=qkv.softmax(), mask=None))


def test_plain_tensors_stand_for_parts() -> None:
    seen, bias = torch.rand(5, 5) > 0.3, torch.randn(2, 1, 5)
    plain = qkv.attend(*QKV, mask=seen, bias=bias)
    assert torch.equal(plain, qkv.attend(*QKV, mask=qkv.dense_mask(seen), bias=qkv.dense_bias(bias)))
    hidden = torch.where(seen, 0.0, -torch.inf)
    torch.testing.assert_close(qkv.attend(*QKV, bias=hidden), qkv.attend(*QKV, mask=seen))


def test_the_three_calls_agree() -> None:
    output, seen = qkv.attend_with_map(*QKV, mask=qkv.causal())
    assert torch.equal(output, qkv.attend(*QKV, mask=qkv.causal()))
    torch.testing.assert_close(seen.dense(), qkv.attention_map(*QKV[:2], mask=qkv.causal()).dense())
    torch.testing.assert_close(seen.dense() @ QKV[2], output)


def test_a_value_may_be_of_any_width() -> None:
    for width in (0, 1, 3, 20):
        assert qkv.attend(*QKV[:2], torch.ones(2, 2, 5, width)).shape == (2, 2, 5, width)
