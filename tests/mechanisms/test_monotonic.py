import itertools
from collections.abc import Callable

import pytest
import torch
from promises import KEYS, PROMISES, QUERIES, inputs
from torch import Tensor, nn

import qkv
from qkv.errors import ArgumentError, KindError, ShapeError, UnsupportedError
from qkv.mechanisms.monotonic import _reach


@pytest.fixture
def module() -> qkv.Monotonic:
    torch.manual_seed(0)
    module = qkv.Monotonic(8, 8, 5, offset=-0.5).double()
    nn.init.normal_(module.bias)
    nn.init.constant_(module.gain, 3.0)
    return module


def energies(module: qkv.Monotonic, query: Tensor, memory: Tensor) -> Tensor:
    """One batch row's g · v/‖v‖ · tanh(W s + V h + b) + r, a pair at a time."""
    w, v = module.score.weight[:, :8], module.score.weight[:, 8:]
    unit = module.score.vector / module.score.vector.norm()
    rows = [[unit @ torch.tanh(w @ s + v @ h + module.bias) for h in memory] for s in query]
    return module.gain * torch.stack([torch.stack(row) for row in rows]) + module.offset


def recurrence(chance: Tensor) -> Tensor:
    """Equations 13 and 14 as they stand: q_ij = (1 − p_i,j−1) q_i,j−1 + α_i−1,j, α = p q."""
    before = [1.0] + [0.0] * (chance.shape[1] - 1)
    rows = []
    for p in chance:
        q, last, row = 0.0, 0.0, []
        for j in range(len(p)):
            q = (1 - last) * q + before[j]
            last = p[j]
            row.append(p[j] * q)
        rows.append(torch.stack(row))
        before = row
    return torch.stack(rows)


def test_by_hand():
    # Every p is 1/2. First row: 1/2, 1/4, 1/8; second: q = 1/2, 1/2, 3/8.
    module = qkv.Monotonic(1, 1, 1, offset=0.0)
    nn.init.zeros_(module.gain)
    memory = torch.tensor([[1.0], [10.0], [100.0]])
    context, expected = module(torch.zeros(2, 1), memory)
    assert expected.weights.tolist() == [[1 / 2, 1 / 4, 1 / 8], [1 / 4, 1 / 4, 3 / 16]]
    assert expected.last.tolist() == [1 / 4, 1 / 4, 3 / 16]
    assert context.flatten().tolist() == pytest.approx([15.5, 21.5])


def test_the_equations(module):
    query, memory = inputs()
    context, expected = module(query, memory)
    for row in range(3):
        weights = recurrence(torch.sigmoid(energies(module, query[row], memory[row])))
        torch.testing.assert_close(expected.weights[row], weights)
        torch.testing.assert_close(context[row], weights @ memory[row])


def test_the_weights_are_the_chances_of_all_walks(module):
    # All ways in which 3 queries can stop at, or pass, 4 places.
    query, memory = inputs(batch=())
    query, memory = query[:3], memory[:4]
    chance = torch.sigmoid(energies(module, query, memory))
    total = torch.zeros(3, 4, dtype=torch.float64)
    for stops in itertools.product(range(5), repeat=3):
        start, likely = 0, 1.0
        for i, stop in enumerate(stops):
            likely *= stop >= start
            for j in range(start, stop):
                likely = likely * (1 - chance[i, j])
            likely = likely * chance[i, stop] if stop < 4 else likely
            start = stop
        for i, stop in enumerate(stops):
            if stop < 4:
                total[i, stop] += likely
    torch.testing.assert_close(module(query, memory)[1].weights, total)


@pytest.mark.parametrize("gain", [1e5, 1e8])
def test_certain_walks_are_decoded(module, gain):
    # Where every p is 0 or 1, the expectation is the walk itself, and its gradients stay finite.
    nn.init.constant_(module.gain, gain)
    nn.init.constant_(module.offset, -0.2 * gain)
    for seed in range(20):
        query, memory = inputs(seed)
        context, expected = module(query, memory)
        walked, stopped = module.decode(query, memory)
        torch.testing.assert_close(context, walked)
        where = torch.where(stopped.index >= 0, stopped.index, KEYS)
        assert torch.equal(expected.weights.round(), nn.functional.one_hot(where, KEYS + 1)[..., :-1].double())
        grads = torch.autograd.grad(context.sum(), [query, memory, *module.parameters()])
        assert all(grad.isfinite().all() for grad in grads)


