"""Merging by hand, and its edges; test_properties.py merges random splits."""

import math

import torch
from torch.autograd import gradcheck

import qkv

INF = torch.inf


def test_by_hand() -> None:
    outputs = [torch.tensor([[[1.0]]]), torch.tensor([[[5.0]]])]
    levels = [torch.tensor([[0.0]]), torch.tensor([[math.log(3)]])]
    merged, level = qkv.merge_attention(outputs, levels)
    assert merged.item() == 4 and math.isclose(level.item(), math.log(4), rel_tol=1e-6)


def test_a_part_without_keys_counts_nothing_whatever_it_holds() -> None:
    outputs = [torch.full((1, 1, 2), torch.nan), torch.ones(1, 1, 2)]
    merged, level = qkv.merge_attention(outputs, [torch.tensor([[-INF]]), torch.tensor([[-1e4]])])
    assert merged.tolist() == [[[1, 1]]] and level.item() == -1e4
    merged, level = qkv.merge_attention(outputs[:1], [torch.tensor([[-INF]])])
    assert merged.tolist() == [[[0, 0]]] and level.item() == -INF


def test_a_nan_is_not_lost() -> None:
    outputs = [torch.zeros(1, 1, 1), torch.ones(1, 1, 1)]
    merged, level = qkv.merge_attention(outputs, [torch.tensor([[torch.nan]]), torch.tensor([[0.0]])])
    assert merged.isnan().all() and level.isnan().all()


def test_half_precision_is_merged_in_float32() -> None:
    outputs = [torch.ones(1, 1, 1, dtype=torch.float16)] * 2
    merged, level = qkv.merge_attention(outputs, [torch.tensor([[0.0]])] * 2)
    assert merged.dtype == torch.float16 and level.dtype == torch.float32


def test_gradients() -> None:
    parts = [torch.randn(2, 3, 4, dtype=torch.float64).requires_grad_() for _ in range(2)]
    levels = [torch.randn(2, 3, dtype=torch.float64).requires_grad_() for _ in range(2)]
    assert gradcheck(lambda *x: qkv.merge_attention(x[:2], x[2:]), [*parts, *levels])
