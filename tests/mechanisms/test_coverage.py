import math
from collections.abc import Callable

import pytest
import torch
from promises import KEYS, PROMISES, QUERIES, inputs
from torch import Tensor, nn

import qkv
from qkv.errors import ArgumentError, KindError, ShapeError


@pytest.fixture
def module() -> qkv.Coverage:
    torch.manual_seed(0)
    module = qkv.Coverage(8, 8, 5).double()
    nn.init.normal_(module.bias)
    return module


def literal(module: qkv.Coverage, query: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One batch row by the paper's equations, a number at a time: weights, losses and the coverage left."""
    for_state, for_memory = module.score.weight[:, :8], module.score.weight[:, 8:]
    covered = [torch.zeros((), dtype=torch.float64) for _ in memory]
    weights, losses = [], []
    for s in query:
        e = [
            module.score.vector @ torch.tanh(for_memory @ h + for_state @ s + module.weight * c + module.bias)
            for h, c in zip(memory, covered, strict=True)
        ]
        total = sum(one.exp() for one in e)
        a = [one.exp() / total for one in e]
        losses.append(sum(min(one, c) for one, c in zip(a, covered, strict=True)))
        covered = [c + one for one, c in zip(a, covered, strict=True)]
        weights.append(torch.stack(a))
    return torch.stack(weights), torch.stack(losses), torch.stack(covered)


def test_by_hand():
    # Only the coverage scores: e = −tanh(c). The first query shares equally, and so does the second: c = (½, ½).
    module = qkv.Coverage(1, 1, 1)
    with torch.no_grad():
        module.score.weight.zero_()
        module.score.vector.fill_(-1)
        module.weight.fill_(1)
    memory = torch.tensor([[2.0], [4.0]])
    context, covered = module(torch.zeros(2, 1), memory)
    assert context.flatten().tolist() == pytest.approx([3, 3])
    assert covered.loss.tolist() == pytest.approx([0, 1])
    assert covered.coverage.tolist() == pytest.approx([1, 1])
    # What was covered once is avoided: e = −tanh(1), 0.
    context, covered = module(torch.zeros(1, 1), memory, coverage=torch.tensor([1.0, 0.0]))
    share = math.exp(-math.tanh(1)) / (1 + math.exp(-math.tanh(1)))
    assert covered.weights.flatten().tolist() == pytest.approx([share, 1 - share])
    assert covered.loss.item() == pytest.approx(share)
    assert context.item() == pytest.approx(2 * share + 4 * (1 - share))


def test_the_equations(module):
    query, memory = inputs()
    context, covered = module(query, memory)
    for row in range(3):
        weights, losses, left = literal(module, query[row], memory[row])
        torch.testing.assert_close(covered.weights[row], weights)
        torch.testing.assert_close(covered.loss[row], losses)
        torch.testing.assert_close(covered.coverage[row], left)
        torch.testing.assert_close(context[row], weights @ memory[row])


def test_one_query_at_a_time_is_the_same(module):
    query, memory = inputs()
    mask = qkv.padding(keys=torch.tensor([6, 2, 0]))
    context, covered = module(query, memory, mask=mask)
    coverage = None
    for t in range(QUERIES):
        one, seen = module(query[:, t : t + 1], memory, mask=mask, coverage=coverage)
        torch.testing.assert_close(one[:, 0], context[:, t])
        torch.testing.assert_close(seen.loss[:, 0], covered.loss[:, t])
        coverage = seen.coverage
    torch.testing.assert_close(coverage, covered.coverage)
    assert coverage[1, 2:].eq(0).all() and coverage[2].eq(0).all()


def test_a_query_that_sees_nothing_covers_nothing(module):
    query, memory = inputs()
    shown = torch.ones(QUERIES, KEYS, dtype=torch.bool)
    shown[1] = False
    context, covered = module(query, memory, mask=shown)
    others, without = module(query[:, [0, 2, 3]], memory)
    assert context[:, 1].eq(0).all() and covered.loss[:, 1].eq(0).all()
    torch.testing.assert_close(context[:, [0, 2, 3]], others)
    torch.testing.assert_close(covered.coverage, without.coverage)


def test_the_loss_and_the_coverage_are_differentiable(module):
    query, memory = inputs(batch=())

    def run(query: Tensor, memory: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        _, covered = torch.func.functional_call(module, {"weight": vector}, (query, memory))
        return covered.loss, covered.coverage

    assert torch.autograd.gradcheck(run, (query, memory, module.weight))


def test_nothing_to_attend_to(module):
    query, memory = inputs()
    context, covered = module(query[:, :0], memory)
    assert context.shape == (3, 0, 8) and covered.coverage.eq(0).all()
    context, covered = module(query, memory[:, :0])
    assert context.eq(0).all() and covered.loss.eq(0).all()


def test_widths_may_differ():
    module = qkv.Coverage(query=3, memory=5, hidden=7)
    assert module(torch.randn(2, 4, 3), torch.randn(2, 6, 5))[0].shape == (2, 4, 5)


@pytest.mark.parametrize("promise", PROMISES)
def test_promises(promise: Callable, module):
    promise(module)


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: qkv.Coverage(0, 8, 5), ArgumentError, "Coverage: query must be >= 1; got 0"),
        (lambda: qkv.Coverage(8, 0, 5), ArgumentError, "Coverage: memory must be >= 1; got 0"),
        (lambda: qkv.Coverage(8, 8, 0), ArgumentError, "Coverage: hidden must be >= 1; got 0"),
        (
            lambda: qkv.Coverage(8, 8, 5)(torch.ones(8), torch.ones(2, 8)),
            ShapeError,
            "Coverage: query must have the shape [*batch, positions, width]; got [8]",
        ),
        (
            lambda: qkv.Coverage(8, 8, 5)(torch.ones(2, 8), torch.ones(2, 8), coverage=torch.ones(3)),
            ShapeError,
            "Coverage: coverage must have the memory's shape without its width, [2]; got [3]",
        ),
        (
            lambda: qkv.Coverage(8, 8, 5)(torch.ones(2, 8), torch.ones(2, 8), coverage=0.0),
            KindError,
            "Coverage: coverage must be a floating tensor; got float",
        ),
        (
            lambda: qkv.Coverage(8, 8, 5)(torch.ones(2, 8), torch.ones(2, 8), coverage=torch.zeros(2, device="meta")),
            KindError,
            "Coverage: coverage must be on the query's device cpu; got meta",
        ),
    ],
)
def test_what_does_not_fit(make, error, text):
    with pytest.raises(error) as raised:
        make()
    assert str(raised.value) == text
