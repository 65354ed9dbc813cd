import math
from collections.abc import Callable

import pytest
import torch
from promises import PROMISES, inputs
from torch import Tensor, nn

import qkv
from qkv.errors import ArgumentError, KindError, ShapeError


@pytest.fixture
def module() -> qkv.Bahdanau:
    torch.manual_seed(0)
    return qkv.Bahdanau(8, 8, 5).double()


def literal(module: qkv.Bahdanau, query: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """One batch row by the paper's equations, a number at a time."""
    w, u = module.score.weight[:, : query.shape[-1]], module.score.weight[:, query.shape[-1] :]
    contexts, weights = [], []
    for s in query:
        e = [sum(module.score.vector * torch.tanh(w @ s + u @ h)) for h in memory]
        total = sum(math.e**one for one in e)
        alpha = [math.e**one / total for one in e]
        contexts.append(sum(a * h for a, h in zip(alpha, memory, strict=True)))
        weights.append(torch.stack(alpha))
    return torch.stack(contexts), torch.stack(weights)


def test_by_hand():
    # v = 1, W = U = 1: e = tanh(0 + 0), tanh(0 + 1).
    module = qkv.Bahdanau(1, 1, 1)
    nn.init.ones_(module.score.weight)
    nn.init.ones_(module.score.vector)
    context = module(torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0]]))
    weight = math.exp(math.tanh(1)) / (1 + math.exp(math.tanh(1)))
    assert context.item() == pytest.approx(weight)


def test_the_equations(module):
    query, memory = inputs()
    context, seen = module.with_map(query, memory)
    torch.testing.assert_close(context, module(query, memory))
    for row in range(3):
        expected, weights = literal(module, query[row], memory[row])
        torch.testing.assert_close(context[row], expected)
        torch.testing.assert_close(seen.dense()[row, 0], weights)


@pytest.mark.parametrize("promise", PROMISES)
def test_promises(promise: Callable, module):
    promise(module)


def test_annotations_read_once_give_the_same(module):
    query, memory = inputs()
    read = module.read(memory)
    torch.testing.assert_close(read(query), module(query, memory))
    for step in range(query.shape[1]):
        torch.testing.assert_close(read(query[:, step : step + 1]), module(query, memory)[:, step : step + 1])
    context, seen = read.with_map(query)
    torch.testing.assert_close(context, module(query, memory))
    torch.testing.assert_close(seen.dense(), module.with_map(query, memory)[1].dense())


@pytest.mark.parametrize("keys", [torch.tensor([4, 6, 0]), torch.arange(6) < torch.tensor([4, 6, 0])[:, None]])
def test_padding_is_read_over(module, keys):
    query, memory = inputs()
    expected = module(query, memory, mask=qkv.padding(keys=keys))
    grads = torch.autograd.grad(expected.pow(2).sum(), [query, *module.parameters()])
    with torch.no_grad():
        memory[0, 4:] = torch.nan
        memory[2] = torch.inf
    out = module.read(memory, keys=keys)(query)
    torch.testing.assert_close(out, expected)
    assert out[2].eq(0).all()
    found = torch.autograd.grad(out.pow(2).sum(), [query, memory, *module.parameters()])
    assert found[1].isfinite().all() and found[1][0, 4:].eq(0).all()
    for one, two in zip([found[0], *found[2:]], grads, strict=True):
        torch.testing.assert_close(one, two)


def test_widths_may_differ():
    module = qkv.Bahdanau(query=3, memory=5, hidden=7)
    query, memory = torch.randn(2, 4, 3), torch.randn(2, 6, 5)
    assert module(query, memory).shape == (2, 4, 5)
    torch.testing.assert_close(module.read(memory)(query), module(query, memory))


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"query": 0}, ArgumentError, "Bahdanau: query must be >= 1; got 0"),
        ({"memory": 0}, ArgumentError, "Bahdanau: memory must be >= 1; got 0"),
        ({"hidden": 0}, ArgumentError, "Bahdanau: hidden must be >= 1; got 0"),
    ],
)
def test_sizes(given, error, text):
    with pytest.raises(error) as raised:
        qkv.Bahdanau(**{"query": 8, "memory": 8, "hidden": 5, **given})
    assert str(raised.value) == text


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("query", "memory", "error", "text"),
    [
        ([[1.0]], torch.ones(2, 8), KindError, "Bahdanau: query must be a tensor; got list"),
        (
            torch.ones(8),
            torch.ones(2, 8),
            ShapeError,
            "Bahdanau: query must have the shape [*batch, positions, width]; got [8]",
        ),
        (
            torch.ones(2, 8),
            torch.ones(1, 2, 8),
            ShapeError,
            "Bahdanau: memory must have the batch [] of the query; got [1] (memory is [1, 2, 8])",
        ),
        (torch.ones(2, 7), torch.ones(2, 8), ShapeError, "Additive: query must have the width 8; got 7 ([1, 2, 7])"),
    ],
)
def test_what_does_not_fit(query, memory, error, text):
    with pytest.raises(error) as raised:
        qkv.Bahdanau(8, 8, 5)(query, memory)
    assert str(raised.value) == text


@pytest.mark.unhooked
def test_what_does_not_fit_a_reading():
    module = qkv.Bahdanau(8, 8, 5)
    with pytest.raises(ShapeError) as raised:
        module.read(torch.ones(2, 7))
    assert str(raised.value) == "Bahdanau.read: memory must have the width 8; got 7 ([2, 7])"
    with pytest.raises(KindError) as raised:
        module.read(torch.ones(2, 8).double())
    expected = "Bahdanau.read: memory must have the weights' dtype torch.float32; got torch.float64"
    assert str(raised.value).startswith(expected)
    with pytest.raises(ShapeError) as raised:
        module.read(torch.ones(2, 8))(torch.ones(2, 7))
    assert str(raised.value) == "Annotations: query must have the width 8; got 7 ([1, 2, 7])"
