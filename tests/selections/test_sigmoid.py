"""Sigmoid: known numbers."""

import torch
from weighing import weigh

import qkv

INF = torch.inf


def test_sigmoid_by_hand() -> None:
    torch.testing.assert_close(
        weigh(qkv.sigmoid(1.0), torch.tensor([[-1.0, 0, -INF]])), torch.tensor([[0.5, 0.7310586, 0]])
    )
