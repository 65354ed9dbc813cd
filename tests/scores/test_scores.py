"""Learned scores against a double loop in plain Python, their widths, and the names of all."""

import math

import torch
from every_pair import dot, loop, scores
from torch import Tensor

import qkv


def times(matrix: Tensor, vector: list[float]) -> list[float]:
    return [dot(row, vector) for row in matrix.tolist()]


def test_learned_scores() -> None:
    torch.manual_seed(0)
    bilinear = qkv.Bilinear(query=3, key=3).double()
    torch.testing.assert_close(scores(bilinear), loop(lambda q, k, j: dot(times(bilinear.weight, q), k)))
    location = qkv.Location(query=3, keys=6).double()
    torch.testing.assert_close(scores(location), loop(lambda q, k, j: times(location.weight, q)[j]))
    for made in (qkv.Additive(query=3, key=3, hidden=4).double(), qkv.Concat(query=3, key=3, hidden=4).double()):
        vector, weight = made.vector.tolist(), made.weight

        def meet(q: list[float], k: list[float], j: int, vector: list = vector, weight: Tensor = weight) -> float:
            return dot(vector, [math.tanh(x) for x in times(weight, q + k)])

        torch.testing.assert_close(scores(made), loop(meet))


def test_widths_may_differ_where_the_mathematics_allows() -> None:
    query, key = torch.randn(2, 3, 4), torch.randn(2, 5, 6)
    for score in (qkv.Bilinear(4, 6), qkv.Additive(4, 6, 3), qkv.Concat(4, 6, 3), qkv.Location(4, 5)):
        assert qkv.attend(query, key, torch.randn(2, 5, 7), score=score).shape == (2, 3, 7)


def test_luongs_names() -> None:
    assert issubclass(qkv.Concat, qkv.Additive)
    assert repr(qkv.Bilinear(4, 6)) == "Bilinear(query=4, key=6)"
    assert repr(qkv.Concat(4, 6, 3)) == "Concat(query=4, key=6, hidden=3)"
    assert repr(qkv.Location(4, 5)) == "Location(query=4, keys=5)"
    assert [repr(score) for score in (qkv.dot(), qkv.scaled_dot(), qkv.scaled_dot(scale=0.5))] == [
        "dot()",
        "scaled_dot()",
        "scaled_dot(scale=0.5)",
    ]
    assert repr(qkv.soft_cap(qkv.cosine(), 2.0)) == "soft_cap(cosine(temperature=0.1), 2)"