def test_long_memories_do_not_underflow():
    # p = 1/2 at 2,000 places: the closed form of cumulative products would divide by 2⁻²⁰⁰⁰.
    module = qkv.Monotonic(1, 1, 1, offset=0.0)
    nn.init.zeros_(module.gain)
    _, expected = module(torch.zeros(40, 1), torch.ones(2000, 1))
    assert expected.weights.isfinite().all()
    # The 40th query stops after as many heads as 40: a negative binomial, spread around place 39 of the coin tosses.
    assert expected.last.sum().item() == pytest.approx(1, abs=1e-5)
    places = torch.arange(2000)
    assert (expected.last * places).sum().item() == pytest.approx(40, abs=1e-3)


@pytest.mark.parametrize("keys", [1, 2, 3, 7, 8, 9])
def test_the_doubling_steps_are_the_recurrence(keys):
    torch.manual_seed(keys)
    walk, previous = torch.rand(2, keys).double()
    q, found = torch.zeros(()).double(), []
    for j in range(keys):
        q = (walk[j - 1] * q if j else 0) + previous[j]
        found.append(q)
    torch.testing.assert_close(_reach(walk, previous), torch.stack(found))


def test_decoding_by_the_algorithm(module):
    for seed in range(10):
        query, memory = inputs(seed)
        context, stopped = module.decode(query, memory)
        for row in range(3):
            chance = torch.sigmoid(energies(module, query[row], memory[row]))
            start = 0
            for i in range(QUERIES):
                stop = next((j for j in range(start, KEYS) if chance[i, j] > 0.5), KEYS)
                assert stopped.index[row, i] == (stop if stop < KEYS else -1)
                expected = memory[row, stop] if stop < KEYS else torch.zeros(8, dtype=torch.float64)
                assert torch.equal(context[row, i], expected)
                start = stop
            assert stopped.last[row] == start
        assert not context.requires_grad


def test_one_query_at_a_time_is_the_same(module):
    query, memory = inputs()
    mask = qkv.padding(keys=torch.tensor([6, 2, 0]))
    context, expected = module(query, memory, mask=mask)
    walked, stopped = module.decode(query, memory, mask=mask)
    previous, start = None, None
    for t in range(QUERIES):
        one, seen = module(query[:, t : t + 1], memory, mask=mask, previous=previous)
        torch.testing.assert_close(one[:, 0], context[:, t])
        previous = seen.last
        one, found = module.decode(query[:, t : t + 1], memory, mask=mask, start=start)
        assert torch.equal(one[:, 0], walked[:, t])
        assert torch.equal(found.index[:, 0], stopped.index[:, t])
        start = found.last
    torch.testing.assert_close(previous, expected.last)
    assert torch.equal(start, stopped.last)
    assert walked[2].eq(0).all() and stopped.index[2].eq(-1).all()


def test_a_query_that_sees_nothing_moves_nothing(module):
    query, memory = inputs()
    shown = torch.ones(QUERIES, KEYS, dtype=torch.bool)
    shown[1] = False
    left = [0, 2, 3]
    context, expected = module(query, memory, mask=shown)
    others, without = module(query[:, left], memory)
    assert context[:, 1].eq(0).all() and expected.weights[:, 1].eq(0).all()
    torch.testing.assert_close(context[:, left], others)
    torch.testing.assert_close(expected.last, without.last)
    nn.init.constant_(module.offset, 1.0)
    walked, stopped = module.decode(query, memory, mask=shown)
    assert walked[:, 1].eq(0).all() and stopped.index[:, 1].eq(-1).all()
    assert stopped.index[:, 3].max() >= 0
    assert torch.equal(walked[:, left], module.decode(query[:, left], memory)[0])


def test_hidden_places_are_walked_past(module):
    query, memory = inputs()
    kept = [0, 1, 3, 5]
    shown = torch.zeros(1, KEYS, dtype=torch.bool)
    shown[0, kept] = True
    context, expected = module(query, memory, mask=shown)
    without, weights = module(query, memory[:, kept])
    torch.testing.assert_close(context, without)
    torch.testing.assert_close(expected.weights[..., kept], weights.weights)
    assert expected.weights[..., [2, 4]].eq(0).all()
    assert torch.equal(module.decode(query, memory, mask=shown)[0], module.decode(query, memory[:, kept])[0])


