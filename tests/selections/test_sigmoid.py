"""Sigmoid: known numbers."""

import torch
from torch import Tensor

import qkv

INF = torch.inf


def weigh(select: qkv.Selection, scores: Tensor) -> Tensor:
    """Weigh rows [rows, keys] of one head."""
    scores = scores[None]
    return select.weights(scores, select.summary(scores), torch.arange(scores.shape[-1])).squeeze(0)


def test_sigmoid_by_hand() -> None:
    torch.testing.assert_close(
        weigh(qkv.sigmoid(1.0), torch.tensor([[-1.0, 0, -INF]])), torch.tensor([[0.5, 0.7310586, 0]])
    )
