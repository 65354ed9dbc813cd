"""AttentionMap.statistics: several answers from one pass."""

import pytest
import torch
from torch.testing import assert_close

import qkv
from qkv.core import map as map_module


def test_statistics_by_hand() -> None:
    query, key = torch.ones(1, 2, 1), torch.tensor([[[0.0], [3.0]]]).log1p()
    told = qkv.attention_map(query, key, score=qkv.dot(), mask=qkv.causal()).statistics(2)
    assert_close(told.top_weights, torch.tensor([[[1.0, 0.0], [0.8, 0.2]]]))
    assert told.top_keys.tolist() == [[[0, 1], [1, 0]]]
    assert_close(told.received, torch.tensor([[1.2, 0.8]]))
    assert_close(told.entropy, -torch.tensor([[0.0, 0.8 * torch.tensor(0.8).log() + 0.2 * torch.tensor(0.2).log()]]))


@pytest.mark.parametrize("numbers", [1, 40, 1 << 19])
@pytest.mark.parametrize("select", [qkv.softmax(), qkv.sparsemax(), qkv.sigmoid(), qkv.hard()])
def test_statistics_are_what_each_question_gives(select: object, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_module, "TILE_NUMBERS", numbers)
    query, key = (torch.randn(2, 4, 5, 8, requires_grad=True) for _ in range(2))
    seen = qkv.attention_map(query, key, mask=qkv.window(3, offset=-1), select=select)
    told = seen.statistics(3)
    for ours, other in zip((told.top_weights, told.top_keys), seen.top_keys(3), strict=True):
        assert_close(ours, other)
    for ours, other in ((told.entropy, seen.entropy()), (told.received, seen.received())):
        assert_close(ours, other)
        pull = torch.linspace(-1, 1, other.numel()).view(other.shape)
        first, second = (torch.autograd.grad(x, (query, key), pull, retain_graph=True) for x in (ours, other))
        assert_close(first, second)


def test_entropy_is_that_of_the_weights_and_never_below_0() -> None:
    query, key = (torch.randn(2, 6, 8, dtype=torch.float64) * scale for scale in (1.0, 30.0))
    seen = qkv.attention_map(query, key)
    weights = seen.dense()
    assert_close(seen.entropy(), -torch.special.xlogy(weights, weights).sum(-1), rtol=1e-12, atol=1e-14)
    assert (seen.entropy() >= 0).all()


@pytest.mark.parametrize("k", [0, 8])
def test_statistics_want_some_keys_that_there_are(k: int) -> None:
    text = r"^AttentionMap.statistics: k must be (>= 1; got 0|<= 7; got 8 \(that many keys\))$"
    with pytest.raises(qkv.ArgumentError, match=text):
        qkv.attention_map(torch.randn(1, 5, 2), torch.randn(1, 7, 2)).statistics(k)