def test_noise_is_an_argument(module):
    query, memory = inputs()
    assert torch.equal(module.train()(query, memory)[0], module.eval()(query, memory)[0])
    torch.manual_seed(0)
    noisy, _ = module(query, memory, noise=1.0)
    assert not torch.allclose(noisy, module(query, memory)[0])
    torch.manual_seed(0)
    assert torch.equal(module(query, memory, noise=1.0)[0], noisy)
    # The chance of stopping at the first place, over the noise: the mean of σ(e + n).
    torch.manual_seed(0)
    many = query[:1, :1].expand(20_000, 1, 8)
    first = module(many, memory[:1].expand(20_000, KEYS, 8), noise=2.0)[1].weights[:, 0, 0]
    e = energies(module, query[0, :1], memory[0, :1]).item()
    grid = torch.linspace(-8, 8, 4001).double()
    mean = (torch.sigmoid(e + 2 * grid) * torch.exp(-(grid**2) / 2)).sum() / torch.exp(-(grid**2) / 2).sum()
    assert (first.mean() - mean).abs() < 4.5 * first.std() / 20_000**0.5


def test_the_start(module):
    fresh = qkv.Monotonic(8, 8, 4, offset=-4.0)
    assert fresh.gain.item() == 0.5 and fresh.offset.item() == -4.0
    assert qkv.Monotonic(8, 8, 4).offset.item() == -1.0
    query, memory = inputs()
    assert module(query[:, :0], memory)[1].last[0].tolist() == [1, 0, 0, 0, 0, 0]
    assert module.decode(query[:, :0], memory)[1].last.eq(0).all()
    assert module(query, memory[:, :0])[0].eq(0).all()
    assert module.decode(query, memory[:, :0])[0].eq(0).all()


@pytest.mark.parametrize("promise", PROMISES)
def test_promises(promise: Callable, module):
    promise(module)


def test_padding_reaches_no_walk(module):
    query, memory = inputs()
    mask = qkv.padding(keys=torch.tensor([3, 6, 0]))
    expected = module.decode(query, memory, mask=mask)[0]
    with torch.no_grad():
        memory[0, 3:] = torch.nan
        memory[2] = torch.nan
    assert torch.equal(module.decode(query, memory, mask=mask)[0], expected)


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: qkv.Monotonic(0, 8, 5), ArgumentError, "Monotonic: query must be >= 1; got 0"),
        (lambda: qkv.Monotonic(8, 0, 5), ArgumentError, "Monotonic: memory must be >= 1; got 0"),
        (lambda: qkv.Monotonic(8, 8, 0), ArgumentError, "Monotonic: hidden must be >= 1; got 0"),
        (
            lambda: qkv.Monotonic(8, 8, 5, offset="low"),
            KindError,
            "Monotonic: offset must be a finite number; got str",
        ),
        (
            lambda: qkv.Monotonic(8, 8, 5)(torch.ones(2, 8), torch.ones(2, 8), noise=-1.0),
            ArgumentError,
            "Monotonic: noise must be a number >= 0; got -1.0 (a standard deviation)",
        ),
        (
            lambda: qkv.Monotonic(8, 8, 5)(torch.ones(2, 8), torch.ones(2, 8), previous=torch.ones(3)),
            ShapeError,
            "Monotonic: previous must have the memory's shape without its width, [2]; got [3]",
        ),
        (
            lambda: qkv.Monotonic(8, 8, 5).decode(torch.ones(2, 8), torch.ones(2, 8), start=torch.tensor([1])),
            ShapeError,
            "Monotonic.decode: start must have the shape [*batch]; got [1]",
        ),
        (
            lambda: qkv.Monotonic(8, 8, 5).decode(torch.ones(2, 8), torch.ones(2, 8), start=torch.tensor(3)),
            ArgumentError,
            "Monotonic.decode: start must lie in 0..2; got 3",
        ),
        (
            lambda: qkv.Monotonic(8, 8, 5).decode(torch.ones(2, 8), torch.ones(2, 8), start=1),
            KindError,
            "Monotonic.decode: start must be a tensor of integers; got int",
        ),
        (
            lambda: qkv.Monotonic(8, 8, 5)(torch.ones(2, 8), torch.ones(2, 8), previous=torch.ones(2).long()),
            KindError,
            "Monotonic: previous must be a floating tensor; got torch.int64",
        ),
        (
            lambda: qkv.Monotonic(8, 8, 5).with_map(torch.ones(2, 8), torch.ones(2, 8)),
            UnsupportedError,
            "Monotonic.with_map: the mechanism must have weights that are defined row by row; got monotonic attention "
            "(a row follows from the one before; the module's second result holds all weights)",
        ),
    ],
)
def test_what_does_not_fit(make, error, text):
    with pytest.raises(error) as raised:
        make()
    assert str(raised.value) == text
