import math
from collections.abc import Callable

import pytest
import torch
from promises import KEYS, PROMISES, QUERIES, inputs
from torch import Tensor

import qkv
from qkv.errors import ArgumentError, KindError, ShapeError


def predictive(reach: int = 2) -> qkv.LocalPredictive:
    torch.manual_seed(0)
    return qkv.LocalPredictive(8, qkv.dot(), reach, hidden=5).double()


MODULES = {"local-m": lambda: qkv.LocalMonotonic(qkv.dot(), 2), "local-p": predictive}


def align(h: Tensor, memory: Tensor, window: list[int]) -> dict[int, Tensor]:
    """Equation 7 over a window, with the dot score."""
    total = sum((h @ memory[s]).exp() for s in window)
    return {s: (h @ memory[s]).exp() / total for s in window}


def literal_predictive(module: qkv.LocalPredictive, h: Tensor, memory: Tensor) -> tuple[float, Tensor]:
    """Equations 9 and 10 for one target state and a source without padding: the place, and the weights."""
    source, reach = len(memory), module.reach
    place = source * torch.sigmoid(module.vector @ torch.tanh(module.weight @ h))
    window = [s for s in range(source) if place - reach <= s <= place + reach]
    weights = memory.new_zeros(source)
    for s, share in align(h, memory, window).items():
        weights[s] = share * torch.exp(-((s - place) ** 2) / (2 * (reach / 2) ** 2))
    return place, weights


def test_local_m_by_hand():
    # Equal scores, D = 1: each query averages its neighbours, cut at the ends; the fifth has nothing left to see.
    memory = torch.tensor([[3.0], [6.0], [9.0]])
    out = qkv.LocalMonotonic(qkv.dot(), 1)(torch.zeros(5, 1), memory)
    assert out.flatten().tolist() == pytest.approx([4.5, 6.0, 7.5, 9.0, 0.0])


def test_local_p_by_hand():
    # v = 0: p = S/2 = 1.5, D = 1, σ = 1/2: positions 1 and 2, each half a step away, share equally.
    module = qkv.LocalPredictive(1, qkv.dot(), 1)
    torch.nn.init.zeros_(module.vector)
    out = module(torch.zeros(1, 1), torch.tensor([[1.0], [2.0], [4.0]]))
    assert module.predict(torch.zeros(1, 1), torch.ones(3, 1)).item() == 1.5
    assert out.item() == pytest.approx((1 + 2) * math.exp(-0.5))


def test_local_m_is_global_attention_in_a_window():
    query, memory = inputs()
    out, seen = qkv.LocalMonotonic(qkv.dot(), 1).with_map(query, memory)
    for row in range(3):
        for t in range(QUERIES):
            window = [s for s in range(KEYS) if t - 1 <= s <= t + 1]
            shares = align(query[row, t], memory[row], window)
            torch.testing.assert_close(out[row, t], sum(share * memory[row, s] for s, share in shares.items()))
            assert seen.dense()[row, 0, t].nonzero().flatten().tolist() == window


@pytest.mark.parametrize("position", [3, torch.tensor([3, 0, 5])])
def test_local_m_at_given_places(position):
    query, memory = inputs()
    module = qkv.LocalMonotonic(qkv.dot(), 1)
    places = torch.as_tensor(position).expand(3)
    out = module(query[:, :1], memory, position=position)
    torch.testing.assert_close(module.with_map(query[:, :1], memory, position=position)[0], out)
    for row, place in enumerate(places.tolist()):
        beside = torch.zeros(1, place + 1, 8, dtype=torch.float64)
        beside[0, -1] = query[row, 0]
        torch.testing.assert_close(out[row, 0], module(beside, memory[row : row + 1])[0, -1])


def test_local_m_takes_any_mask_besides():
    query, memory = inputs()
    module = qkv.LocalMonotonic(qkv.dot(), 1)
    mask = qkv.padding(keys=torch.tensor([1, 6, 3]))
    out = module(query, memory, mask=mask)
    torch.testing.assert_close(module(query, memory, mask=mask.dense(QUERIES, KEYS, batch=(3,))), out)
    # The window of row 0 lies in the padding from position 2 on.
    assert out[0, 2:].eq(0).all() and out[0, :2].ne(0).any()


@pytest.mark.parametrize("reach", [1, 2, 5, 50])
def test_local_p_by_the_equations(reach):
    module = predictive(reach)
    query, memory = inputs()
    query = query * 3
    out, seen = module.with_map(query, memory)
    places = module.predict(query, memory)
    assert places.min() >= 0 and places.max() <= KEYS
    for row in range(3):
        for t in range(QUERIES):
            place, weights = literal_predictive(module, query[row, t], memory[row])
            torch.testing.assert_close(places[row, t], place)
            torch.testing.assert_close(seen.dense()[row, 0, t], weights)
            torch.testing.assert_close(out[row, t], weights @ memory[row])


