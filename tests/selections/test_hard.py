"""Hard selection: one key, the gradient of softmax, and draws from it."""

import torch
from weighing import weigh

import qkv

INF = torch.inf


def test_hard_is_one_hot_with_the_gradient_of_softmax() -> None:
    scores = torch.randn(5, 7, dtype=torch.float64).requires_grad_()
    pull = torch.randn(5, 7, dtype=torch.float64)
    for select in (qkv.hard(), qkv.hard(sample=True)):
        weights = weigh(select, scores)
        assert torch.equal(weights.sort(-1).values[:, -2:], torch.tensor([[0.0, 1.0]]).double().expand(5, 2))
        got, soft = (torch.autograd.grad((w * pull).sum(), scores)[0] for w in (weights, scores.softmax(-1)))
        torch.testing.assert_close(got, soft)
    assert torch.equal(weigh(qkv.hard(), scores).argmax(-1), scores.argmax(-1))
    assert weigh(qkv.hard(), torch.zeros(1, 3)).tolist() == [[1, 0, 0]]


def test_hard_draws_from_the_softmax() -> None:
    torch.manual_seed(0)
    scores, draws = torch.tensor([0.0, 1.0, 2.0, -INF, -1.0]), 40_000
    counts = weigh(qkv.hard(sample=True), scores.expand(draws, 5)).sum(0)
    expected = scores.softmax(-1) * draws
    assert counts[3] == 0
    alive = expected > 0
    # Chi-square with 3 degrees of freedom: more than 16.3 once in a thousand.
    assert ((counts - expected)[alive] ** 2 / expected[alive]).sum() < 16.3


def test_a_map_keeps_what_chance_drew() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 9, 4).requires_grad_()
    output, seen = qkv.attend_with_map(query, key, value, select=qkv.hard(sample=True))
    torch.testing.assert_close(seen.dense() @ value, output)
    fresh = qkv.attention_map(query, key, select=qkv.hard(sample=True))
    assert torch.equal(fresh.row(4), fresh.row(4)) and torch.equal(fresh[..., :3, 2], fresh.dense()[..., :3, 2])
