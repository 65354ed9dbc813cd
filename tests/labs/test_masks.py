"""The lab on masks: a small run, and a causal mask that is shifted by one."""

from dataclasses import replace

import pytest
import torch
from checks import check_lab, same_again

import qkv
import qkv.models.gpt
from qkv.labs.lab import Figures, Progress, Verdict
from qkv.labs.masks import LAB, changes, leak

SMALL = replace(LAB.quick, half=4, steps=4, batch=4, asked=10, masked_from=4000, spans=1000, texts=2)
EXACT = ("leak_causal", "leak_unmasked", "padding_masked", "empty_output", "empty_not_finite", "cross_leak_usual")


def unmet(figures: Figures) -> set[str]:
    return {threshold.figure for threshold in LAB.thresholds if not threshold.met([figures])}


@pytest.mark.slow
def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    same_again(LAB, SMALL, figures)
    assert unmet(figures).isdisjoint(EXACT)
    # Two of eight rows see nothing; the article's mask shows the last source token to the last target position.
    assert figures["textbook_nan"] == pytest.approx(2 / 8)
    # NaN · 0 in each value's gradient, none in the queries' and keys', which are hidden.
    assert figures["textbook_gradient_nan"] == pytest.approx(1 / 3)
    assert figures["cross_reach_article"] == pytest.approx(1 / 4)


def test_what_is_called_a_leak():
    # A running sum sees the past, a running sum from the right the future.
    tokens = torch.tensor([[0, 1, 2]])
    moved = changes(lambda tokens: tokens.cumsum(1)[..., None].float(), tokens, 9)
    assert moved.tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 1]] and leak(moved) == 0
    assert leak(changes(lambda tokens: tokens.flip(1).cumsum(1).flip(1)[..., None].float(), tokens, 9)) == 1


def test_with_the_causal_mask_shifted_by_one_it_does_not_come_out(monkeypatch):
    causal = qkv.causal
    shifted = lambda offset=None: causal(offset=1 + (offset or 0))  # noqa: E731
    monkeypatch.setattr(qkv, "causal", shifted)
    monkeypatch.setattr(qkv.models.gpt, "causal", shifted)
    figures = LAB.measure(0, SMALL, Progress())
    assert unmet(figures) & set(EXACT) == {"leak_causal", "cross_leak_usual", "empty_output"}
    assert LAB.verdict([figures]) is Verdict.OPEN