def test_local_p_is_a_biased_attention_less_its_normaliser():
    # The weights are those of a log-Gaussian bias, times exp(logsumexp with the bias − logsumexp without).
    module = predictive()
    query, memory = inputs()
    place = module.predict(query, memory)
    away = torch.arange(KEYS) - place[..., None]
    near = qkv.dense_mask((away.abs() <= module.reach)[:, None])
    one, states = query[:, None], memory[:, None]
    bias = -(away**2)[:, None] / (2 * (module.reach / 2) ** 2)
    biased, with_bias = qkv.attend_with_map(one, states, states, score=qkv.dot(), mask=near, bias=bias)
    without = qkv.attention_map(one, states, score=qkv.dot(), mask=near)
    expected = biased * (with_bias.logsumexp() - without.logsumexp()).exp()[..., None]
    torch.testing.assert_close(module(query, memory), expected[:, 0])


def test_each_source_has_its_own_length():
    module = predictive()
    query, memory = inputs()
    lengths = torch.tensor([4, 6, 1])
    out = module(query, memory, mask=qkv.padding(keys=lengths))
    places = module.predict(query, memory, mask=qkv.padding(keys=lengths))
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(out[row], module(query[row], memory[row, :length]))
        torch.testing.assert_close(places[row], module.predict(query[row], memory[row, :length]))
    # Padding on the left moves the window along with the source.
    moved = torch.cat((memory[:1, 4:], memory[:1, :4]), dim=1)
    left = qkv.padding(keys=torch.tensor([4]), left=True)
    torch.testing.assert_close(module(query[:1], moved, mask=left), out[:1])
    torch.testing.assert_close(module.predict(query[:1], moved, mask=left), places[:1] + 2)


def test_a_window_without_a_position_gives_zero():
    # The place is 3 and D = 1, but of the source only its ends are shown.
    module = predictive(1)
    torch.nn.init.zeros_(module.vector)
    query, memory = inputs()
    shown = torch.tensor([True, False, False, False, False, True])
    out = module(query, memory, mask=shown.expand(1, KEYS))
    assert out.eq(0).all()
    out.sum().backward()
    assert all(x.grad.isfinite().all() for x in (query, memory, module.weight, module.vector))


def test_gradients_reach_the_place():
    module = predictive()
    query, memory = inputs()
    out, seen = module.with_map(query, memory.detach())
    for loss in (out.pow(2).sum(), seen.dense().pow(2).sum(), seen.entropy().sum()):
        grads = torch.autograd.grad(loss, [module.weight, module.vector], retain_graph=True)
        assert all(grad.isfinite().all() and grad.ne(0).any() for grad in grads)


def test_the_map_of_one_example_is_its_own():
    module = predictive()
    query, memory = inputs()
    _, seen = module.with_map(query, memory)
    assert repr(seen.select) == "gaussian(deviation=1)"
    torch.testing.assert_close(seen.example(1).dense()[0], seen.dense()[1])
    torch.testing.assert_close(seen.row(2), seen.dense()[..., 2, :])
    torch.testing.assert_close(seen[1, 0, 1:3, 2:4], seen.dense()[1, 0, 1:3, 2:4])


@pytest.mark.parametrize("name", MODULES)
def test_a_nan_is_not_swallowed(name):
    query, memory = inputs()
    with torch.no_grad():
        query[0, 0, 0] = torch.nan
    out = MODULES[name]()(query, memory)
    assert out[0, 0].isnan().all()
    assert out[0, 1:].isfinite().all() and out[1:].isfinite().all()


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("name", MODULES)
def test_promises(promise: Callable, name):
    promise(MODULES[name]())


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: qkv.LocalMonotonic(qkv.dot(), -1),
            ArgumentError,
            "LocalMonotonic: reach must be >= 0; got -1 (positions to each side)",
        ),
        (
            lambda: qkv.LocalMonotonic(qkv.dot(), 1)(torch.ones(8), torch.ones(2, 8)),
            ShapeError,
            "LocalMonotonic: query must have the shape [*batch, positions, width]; got [8]",
        ),
        (lambda: qkv.LocalPredictive(0, qkv.dot(), 1), ArgumentError, "LocalPredictive: query must be >= 1; got 0"),
        (
            lambda: qkv.LocalPredictive(8, qkv.dot(), 0),
            ArgumentError,
            "LocalPredictive: reach must be >= 1; got 0 (positions to each side)",
        ),
        (
            lambda: qkv.LocalPredictive(8, qkv.dot(), 2, hidden=0),
            ArgumentError,
            "LocalPredictive: hidden must be >= 1; got 0",
        ),
        (
            lambda: qkv.LocalPredictive(8, qkv.dot(), 1)(torch.ones(2, 7), torch.ones(2, 7)),
            ShapeError,
            "LocalPredictive: query must have the width 8; got 7 ([2, 7])",
        ),
        (
            lambda: predictive().predict(torch.ones(2, 8), torch.ones(2, 8)),
            KindError,
            "LocalPredictive: query must have the weights' dtype torch.float64; got torch.float32 "
            "(module.to(torch.float32))",
        ),
    ],
)
def test_what_does_not_fit(make, error, text):
    with pytest.raises(error) as raised:
        make()
    assert str(raised.value) == text


def test_a_reach_beyond_every_memory_is_refused():
    with pytest.raises(ArgumentError, match=r"^LocalMonotonic: reach must be below 2\^31; got 1180591620717411303424$"):
        qkv.LocalMonotonic(qkv.dot(), 1 << 70)
