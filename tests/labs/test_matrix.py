"""The lab on the matrix's size: a small run, the exponent by hand, and an attention that stores."""

from dataclasses import replace

import pytest
from checks import check_lab

from qkv.errors import UnsupportedError
from qkv.labs import matrix
from qkv.labs.lab import Progress, Verdict
from qkv.labs.matrix import LAB, measured, slope

SMALL = replace(LAB.quick, stored=(1024, 2048), streamed=(1024, 2048), heads=(1, 2), heads_at=1024)


@pytest.mark.slow
def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    assert figures["stored_slope"] == pytest.approx(2, abs=0.15)
    assert figures["heads_slope"] == pytest.approx(1, abs=0.15)
    # The map of 2,048² alone would take 16 MiB.
    assert figures["fused_most"] < 8
    assert [figures[name] for name in ("self_matrices", "self_rows", "self_columns")] == [4, 6, 6]
    assert [figures[name] for name in ("cross_rows", "cross_columns")] == [6, 10]


def test_the_exponent():
    assert slope([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)
    assert slope([1, 10], [0.0, 0.5]) == 0


def test_an_attention_that_stores_does_not_come_out(monkeypatch):
    for power, verdict in ((1, Verdict.WITHIN_LIMITS), (2, Verdict.OPEN)):
        law = {"stored": 2, "fused": power, "lazy": 1}
        monkeypatch.setattr(matrix, "measured", lambda how, heads, n, law=law: heads * (n / 256) ** law[how])
        assert LAB.verdict([LAB.measure(0, SMALL, Progress())]) is verdict


def test_a_process_that_fails_says_why():
    with pytest.raises(UnsupportedError, match="matrix: none must run at 8 positions; got KeyError: 'none'"):
        measured("none", 1, 8)
