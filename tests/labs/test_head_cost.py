"""The lab on the cost of heads: a small run, and heads that are split before they project."""

from dataclasses import replace

import pytest
import torch
from checks import check_lab

import qkv
from qkv.labs.head_cost import LAB, SplitFirst, costs, count_parameters, divergence
from qkv.labs.lab import Progress, Verdict

SMALL = replace(
    LAB.quick, width=32, length=16, rounds=2, dims=(1, 16, 31), fits=3, whole_width=32, split_width=42, steps=2
)


def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    again = LAB.measure(0, SMALL, Progress())
    assert {name for name in figures if figures[name] != again[name]} <= {"times", "times_most"}
    assert LAB.measure(1, SMALL, Progress())["whole"] != figures["whole"]


def test_costs_by_hand():
    found = costs(SMALL, Progress())
    assert found["parameters"] == found["operations"] == [1] * 5
    assert found["scores"] == [1, 2, 4, 8, 16] and found["squares"] == 4
    # Keys and values of one head of sixteen: 2d² + 2d²/16.
    assert found["shared_squares"] == 2 + 2 / 16


def test_split_first_has_fewer_parameters():
    assert count_parameters(SplitFirst(8, 2)) == 3 * 8**2 // 2 + 8**2
    assert count_parameters(SplitFirst(LAB.quick.split_width, 2)) >= 4 * LAB.quick.whole_width**2


def test_a_wide_head_fits_any_pattern():
    small = replace(SMALL, pattern=4, fits=400)
    narrow, wide = (divergence(dim, small, 0, Progress()) for dim in (1, 3))
    assert wide < 1e-4 < narrow


def test_if_heads_are_split_first_it_does_not_come_out(monkeypatch):
    class Split(qkv.MultiHead):
        """Each head sees its own piece of the embedding."""

        def forward(self, x, *arguments, **choices):
            dim = x.shape[-1] // self.heads
            own = torch.block_diag(*[torch.ones(dim, dim)] * self.heads)
            with torch.no_grad():
                for linear in (self.query, self.key, self.value):
                    linear.weight.mul_(own)
            return super().forward(x, *arguments, **choices)

    small = replace(SMALL, steps=120, batch=32, rate=1e-2)
    sound = LAB.measure(0, small, Progress())
    monkeypatch.setattr(qkv, "MultiHead", Split)
    figures = LAB.measure(0, small, Progress())
    met = {threshold.figure for threshold in LAB.thresholds if threshold.met([sound])}
    missed = {threshold.figure for threshold in LAB.thresholds if not threshold.met([figures])}
    assert "split_lost" in met & missed
    assert sound["whole"] == pytest.approx(1, abs=0.05)
    assert LAB.verdict([figures]) is Verdict.OPEN
