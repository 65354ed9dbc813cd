"""The lab on cost: operations counted by hand, crossings, and a small run."""

from dataclasses import replace

import pytest
import torch
from checks import check_lab

from qkv.labs import cost
from qkv.labs.cost import LAB, attend_written_out, crossing, operations, rnn
from qkv.labs.lab import Progress

SMALL = replace(LAB.quick, times=1)


@pytest.mark.slow
def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    counted = {threshold for threshold in LAB.thresholds if not threshold.figure.startswith("rise")}
    assert all(threshold.met([figures]) for threshold in counted)
    assert figures["operations_long"] == pytest.approx(2.5)


def test_operations_by_hand():
    n, d = 6, 4
    assert operations(lambda x: attend_written_out(x, False), n, d) == 4 * n * n * d
    assert operations(lambda x: rnn(x, 1), n, d) == 4 * n * d * d
    assert operations(lambda x: rnn(x, 3), n, d) == 12 * n * d * d


def test_crossings():
    assert crossing([1.0, 2.0, 4.0], [0.25, 0.5, 2.0]) == pytest.approx(2 * 2**0.5)
    # Beyond what was measured, on the last line.
    assert crossing([1.0, 2.0], [0.25, 0.5]) == pytest.approx(4.0)


def test_attention_that_computes_each_pair_twice_does_not_come_out(monkeypatch):
    def twice(x, project):
        return attend_written_out(torch.cat((x, x), 1), project)

    monkeypatch.setattr(cost, "attend_written_out", twice)
    monkeypatch.setattr(cost, "seconds", lambda *_: {"attention": 1.0, "lstm": 1.0, "product": 1.0})
    figures = LAB.measure(0, SMALL, Progress())
    assert "attention_counted" in {threshold.figure for threshold in LAB.thresholds if not threshold.met([figures])}
