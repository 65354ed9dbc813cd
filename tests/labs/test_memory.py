"""The lab on memory: a small run, and gradients that are known."""

from dataclasses import replace

import pytest
import torch
from checks import check_lab
from torch import nn

from qkv.labs import memory
from qkv.labs.lab import Progress
from qkv.labs.memory import LAB, Linear, depth, one, pairs, reach

SMALL = replace(LAB.quick, steps=4, batch=4, asked=8, distances=(8, 32), speed_lengths=(8, 16))


@pytest.mark.slow
def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    assert figures["orthogonal_reach"] == pytest.approx(1.0, abs=1e-4)
    assert figures["plain_reach"] < 1e-9


def test_questions_have_their_answers():
    size, chance = LAB.quick, torch.Generator().manual_seed(0)
    first, second, answers = one(size, 5, 20, chance, far=True)
    assert first.shape == second.shape == (20, 6) and torch.equal(first[:, 0], answers + size.symbols)
    assert (first[:, 1:5] < size.symbols).all() and (first[:, 5] == 2 * size.symbols).all()
    for far in (False, True):
        keys, values, answers = pairs(size, 5, 20, chance, far=far)
        for row in range(20):
            place = keys[row, :5].tolist().index(int(keys[row, 5]))
            assert values[row, place] == answers[row] and values[row, 5] == size.symbols and (place == 0 or not far)
            assert len(set(keys[row, :5].tolist())) == 5


def test_operations_that_wait_for_one_another():
    x = torch.ones(3, requires_grad=True)
    assert depth(x * 2) < depth((x * 2) * 2) == depth((x * 2) * (x * 2))
    layer = Linear(4)
    short, long = (depth(layer(torch.zeros(1, length, 4))[0]) for length in (10, 20))
    assert long - short == 20


def test_a_gradient_that_is_known():
    layer = Linear(4)
    halves = nn.Linear(4, 4, bias=False)
    halves.weight.data = 0.5 * torch.eye(4)
    layer.onward = halves
    assert reach(layer, 4, 10, torch.Generator().manual_seed(0)) == pytest.approx(0.5**10)


@pytest.mark.slow
def test_a_matrix_that_shrinks_does_not_come_out(monkeypatch):
    def shrinking(width):
        layer = Linear(width)
        layer.onward = nn.Linear(width, width, bias=False)
        return layer

    monkeypatch.setitem(memory.LAYERS, "orthogonal", shrinking)
    figures = LAB.measure(0, SMALL, Progress())
    assert "orthogonal_reach" in {threshold.figure for threshold in LAB.thresholds if not threshold.met([figures])}
