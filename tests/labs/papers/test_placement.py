"""The sweep of warm-ups: a small run, one that runs away, and results that come out or do not."""

import math
from dataclasses import replace

import pytest
from checks import check_lab

from qkv.labs.lab import Progress
from qkv.labs.papers.placement import LAB, NAMES, WARM_UPS

SMALL = replace(
    LAB.full, width=16, layers=1, steps=3, tokens=512, rows=40, asked=40, dates=1, dropout=0.0, warm_ups=(0, 1, 2)
)


def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    for name in NAMES:
        warmed = min(figures[f"{name}_short"], figures[f"{name}_long"])
        assert figures[f"{name}_needs"] == pytest.approx(figures[f"{name}_none"] - warmed)
        # The first step's loss is that of the untrained model, whatever the warm-up.
        assert len({figures["curves"][f"{name}_{how}"][0][1] for how in WARM_UPS}) == 1


def test_a_training_that_runs_away_counts_as_a_guess():
    figures = LAB.measure(0, replace(SMALL, rate=1e30), Progress())
    assert all(math.isfinite(figures[name]) for name in LAB.labels)
    assert figures["post_none"] == pytest.approx(figures["pre_none"]) and figures["post_none_chrf"] == 0
    assert not LAB.came_out([figures])


@pytest.mark.parametrize(
    ("post", "pre", "comes"), [(1.5, -0.1, True), (0.4, -0.1, False), (1.5, 0.2, False), (0.0, 0.0, False)]
)
def test_results_by_hand(post, pre, comes):
    figures = dict.fromkeys(LAB.labels, 3.0) | {"post_needs": post, "pre_needs": pre}
    assert LAB.came_out([figures, figures]) is comes


def test_the_faster_one_has_the_lower_course():
    means = {f"{name}_{how}_course": 3.0 for name in NAMES for how in WARM_UPS}
    assert LAB.claims[1].holds(means | {"pre_short_course": 2.0})
    assert not LAB.claims[1].holds(means | {"post_short_course": 2.0})
