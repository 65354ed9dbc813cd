"""Each score against a double loop in plain Python, and its edges."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import qkv
from qkv.scores.cosine import unit

QUERY, KEY = (torch.randn(1, 2, n, 3, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (4, 5))


def scores(score: object) -> Tensor:
    return qkv.attention_map(QUERY, KEY, score=score).scores()


def loop(meet: Callable[[list[float], list[float], int], float]) -> Tensor:
    return torch.tensor(
        [
            [[meet(q, k, j) for j, k in enumerate(KEY[0, head].tolist())] for q in QUERY[0, head].tolist()]
            for head in range(2)
        ],
        dtype=torch.float64,
    )[None]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def times(matrix: Tensor, vector: list[float]) -> list[float]:
    return [dot(row, vector) for row in matrix.tolist()]


def test_dot_scores() -> None:
    torch.testing.assert_close(scores(qkv.dot()), loop(lambda q, k, j: dot(q, k)))
    torch.testing.assert_close(scores(None), loop(lambda q, k, j: dot(q, k) / math.sqrt(3)))
    torch.testing.assert_close(scores(qkv.scaled_dot(scale=-2.0)), loop(lambda q, k, j: -2 * dot(q, k)))
    assert (scores(qkv.scaled_dot(scale=0.0)) == 0).all()


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


@pytest.mark.parametrize("name", ["Bilinear", "Additive", "Location"])
def test_parameters_are_drawn(name: str) -> None:
    made = getattr(qkv, name)(*{"Bilinear": (4, 6), "Additive": (4, 6, 3), "Location": (4, 5)}[name])
    assert all(weight.isfinite().all() and weight.std() > 0 for weight in made.parameters())


def test_a_tensor_of_temperatures_moves_with_its_score() -> None:
    score = qkv.cosine(torch.ones(2))
    assert score.to("meta").temperature.device.type == "meta" and not score.state_dict()
    assert len(list(qkv.cosine(torch.nn.Parameter(torch.ones(2))).parameters())) == 1
    assert repr(score) == "cosine(temperature=float32[2])"
