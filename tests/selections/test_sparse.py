"""Sparsemax and entmax: known examples, bisection, exact zeros."""

import pytest
import torch
from torch import Tensor
from weighing import weigh

import qkv

INF = torch.inf


def bisect(scores: Tensor, power: float, scale: float) -> Tensor:
    """Find max(scale · s − τ, 0)^power with sum 1, by halving in float64."""
    s = scores.double() * scale
    low, high = s.amax(-1, keepdim=True) - 1, s.amax(-1, keepdim=True)
    for _ in range(100):
        middle = (low + high) / 2
        more = ((s - middle).clamp(min=0) ** power).sum(-1, keepdim=True) > 1
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    return (s - low).clamp(min=0) ** power


SPARSE = [(qkv.sparsemax(), 1.0, 1.0), (qkv.entmax15(), 2.0, 0.5)]
BY_SPARSE = pytest.mark.parametrize(("select", "power", "scale"), SPARSE, ids=["sparsemax", "entmax15"])


def test_sparse_examples() -> None:
    assert weigh(qkv.sparsemax(), torch.tensor([[1.0, 0.5, 0.0]])).tolist() == [[0.75, 0.25, 0]]
    assert weigh(qkv.sparsemax(), torch.tensor([[3.0, 1.0, 0.0]])).tolist() == [[1, 0, 0]]
    # s/2 = (.5, .25, 0), support of all three: τ solves Σ (s/2 − τ)² = 1.
    three = weigh(qkv.entmax15(), torch.tensor([[1.0, 0.5, 0.0]], dtype=torch.float64))
    tau = 0.25 - ((1 - 0.125) / 3) ** 0.5
    torch.testing.assert_close(three, (torch.tensor([[0.5, 0.25, 0.0]], dtype=torch.float64) - tau) ** 2)
    assert weigh(qkv.entmax15(), torch.tensor([[2.0, 0.0]])).tolist() == [[1, 0]]


@BY_SPARSE
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_sparse_weights_by_bisection(select: qkv.Selection, power: float, scale: float, offset: float) -> None:
    draw = torch.Generator().manual_seed(0)
    for spread in (0.1, 1.0, 10.0):
        scores = torch.randn(50, 30, generator=draw) * spread + offset
        weights = weigh(select, scores)
        torch.testing.assert_close(weights.double(), bisect(scores, power, scale), rtol=0, atol=2e-6)
        torch.testing.assert_close(weights.sum(-1), torch.ones(50), rtol=0, atol=2e-6)
    assert ((weights == 0).sum(-1) > 20).all()


@BY_SPARSE
def test_sparse_ties_share(select: qkv.Selection, power: float, scale: float) -> None:
    torch.testing.assert_close(weigh(select, torch.tensor([[2.0, 2.0, -9, -INF]])), torch.tensor([[0.5, 0.5, 0, 0]]))
    torch.testing.assert_close(weigh(select, torch.zeros(1, 1000)), torch.full((1, 1000), 1e-3))
    assert weigh(select, torch.tensor([[-INF, 1e30, -1e30], [-INF, -INF, -INF]])).tolist() == [[0, 1, 0], [0, 0, 0]]
