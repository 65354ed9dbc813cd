"""Kernels of dropout, GELU and a softmax: the definitions, line by line, and whatever float32 holds."""

import numpy as np
import pytest
import torch
from budget import assert_within
from torch.nn import functional as F

from qkv.core.dropout import mix, threshold
from qkv.models.pointwise import kernel

LINES = 3
COUNT = LINES * kernel.LINE - 5


@pytest.mark.parametrize("seed", [0, 7, (1 << 61) + 12345])
@pytest.mark.parametrize("rate", [0.1, 0.9])
def test_what_is_dropped_follows_from_seed_line_and_place(seed, rate):
    x, out = np.random.default_rng(0).normal(size=COUNT), np.empty(COUNT)
    kernel.drop(x, out, 0, LINES, seed, threshold(rate) - 1, 1 / (1 - rate))
    stream = mix(mix(torch.tensor(seed & 0xFFFFFFFF)) ^ (seed >> 32))
    lines, places = torch.arange(LINES)[:, None], torch.arange(kernel.LINE)
    keep = (mix(mix(stream ^ lines) ^ places) >= threshold(rate)).flatten()[:COUNT]
    assert np.array_equal(out, np.where(keep.numpy(), x * (1 / (1 - rate)), 0))


def test_a_number_that_is_dropped_is_0_whatever_it_was():
    x, out = np.full(COUNT, np.nan, np.float32), np.empty(COUNT, np.float32)
    kernel.drop(x, out, 0, LINES, 1, threshold(0.5) - 1, 2.0)
    assert set(np.unique(np.isnan(out))) == {False, True} and (out[~np.isnan(out)] == 0).all()


def test_lines_are_taken_by_themselves():
    x = np.random.default_rng(0).normal(size=COUNT).astype(np.float32)
    whole, parts = (np.zeros(COUNT, np.float32) for _ in range(2))
    kernel.drop(x, whole, 0, LINES, 1, threshold(0.5) - 1, 2.0)
    for line in (2, 0, 1):
        kernel.drop(x, parts, line, line + 1, 1, threshold(0.5) - 1, 2.0)
    assert np.array_equal(whole, parts)


def gelu_of(x):
    """Give what the kernels give for x, and for its gradient under one that grows."""
    out, slope, above = torch.empty_like(x), torch.empty_like(x), torch.linspace(-1, 1, len(x))
    lines = -(-len(x) // kernel.LINE)
    kernel.gelu(x.numpy(), out.numpy(), 0, lines)
    kernel.gelu_slope(x.numpy(), above.numpy(), slope.numpy(), 0, lines)
    return out, slope, above


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 20.0, 1e4])
def test_gelu_by_tanh(scale):
    x = torch.linspace(-scale, scale, COUNT)
    out, slope, above = gelu_of(x)
    exact, plain = (F.gelu(x.to(dtype), approximate="tanh") for dtype in (torch.float64, torch.float32))
    assert_within(out, exact, plain)
    back = torch.ops.aten.gelu_backward
    exact, plain = (back(above.to(dtype), x.to(dtype), approximate="tanh") for dtype in (torch.float64, torch.float32))
    assert_within(slope, exact, plain)


def test_gelu_of_what_no_float32_squares():
    out, slope, above = gelu_of(torch.tensor([-1e30, -1e15, 1e15, 1e30, torch.inf, torch.nan]))
    assert torch.equal(out[:5], torch.tensor([-0.0, -0.0, 1e15, 1e30, torch.inf])) and out[5].isnan()
    assert torch.equal(slope[:5], above[:5] * torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])) and slope[5].isnan()


ROWS = {
    "near": torch.linspace(-1, 1, 300),
    "negative": torch.linspace(-300, -200, 300),
    "far": torch.linspace(-1e4, 1e4, 300),
    "one": torch.tensor([3.0]),
    "hidden": torch.cat([torch.full((150,), -torch.inf), torch.linspace(-5, 5, 150)]),
    "nothing": torch.full((300,), -torch.inf),
    "infinite": torch.cat([torch.zeros(299), torch.tensor([torch.inf])]),
    "no number": torch.cat([torch.tensor([-torch.nan]), torch.zeros(299)]),
}


@pytest.mark.parametrize("name", ROWS)
def test_softmax(name):
    row = ROWS[name]
    logits = torch.stack([torch.zeros_like(row), row, torch.zeros_like(row)])
    peak, rest = torch.full((3,), 5.0), torch.full((3,), 5.0)
    exact, plain = row.double().softmax(-1), row.softmax(-1)
    kernel.softmax(logits.numpy(), peak.numpy(), rest.numpy(), 1, 2)
    assert_within(logits[1], exact, plain)
    # A row that has no softmax has no level either, where logsumexp gives its infinite peak.
    level = row.double().logsumexp(-1, keepdim=True) if exact.isfinite().all() else torch.tensor([torch.nan]).double()
    assert_within((peak + rest)[1:2], level, row.logsumexp(-1, keepdim=True))
    # Other rows are left alone.
    assert (logits[::2] == 0).all() and (peak[::2] == 5).all() and (rest[::2] == 5).all()
