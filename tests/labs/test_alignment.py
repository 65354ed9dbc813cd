"""The lab on alignment: a small run, and models that differ in their attention alone."""

from dataclasses import replace

import pytest
import torch
from checks import check_lab, same_again

from qkv.labs.alignment import LAB, Size, attentions, concatenated, make

SMALL = replace(
    LAB.quick,
    shortest=2,
    longest=4,
    beyond=6,
    tried=(4, 6),
    width=8,
    wider=10,
    steps=2,
    batch=4,
    dates=20,
    date_steps=2,
)


def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    same_again(LAB, SMALL, figures)
    for row in (*figures["copy_weights"], *figures["date_weights"]):
        assert sum(row) == pytest.approx(1, abs=0.02)
    assert len(figures["date_weights"]) == len(figures["iso"]) == 10


def test_concatenation_is_a_sum():
    torch.manual_seed(0)
    assert concatenated(Size()) < 1e-5


def test_all_have_as_many_parameters_and_one_has_no_attention():
    counts = {}
    for name in attentions(LAB.quick):
        model = make(name, 9, LAB.quick)
        counts[name] = sum(parameter.numel() for parameter in model.parameters())
        assert model.decoder.attention.fixed == (name == "none")
    assert max(counts.values()) < 1.001 * min(counts.values())


def test_if_attention_is_none_it_does_not_come_out():
    figures = dict.fromkeys(LAB.labels, 0.9) | {"none": 0.0}
    assert LAB.came_out([figures])
    for changed in ({"none": 0.9}, {"additive": 0.0}, {"general": 0.0}):
        assert not LAB.came_out([figures | changed])
