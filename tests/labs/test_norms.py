"""The lab on norms: a small run, and a LayerNorm over the wrong axis."""

from dataclasses import replace

import pytest
from checks import check_lab, same_again
from torch import Tensor, nn

from qkv.labs.lab import Figures, Progress, Verdict
from qkv.labs.norms import LAB
from qkv.models import norms

SMALL = replace(
    LAB.quick, width=32, layers=1, steps=3, length=16, batch=8, text=20_000, tested=3000, probed=1024, deep_steps=2
)
OF_LAYER = {"gap_1_layer", "padding_layer", "accumulation_layer", "future_layer"}


class OverPositions(nn.LayerNorm):
    """Normalise each feature over the tokens of its sequence: LayerNorm, but of the axis beside its own."""

    def forward(self, x: Tensor) -> Tensor:
        spread = (x.var(-2, correction=0, keepdim=True) + self.eps).sqrt()
        return (x - x.mean(-2, keepdim=True)) / spread * self.weight + self.bias


def missed(figures: Figures) -> set[str]:
    return {threshold.figure for threshold in LAB.thresholds if not threshold.met([figures])}


def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    same_again(LAB, SMALL, figures)
    assert not missed(figures) & OF_LAYER
    assert figures["restored_batch"] < 1e-5 < figures["restored_layer"]
    assert figures["time_layer"] == pytest.approx(1.0, abs=1e-2)


def test_over_the_wrong_axis_it_does_not_come_out(monkeypatch):
    monkeypatch.setattr(norms.LayerNorm, "__call__", lambda self, width: OverPositions(width, self.epsilon))
    figures = LAB.measure(0, SMALL, Progress())
    assert missed(figures) >= {"padding_layer", "future_layer"}
    assert LAB.verdict([figures]) is Verdict.OPEN
