"""The definition against a literal triple loop."""

import math

import torch

import qkv


def test_attention_by_loops() -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, n, 3, generator=draw, dtype=torch.float64) for n in (3, 4, 4))
    output = qkv.attend(query, key, value, mask=qkv.causal(), bias=qkv.alibi(heads=2), impl="reference")
    for head, slope in enumerate((1 / 16, 1 / 256)):
        for i in range(3):
            at = i + 1
            row = [
                math.exp(float(query[0, head, i] @ key[0, head, j]) / math.sqrt(3) - slope * abs(at - j))
                for j in range(at + 1)
            ]
            expected = sum(w / sum(row) * value[0, head, j] for j, w in enumerate(row))
            torch.testing.assert_close(output[0, head, i], expected)


def test_what_is_not_finite_reaches_those_who_see_it_alone() -> None:
    query, key, value = torch.randn(3, 1, 1, 4, 2).unbind()
    value[..., 2, :] = torch.tensor([torch.inf, -torch.inf])
    value[..., 3, 0] = torch.nan
    output = qkv.attend(query, key, value, mask=qkv.causal(), impl="reference")[0, 0]
    assert output[:2].isfinite().all()
    assert output[2].tolist() == [torch.inf, -torch.inf]
    assert output[3, 0].isnan() and output[3, 1] == -torch.inf
