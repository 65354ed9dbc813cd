"""The lab on scaling: a small run, and a scaled dot that does not scale."""

from dataclasses import replace

import pytest
from checks import check_lab, same_again

import qkv
from qkv.labs.lab import Progress, Verdict
from qkv.labs.scaling import LAB

SMALL = replace(LAB.quick, draws=4000, rows=50, recall_widths=(64, 256), models=(2, 1), steps=3, batch=8)


def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    same_again(LAB, SMALL, figures)
    assert figures["score_falls"] == pytest.approx(3.1, abs=0.4)
    assert figures["query_rises"] == pytest.approx(5.1, abs=0.7)


def test_without_the_scale_it_does_not_come_out(monkeypatch):
    monkeypatch.setattr(qkv, "scaled_dot", lambda scale=None: qkv.dot())
    figures = LAB.measure(0, SMALL, Progress())
    broken = {threshold.figure for threshold in LAB.thresholds if not threshold.met([figures])}
    assert broken >= {"score_falls", "gain_256"}
    assert LAB.verdict([figures]) is Verdict.OPEN
