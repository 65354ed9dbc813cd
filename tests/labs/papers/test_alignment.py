"""The curve by length: a small run, two models that differ in attention, and results that come out or do not."""

from dataclasses import replace

import pytest
from checks import check_lab, same_again

from qkv.labs.papers.alignment import ATTENTIONS, LAB, make
from qkv.labs.translations import PARTS

SMALL = replace(LAB.full, width=8, steps=2, tokens=512, rows=40, asked=40, dates=1)


def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    same_again(LAB, SMALL, figures)
    assert len(figures["lengths"]) == PARTS == len(figures["by_length"]["none"])
    assert figures["halved"] == pytest.approx(figures["none_falls"] / 2 - figures["additive_falls"])


def test_one_of_them_has_no_attention():
    assert [make(name, 20, SMALL).decoder.attention.fixed for name in ATTENTIONS] == [True, False]


@pytest.mark.parametrize(
    ("none", "additive", "comes"),
    [(0.3, 0.02, True), (0.3, -0.02, True), (0.3, 0.2, False), (0.04, 0.0, False), (-0.1, -0.1, False)],
)
def test_results_by_hand(none, additive, comes):
    figures = dict.fromkeys(LAB.labels, 0.5)
    figures |= {"none_falls": none, "additive_falls": additive, "halved": none / 2 - additive}
    assert LAB.came_out([figures]) is comes
