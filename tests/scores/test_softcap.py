"""A cap is a tanh, before bias and mask."""

import torch
from every_pair import KEY, QUERY, scores

import qkv


def test_soft_cap() -> None:
    plain = scores(qkv.dot())
    torch.testing.assert_close(scores(qkv.soft_cap(qkv.dot(), 0.5)), 0.5 * torch.tanh(plain / 0.5))
    assert (scores(qkv.soft_cap(qkv.scaled_dot(scale=1e6), 0.5)).abs() <= 0.5).all()
    torch.testing.assert_close(scores(qkv.soft_cap(qkv.dot(), 1e6)), plain)
    # The cap comes before bias and mask: what they hide stays hidden.
    hidden = torch.tensor([0.0, -torch.inf, 0, 0, 0])[None]
    seen = qkv.attention_map(QUERY, KEY, score=qkv.soft_cap(qkv.dot(), 0.5), bias=hidden)
    assert (seen.dense()[..., 1] == 0).all()


def test_a_learned_score_within_a_cap_is_found() -> None:
    assert len(list(qkv.soft_cap(qkv.Additive(3, 3, 4), 2.0).parameters())) == 2
