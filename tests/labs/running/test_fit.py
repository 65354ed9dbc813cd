"""The labs' training loop: its rates, its clipping, and that it learns."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from qkv.labs.lab import Progress
from qkv.labs.running.fit import fit


def test_it_learns_a_line():
    torch.manual_seed(0)
    line, x = nn.Linear(1, 1), torch.linspace(-1, 1, 32)[:, None]

    def loss(step):
        return (line(x) - 2 * x - 1).square().mean()

    losses = fit(line.parameters(), loss, steps=300, rate=0.05, progress=Progress(), doing="a line")
    assert len(losses) == 300 and losses[-1] < 1e-3 < losses[0]
    assert line.weight.item() == pytest.approx(2, abs=0.05)


def test_the_rate_rises_stays_and_falls():
    # Adam's first step is as long as the rate, whatever the gradient; on a slope that stays, so is each.
    at, places = nn.Parameter(torch.zeros(1)), []

    def loss(step):
        places.append(at.item())
        return at.sum()

    fit([at], loss, steps=8, rate=0.1, warm_up=2, cool_down=4, progress=Progress(), doing="a slope")
    places.append(at.item())
    steps = [before - after for before, after in pairwise(places)]
    assert steps == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.1, 0.075, 0.05, 0.025], abs=1e-4)


def test_it_tells_how_far_it_is():
    told = []

    class Told(Progress):
        def tell(self, doing, done=0, whole=None):
            told.append((doing, done, whole))

    at = nn.Parameter(torch.zeros(1))
    fit([at], lambda step: at.sum(), steps=3, rate=0.1, progress=Told(), doing="three")
    assert told == [("three", 0, 3), ("three", 1, 3), ("three", 2, 3)]
