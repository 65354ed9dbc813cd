"""Attention is followed through the layers."""

import pytest
import torch

import qkv
from qkv.errors import ArgumentError, ShapeError
from qkv.lens.flow import rollout


def map_of(weights):
    """A map whose weights [heads, queries, keys] are given."""
    still = torch.zeros(1, weights.shape[0], weights.shape[1], 1)
    return qkv.attention_map(still, still, bias=weights.log()[None])


def test_rollout_checked_by_hand():
    # Two heads: one looks back, one at itself; their mean is half of each. Row 0 has itself alone.
    first = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    shares = rollout([map_of(first), map_of(first)])
    # ½ A + ½ I = [[1, 0], [1/4, 3/4]], and its square.
    expected = torch.tensor([[[1, 0], [1 / 4, 3 / 4]], [[1, 0], [7 / 16, 9 / 16]]])
    torch.testing.assert_close(shares[:, 0], expected)


def test_rollout_is_the_product_of_the_layers(monkeypatch):
    torch.manual_seed(0)
    maps = [
        qkv.attention_map(torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 4), mask=qkv.causal() & padding)
        for padding in [qkv.padding(keys=torch.tensor([6, 4]))] * 3
    ]
    expected = torch.eye(6)
    for seen in maps:
        expected = (0.5 * seen.dense().mean(-3) + 0.5 * torch.eye(6)) @ expected
    shares = rollout(maps)
    torch.testing.assert_close(shares[-1], expected)
    torch.testing.assert_close(shares.sum(-1), torch.ones(3, 2, 6))
    assert (shares.triu(1) == 0).all()
    monkeypatch.setattr("qkv.lens.heads.TILE_NUMBERS", 1)
    torch.testing.assert_close(rollout(maps), shares)


def test_a_row_without_a_key_keeps_what_it_has():
    still = torch.zeros(1, 1, 3, 1)
    seen = qkv.attention_map(still, still, mask=qkv.padding(keys=torch.tensor([2]), queries=torch.tensor([2])))
    assert rollout([seen, seen])[:, 0, 2].tolist() == [[0, 0, 1]] * 2


def test_what_is_no_stack_is_refused():
    still, more = torch.zeros(1, 1, 3, 1), torch.zeros(1, 1, 4, 1)
    seen = qkv.attention_map(still, still)
    with pytest.raises(ArgumentError, match=r"^rollout: maps must hold a map for each layer; got none$"):
        rollout([])
    rule = r"have 3 queries and as many keys, of the batch \[1\]; got \[1, 1, 3, 4\]$"
    with pytest.raises(ShapeError, match=r"^rollout: maps\[1\] must " + rule):
        rollout([seen, qkv.attention_map(still, more)])
    rule = r"fit in 10 bytes; got 36 \(rollout\(limit=36\), or a shorter text\)$"
    with pytest.raises(ArgumentError, match=r"^rollout: the shares must " + rule):
        rollout([seen], limit=10)
