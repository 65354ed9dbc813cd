"""The lab on BERT and GPT: a small run, and a GPT whose mask is shifted by one."""

from dataclasses import replace

import pytest
from checks import check_lab, same_again

import qkv
import qkv.models.gpt
from qkv.labs.bert_gpt import LAB, make
from qkv.labs.lab import Figures, Progress, Verdict

SMALL = replace(LAB.quick, half=4, symbols=12, steps=3, batch=8, asked=50)
EXACT = {"bert_pairs", "gpt_future", "gpt_past", "source_off", "source_on"}


def unmet(figures: Figures) -> set[str]:
    return {threshold.figure for threshold in LAB.thresholds if not threshold.met([figures])}


@pytest.mark.slow
def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    same_again(LAB, SMALL, figures)
    assert not unmet(figures) & EXACT
    assert figures["gpt_targets"] == pytest.approx(7 / 8)
    assert 0.05 < figures["bert_targets"] < 0.3


def test_both_begin_with_the_same_layers():
    bert, gpt = make(SMALL)
    pairs = zip(bert.layers.parameters(), gpt.layers.parameters(), strict=True)
    assert all(ours.equal(theirs) for ours, theirs in pairs)


def test_with_the_causal_mask_shifted_by_one_it_does_not_come_out(monkeypatch):
    causal = qkv.causal
    monkeypatch.setattr(qkv.models.gpt, "causal", lambda offset=None: causal(offset=1 + (offset or 0)))
    figures = LAB.measure(0, SMALL, Progress())
    assert unmet(figures) & EXACT == {"gpt_future"}
    assert LAB.verdict([figures]) is Verdict.OPEN
