"""Cosine against a double loop in plain Python, and its edges."""

import math

import torch
from every_pair import dot, loop, scores

import qkv
from qkv.scores.cosine import unit


def test_cosine() -> None:
    expected = loop(lambda q, k, j: dot(q, k) / math.sqrt(dot(q, q) * dot(k, k)) / 0.25)
    torch.testing.assert_close(scores(qkv.cosine(0.25)), expected)
    each = torch.tensor([0.25, 0.5], dtype=torch.float64)
    torch.testing.assert_close(scores(qkv.cosine(each)), expected * torch.tensor([1, 0.5]).view(2, 1, 1))


def test_unit_vectors() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3e-30, 4e-30], [3e30, -4e30]], requires_grad=True)
    out = unit(x)
    torch.testing.assert_close(out, torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.6, -0.8]]))
    assert (out[0] == 0).all()
    (grad,) = torch.autograd.grad(out[:2].sum(), x)
    assert (grad[0] == 0).all() and grad.isfinite().all()


def test_cosine_of_a_zero_vector_is_zero() -> None:
    query = torch.zeros(1, 1, 3).requires_grad_()
    output, seen = qkv.attend_with_map(query, torch.eye(3)[None], torch.eye(3)[None], score=qkv.cosine())
    torch.testing.assert_close(output, torch.full((1, 1, 3), 1 / 3))
    (grad,) = torch.autograd.grad(output[..., 0].sum(), query)
    assert (grad == 0).all() and (seen.scores() == 0).all()


def test_a_tensor_of_temperatures_moves_with_its_score() -> None:
    score = qkv.cosine(torch.ones(2))
    assert score.to("meta").temperature.device.type == "meta" and not score.state_dict()
    assert len(list(qkv.cosine(torch.nn.Parameter(torch.ones(2))).parameters())) == 1
    assert repr(score) == "cosine(temperature=float32[2])"
