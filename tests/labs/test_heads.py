"""The lab on heads: a small run, and heads that say the same."""

from dataclasses import replace

import pytest
import torch
from checks import check_lab

import qkv
from qkv.labs.heads import LAB, TwoBack, ablate, draw, reach, without_head
from qkv.labs.lab import Progress, Verdict

SMALL = replace(LAB.quick, width=32, symbols=4, length=8, steps=3, batch=8, timed_width=32, timed_length=16, rounds=2)


def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    again = LAB.measure(0, SMALL, Progress())
    assert {name for name in figures if figures[name] != again[name]} <= {"times", "time_16"}
    assert LAB.measure(1, SMALL, Progress())["weights"] != figures["weights"]
    assert figures["parameters"] == 4 * 32**2
    assert figures["reach"] == 1


def test_two_back_by_hand():
    symbols, answers = draw(LAB.quick, torch.Generator().manual_seed(0), 2)
    assert answers[1, 7].tolist() == [symbols[1, 6], symbols[1, 3]]


def test_a_head_that_is_cut_says_nothing():
    torch.manual_seed(0)
    model = TwoBack(SMALL, 2)
    both = model.attention.output.weight
    cut = without_head(model, 1).attention.output.weight
    assert torch.equal(cut[:, :16], both[:, :16]) and not cut[:, 16:].any()
    kills, spares, lost = ablate(model, SMALL, 0)
    assert kills == min(lost[0][0], lost[1][1]) and spares == max(lost[0][1], lost[1][0])


def test_heads_that_are_split_before_projecting_reach_half_at_most():
    # Then what the article says of the embedding would hold.
    model = TwoBack(SMALL, 2)
    assert not LAB.claims[0].holds({"reach": reach(model, SMALL, 0)})
    with torch.no_grad():
        for linear in (model.attention.query, model.attention.key):
            linear.weight[:16, 16:], linear.weight[16:, :16] = 0, 0
    # The first head would have the symbols alone, and nothing to make keys of.
    assert reach(model, SMALL, 0) == 0.25
    assert LAB.claims[0].holds({"reach": 0.25})


def test_if_all_heads_look_alike_it_does_not_come_out(monkeypatch):
    class OneMap(qkv.MultiHead):
        """All heads with the first one's queries and keys."""

        def forward(self, x, *arguments, **choices):
            with torch.no_grad():
                for linear in (self.query, self.key):
                    dim = linear.out_features // self.heads
                    linear.weight.copy_(linear.weight[:dim].repeat(self.heads, 1))
            return super().forward(x, *arguments, **choices)

    small = replace(SMALL, heads=(2,), steps=150, batch=32, rate=1e-2)
    sound = LAB.measure(0, small, Progress())
    monkeypatch.setattr(qkv, "MultiHead", OneMap)
    figures = LAB.measure(0, small, Progress())
    missed = {threshold.figure for threshold in LAB.thresholds if not threshold.met([figures])}
    met = {threshold.figure for threshold in LAB.thresholds if threshold.met([sound])}
    assert {"both_2", "kills"} <= missed & met
    assert LAB.verdict([figures]) is Verdict.OPEN
    assert sound["both_2"] == pytest.approx(1, abs=0.05)
