"""AttentionMap.scores: what the selection sees."""

import pytest
import torch
from torch.testing import assert_close

import qkv
from qkv.core import map as map_module


def test_scores_by_hand() -> None:
    query, key = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[1.0], [3.0]]])
    scores = qkv.attention_map(query, key, score=qkv.dot(), bias=torch.full((2, 2), 0.5), mask=qkv.causal()).scores()
    assert scores.tolist() == [[[1.5, -torch.inf], [2.5, 6.5]]]


@pytest.mark.parametrize("numbers", [1, 13, 1 << 21])
def test_scores_are_the_same_in_tiles_of_any_size(monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8)
    monkeypatch.setattr(map_module, "TILE_NUMBERS", numbers)
    weights = qkv.attention_map(query, key, score=qkv.soft_cap(qkv.scaled_dot(), 2.0), mask=qkv.window(3))
    assert_close(weights.scores().softmax(-1), weights.dense())


def test_scores_are_differentiable() -> None:
    query, key = (torch.randn(1, 1, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda q, k: qkv.attention_map(q, k).scores(), (query, key))


def test_scores_too_large_are_refused() -> None:
    text = (
        r"^AttentionMap.scores: the weights must fit in 100 bytes; got 140 \(scores\(limit=140\), or ask for less: "
        r"map\[..., :64, :64\], map.row\(i\), map.pooled\(512, 512\), map.head\(0\)\)$"
    )
    with pytest.raises(qkv.ArgumentError, match=text):
        qkv.attention_map(torch.randn(1, 5, 2), torch.randn(1, 7, 2)).scores(limit=100)
