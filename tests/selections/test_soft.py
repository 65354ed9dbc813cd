"""The peak of a row, below which softmax and the others weigh: large scores and NaN."""

import pytest
import torch
from weighing import weigh

import qkv

INF = torch.inf


@pytest.mark.parametrize("offset", [0.0, 1e4, -3e4])
def test_large_scores_lose_nothing(offset: float) -> None:
    scores = torch.tensor([[0.0, 0.5, -1.0, 2.0]])
    for select in (qkv.softmax(), qkv.sparsemax(), qkv.entmax15(), qkv.topk(2), qkv.sink(torch.tensor(-4e4))):
        torch.testing.assert_close(weigh(select, scores + offset), weigh(select, scores), rtol=1e-6, atol=1e-6)
        assert weigh(select, scores + offset).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("card", ["softmax", "sparsemax", "entmax15", "hard", "sigmoid"])
def test_a_nan_is_not_an_empty_row(card: str) -> None:
    for select in (getattr(qkv, card)(), qkv.topk(1), qkv.sink(torch.zeros(()))):
        assert weigh(select, torch.tensor([[1.0, torch.nan, 2.0]])).isnan().any()
    level = qkv.softmax().logsumexp(qkv.softmax().summary(torch.tensor([[1.0, torch.nan], [-INF, -INF]])))
    assert level[0].isnan() and level[1] == -INF
