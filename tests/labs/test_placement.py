"""The lab on where the norm stands: a small run, slopes and scales by hand."""

from dataclasses import replace

import pytest
import torch
from checks import check_lab, same_again
from torch.nn import functional as F

import qkv
from qkv.labs.placement import LAB, Stack, gradients, scales, slope

SMALL = replace(
    LAB.quick, width=32, heads=2, depths=(2, 4, 8), draws=2, steps=3, warm_up=2, batch=2, text=20_000, tested=1000,
    length=16,
)  # fmt: skip


def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    same_again(LAB, SMALL, figures)
    assert figures["pre_slope"] < figures["post_slope"] - 0.2
    assert figures["pre_over_lower"] >= 1
    assert figures["post_sum"] == pytest.approx(1.5, abs=0.3)
    assert figures["post_growth"] < 2 < figures["pre_growth"]


def test_norms_in_each_others_place_do_not_come_out(monkeypatch):
    placements = {"post": qkv.pre_norm(), "pre": qkv.post_norm()}
    monkeypatch.setattr("qkv.labs.placement.PLACEMENTS", placements)
    # Scales are read at the norm that follows a sum, which stands elsewhere then.
    monkeypatch.setattr("qkv.labs.placement.scales", lambda name, model, tokens: scales(
        {"post": "pre", "pre": "post"}[name], model, tokens
    ))  # fmt: skip
    from qkv.labs.lab import Progress

    figures = LAB.measure(0, SMALL, Progress())
    missed = {threshold.figure for threshold in LAB.thresholds if not threshold.met([figures])}
    assert missed >= {"pre_slope", "pre_over_lower"}


def test_a_slope_by_hand():
    assert slope((1, 4, 16), (8.0, 4.0, 2.0)) == pytest.approx(-0.5)
    assert slope((2, 4, 8), (3.0, 3.0, 3.0)) == pytest.approx(0.0)


def test_scales_are_those_of_the_sums():
    tokens = torch.randint(256, (2, 5))
    torch.manual_seed(0)
    model = Stack(qkv.pre_norm(), 2, SMALL)
    with torch.no_grad():
        first = model.layers[0](model.tokens(tokens), mask=qkv.causal())
        second = model.layers[1](first, mask=qkv.causal())
    sums = [float(first.square().mean()), float(second.square().mean())]
    assert scales("pre", model, tokens) == pytest.approx(sums)
    post = Stack(qkv.post_norm(), 2, SMALL)
    for block in post.blocks():
        torch.nn.init.zeros_(block.feed_forward.contract.weight)
    # Nothing is added to what the first norm made, of variance 1.
    assert scales("post", post, tokens) == pytest.approx([1.0, 1.0], abs=1e-3)


def test_gradients_are_those_of_the_last_matrices():
    model = Stack(qkv.pre_norm(), 2, SMALL)
    batch = torch.randint(256, (2, 5)), torch.randint(256, (2, 5))
    norms = []
    for row in range(2):
        model.zero_grad()
        F.cross_entropy(model(batch[0])[row, -1], batch[1][row, -1]).backward()
        norms.append([float(block.feed_forward.contract.weight.grad.norm()) for block in model.blocks()])
    found = gradients(model, model.losses(*batch)[:, -1])
    assert found == pytest.approx([(first + second) / 2 for first, second in zip(*norms, strict=True)])
