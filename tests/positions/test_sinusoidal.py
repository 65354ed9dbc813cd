"""Sinusoidal positions: the paper's formula."""

import math

import pytest
import torch

import qkv


def test_sinusoidal_is_the_papers_formula() -> None:
    out = qkv.sinusoidal(6)(torch.tensor([[0, 3], [50_000, 7]]))
    assert out.shape == (2, 2, 6) and out.dtype == torch.float32
    for row, position in zip(out.view(-1, 6).tolist(), (0, 3, 50_000, 7), strict=True):
        expected = []
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            expected += [math.sin(angle), math.cos(angle)]
        assert row == pytest.approx(expected, abs=1e-6)
