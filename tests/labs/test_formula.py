"""The lab on the formula: a small run, values by hand, and an attention that normalises the wrong axis."""

from dataclasses import replace

import pytest
import torch
from checks import check_lab, same_again

import qkv
from qkv.labs.formula import LAB, by_hand
from qkv.labs.lab import Progress, Verdict

SMALL = replace(LAB.quick, batch=2, queries=5, keys=8, dim=8)


def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    same_again(LAB, SMALL, figures)
    assert LAB.came_out([figures])
    assert figures["warnings"] == 4
    assert figures["weights_alone"] == 1
    assert (figures["outputs"], figures["cross_rows"], figures["cross_columns"]) == (5, 5, 8)


def test_the_loop_by_hand():
    # Scores ln 3 and 0, so weights 3/4 and 1/4.
    query, key = torch.tensor([[[1.0]]]), torch.tensor([[[3.0], [1.0]]]).log()
    assert by_hand(query, key, torch.tensor([[[4.0, 0.0], [0.0, 8.0]]]))[0, 0].tolist() == pytest.approx([3, 2])


def test_normalised_over_the_queries_it_does_not_come_out(monkeypatch):
    def attend(query, key, value, *, mask=None):
        return (query @ key.mT / query.shape[-1] ** 0.5).softmax(-2) @ value

    monkeypatch.setattr(qkv, "attend", attend)
    figures = LAB.measure(0, SMALL, Progress())
    broken = {threshold.figure for threshold in LAB.thresholds if not threshold.met([figures])}
    assert broken >= {"over_budget", "query_others", "padding_qkv"}
    assert LAB.verdict([figures]) is Verdict.OPEN
