"""The derivatives of every selection."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from weighing import weigh

import qkv

INF = torch.inf


@pytest.mark.parametrize(
    "select",
    [qkv.softmax(), qkv.sparsemax(), qkv.entmax15(), qkv.topk(3), qkv.sigmoid(-1.0), qkv.sink(torch.tensor([0.3]))],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_first_and_second_derivatives(select: qkv.Selection) -> None:
    scores = torch.randn(4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    scores[1, 2:], scores[2] = -INF, scores[2] + 1e3
    hidden = scores == -INF
    moving = torch.where(hidden, 0, scores).requires_grad_()

    def run(moving: Tensor) -> Tensor:
        return weigh(select, torch.where(hidden, -INF, moving))

    assert gradcheck(run, [moving])
    assert gradgradcheck(run, [moving])
