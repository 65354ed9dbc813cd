"""The lab on cost: a small run, cells against torch's, counts by hand, crossings."""

from dataclasses import replace

import pytest
import torch
from checks import check_lab
from torch import nn

from qkv.labs.cost import FORMULAS, LAB, WRITTEN_OUT, Gru, Lstm, Plain, crossing, operations

SMALL = replace(LAB.quick, times=1, multiples=(1, 2), counted=4)


def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    assert figures["count_error"] == 0.0
    assert figures["core_power"] == 2.0
    assert (figures["rnn_power_n"], figures["rnn_power_d"]) == (1.0, 2.0)
    assert figures["operations_d"] == 12 / 16 and figures["operations_8d"] == 40 / 16


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_the_counter_agrees_with_the_formula(name):
    assert operations(name, 3, 8) == FORMULAS[name](3, 8)
    assert operations(name, 9, 4) == FORMULAS[name](9, 4)


@pytest.mark.parametrize(("ours", "theirs"), [(Plain, nn.RNN), (Gru, nn.GRU), (Lstm, nn.LSTM)])
def test_a_cell_written_out_equals_torchs(ours, theirs):
    ours, theirs = ours(5), theirs(5, 5, batch_first=True)
    with torch.no_grad():
        ours.read.weight.copy_(theirs.weight_ih_l0)
        ours.read.bias.copy_(theirs.bias_ih_l0)
        ours.keep.weight.copy_(theirs.weight_hh_l0)
        ours.keep.bias.copy_(theirs.bias_hh_l0)
    x = torch.randn(7, 5)
    torch.testing.assert_close(ours(x), theirs(x[None])[0][0], rtol=0, atol=1e-6)


def test_crossings_by_hand():
    assert crossing([1, 2, 4], [0.5, 0.5, 2.0]) == pytest.approx(2 * 2**0.5)
    assert crossing([1, 2, 4], [1.5, 2.0, 3.0]) == 1
    assert crossing([1, 2, 4], [0.1, 0.2, 0.3]) == 4
