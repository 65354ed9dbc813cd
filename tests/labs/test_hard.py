"""The lab on hard attention: a small run, gradients by hand, and a baseline that does not move."""

from dataclasses import replace

import pytest
import torch
from checks import check_lab, same_again

import qkv
from qkv.labs.hard import LAB, Choosing, chi_square, estimate, mark, survival
from qkv.labs.lab import Progress, Verdict

SMALL = replace(
    LAB.quick, problems=2, offsets=(0.0, 10.0), draws=4, settling=60, estimates=300, scenes=20, steps=3, batch=8
)


def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    same_again(LAB, SMALL, figures)


def test_the_exact_gradient_by_hand():
    # Two places, equally likely, with rewards 0 and −2: the mean is −1.
    choosing = Choosing(torch.zeros(2).double(), torch.tensor([[1.0], [3.0]]).double(), torch.ones(1).double())
    assert choosing.exact().tolist() == [0.5, -0.5]
    # With the baseline −1 every draw gives the same estimate, whatever the offset.
    assert choosing.variance(0.0) == choosing.variance(7.0) == pytest.approx(0)


def test_chi_square_by_hand():
    # Two components of variance 2/3 that do not go together, and a third that makes the sum 0; four estimates.
    estimates = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0], [0.0, 1.0, -1.0], [0.0, -1.0, 1.0]]).double()
    assert chi_square(torch.tensor([1.0, 0.0, -1.0]).double(), estimates) == pytest.approx(6)
    assert survival(3.841459, 1) == pytest.approx(0.05, abs=1e-6)


def test_what_is_asked_bears_the_mark():
    digits, labels = torch.zeros(10, 64), torch.arange(10)
    digits[:, 7] = labels / 10
    cells, asked, answers, where = mark(digits, labels, 50, SMALL, torch.Generator().manual_seed(0))
    found = cells[torch.arange(50), where].unflatten(-1, (8, 8))
    assert torch.equal(found[:, :, 0].argmax(-1), asked) and torch.equal(found[:, :, 0].sum(-1), torch.ones(50))
    assert torch.allclose(found[:, 0, 7] * 10, answers.float())


def test_a_biased_gradient_does_not_come_out(monkeypatch):
    sound = qkv.reinforce
    monkeypatch.setattr(qkv, "reinforce", lambda choice, rewards, expected: 1.5 * sound(choice, rewards, expected))
    assert estimate(0, replace(SMALL, estimates=2000), Progress())["p"] < 0.001


def test_if_the_moving_baseline_stands_still_it_does_not_come_out(monkeypatch):
    sound = LAB.measure(0, SMALL, Progress())
    monkeypatch.setattr(qkv.MovingBaseline, "update", lambda self, reward: None)
    figures = LAB.measure(0, SMALL, Progress())
    met = {threshold.figure for threshold in LAB.thresholds if threshold.met([sound])}
    missed = {threshold.figure for threshold in LAB.thresholds if not threshold.met([figures])}
    assert "moving_highest" in met & missed
    assert LAB.verdict([figures]) is Verdict.OPEN
