"""The lab on local attention: a small run, and a window that predicts nothing."""

from dataclasses import replace

import pytest
import torch
from checks import check_lab, same_again

from qkv.labs.lab import Figures, Progress
from qkv.labs.local import LAB, Size, attentions, pairs_computed, slope, train
from qkv.mechanisms.local import LocalPredictive

SMALL = replace(LAB.quick, shortest=2, length=6, symbols=3, reach=1, width=8, steps=2, batch=4, counted=(512, 1024))


def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    same_again(LAB, SMALL, figures)
    assert figures["slope_global"] == 2
    weights = torch.tensor(figures["maps"]["m_reversal"])
    assert torch.equal(weights > 0, (torch.arange(6)[:, None] - torch.arange(6)).abs() <= 1)


def test_pairs_by_hand():
    everywhere, near = pairs_computed(SMALL)
    assert everywhere == [512**2, 1024**2]
    assert all(3 * length < pairs < length**2 / 4 for length, pairs in zip((512, 1024), near, strict=True))
    assert slope((2, 4), (3.0, 24.0)) == pytest.approx(3)


def copy_lost(size: Size) -> Figures:
    right = {name: train(attentions(size)[name], "copy", size, 0, Progress(), "")[0] for name in ("global", "p")}
    return {"copy_lost": right["global"] - right["p"]}


def test_if_the_window_stays_in_the_middle_it_does_not_come_out(monkeypatch):
    small = replace(SMALL, length=8, width=32, steps=240, batch=32, rate=1e-2)
    sound = copy_lost(small)
    monkeypatch.setattr(LocalPredictive, "_centre", lambda self, query, seen: query.new_full(query.shape[:-1], 3.5))
    threshold = next(threshold for threshold in LAB.thresholds if threshold.figure == "copy_lost")
    assert threshold.met([sound]) and not threshold.met([copy_lost(small)])
