"""The lab on embeddings: a small run, its pairs of sentences, and a BERT that always adds positions."""

from dataclasses import replace

import pytest
import torch
from checks import check_lab, same_again

import qkv
from qkv.labs.embeddings import LAB, MARK, SEP, draw_pairs
from qkv.labs.lab import Figures, Progress, Verdict

SMALL = replace(LAB.quick, letters=20_000, steps=3, batch=8, asked=20, pair_steps=3, pair_batch=8, pairs_asked=50)
EXACT = {"permuted_none", "permuted_learned", "permuted_causal"}


def unmet(figures: Figures) -> set[str]:
    return {threshold.figure for threshold in LAB.thresholds if not threshold.met([figures])}


@pytest.mark.slow
def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    same_again(LAB, SMALL, figures)
    assert not unmet(figures) & EXACT


@pytest.mark.parametrize("sep", [True, False])
def test_the_border_alone_tells_the_sentence(sep):
    tokens, segments, answers = draw_pairs(LAB.quick, torch.Generator().manual_seed(0), 4000, sep)
    mark = (tokens == MARK).long().argmax(1)
    assert ((tokens == MARK).sum(1) == 1).all()
    assert segments.gather(1, mark[:, None])[:, 0].equal(answers)
    if sep:
        assert ((tokens == SEP).sum(1) == 1).all()
        assert (segments.sum(1) + (tokens == SEP).long().argmax(1) + 1 == tokens.shape[1]).all()
    else:
        # The mark's place alone tells nothing.
        for place in mark.unique():
            assert answers[mark == place].float().mean() == pytest.approx(0.5, abs=0.15)


def test_with_positions_that_stay_it_does_not_come_out(monkeypatch):
    monkeypatch.setattr(qkv, "no_positions", lambda: qkv.sinusoidal(SMALL.width))
    figures = LAB.measure(0, SMALL, Progress())
    assert unmet(figures) & EXACT == {"permuted_none"}
    assert LAB.verdict([figures]) is Verdict.OPEN
