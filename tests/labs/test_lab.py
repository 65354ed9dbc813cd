"""Thresholds and verdicts: what is reached, and what follows from it."""

from dataclasses import replace
from pathlib import Path

import pytest

from qkv import errors
from qkv.labs import NAMES, PAPERS, all_labs, find_lab
from qkv.labs.lab import Both, Claim, Progress, Verdict, at_least, at_most, between, means
from qkv.labs.scaling import LAB
from qkv.labs.table import Table

WHY = Both("because", "因为")


@pytest.mark.parametrize(
    ("threshold", "values", "met"),
    [
        (at_least("x", 2.0, WHY), [1.0, 3.0], True),
        (at_least("x", 2.0, WHY), [1.0, 2.9], False),
        (at_least("x", 2.0, WHY, every=True), [1.9, 3.0], False),
        (at_most("x", 0.0, WHY, every=True), [0.0, 0.0], True),
        (at_most("x", 2.0, WHY), [2.0, 2.1], False),
        (between("x", 1.0, 2.0, WHY), [0.5, 2.0], True),
        (between("x", 1.0, 2.0, WHY), [0.5, 1.4], False),
        (at_least("x", 0.0, WHY), [float("nan"), 1.0], False),
        (at_least("x", 0.0, WHY), [float("inf")], False),
        (at_most("x", 0.0, WHY), [float("-inf")], False),
        (at_most("other", 5.0, WHY), [1.0], False),
        # Half of σ above, then twice of it.
        (at_most("x", 2.0, WHY, spread=True), [2.0 - 0.5, 2.0 + 1.5], True),
        (at_most("x", 2.0, WHY, spread=True), [2.1, 2.2], False),
        (at_most("x", 2.0, WHY, spread=True), [2.1], False),
        (at_most("x", 2.0, WHY, spread=True), [1.0, float("nan")], False),
        (at_most("x", 2.0, WHY, spread=True), [1.0, float("inf")], False),
    ],
)
def test_a_threshold_is_met_or_not(threshold, values, met):
    assert threshold.met([{"x": value} for value in values]) is met


def test_rules_are_written():
    rules = [
        at_least("x", 0.08, WHY),
        at_most("x", 2.0, WHY),
        between("x", -0.1, 0.1, WHY),
        between("x", 0.0, 0.0, WHY),
        at_most("x", 0.0, WHY, spread=True),
    ]
    assert [threshold.rule for threshold in rules] == ["≥ 0.08", "≤ 2", "−0.1 … 0.1", "= 0", "≤ 0 + σ"]


def claim(limit):
    return Claim(WHY, WHY, lambda means: means["x"] > limit)


@pytest.mark.parametrize(
    ("limits", "dispute", "verdict"),
    [
        ((0, 1), None, Verdict.HOLDS),
        ((0, 9), None, Verdict.WITHIN_LIMITS),
        ((9, 9), None, Verdict.FAILS),
        ((0, 9), WHY, Verdict.DISPUTED),
        ((0, 0), WHY, Verdict.HOLDS),
    ],
)
def test_the_verdict_follows_from_the_figures(limits, dispute, verdict):
    lab = replace(LAB, thresholds=(at_least("x", 2.0, WHY),), labels={"x": WHY}, dispute=dispute)
    lab = replace(lab, claims=tuple(map(claim, limits)))
    assert lab.verdict([{"x": 2.0}, {"x": 3.0}]) is verdict
    assert lab.verdict([{"x": 1.0}]) is Verdict.OPEN and lab.verdict([]) is Verdict.OPEN


def test_a_figure_that_is_no_number_leaves_the_verdict_open():
    lab = replace(LAB, thresholds=(), labels={"x": WHY, "y": WHY}, claims=(claim(0),))
    assert lab.verdict([{"x": 1.0, "y": 2.0}]) is Verdict.HOLDS
    assert lab.verdict([{"x": 1.0, "y": float("nan")}]) is lab.verdict([{"x": 1.0}]) is Verdict.OPEN


def test_means_are_of_numbers():
    assert means([{"x": 1, "list": [1, 2]}, {"x": 2.0, "list": []}]) == {"x": 1.5}
    assert means([{"x": 1, "y": 1}, {"x": 2}]) == {"x": 1.5}
    assert means([]) == {}


def test_progress_gives_what_it_was_given():
    told = []

    class Told(Progress):
        def tell(self, doing, done=0, whole=None):
            told.append((doing, done, whole))

    assert list(Told().over(range(2), "it")) == [0, 1]
    assert told == [("it", 0, 2), ("it", 1, 2)]


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(
        errors.ArgumentError, match=r"^lab: NAME must be one of .*; got 'scalling' \(did you mean scaling\?\)"
    ):
        find_lab("scalling")
    with pytest.raises(errors.ArgumentError, match=r"`qkv lab list` names them"):
        find_lab("zzzzz")


def test_the_full_form_of_some_is_a_papers_own():
    for name in NAMES:
        quick, full = find_lab(name), find_lab(name, full=True)
        assert (quick.form, full.form) == ("quick", "full") and quick.size == quick.quick and full.size == full.full
        assert full.question == quick.question and full.name == quick.name
        assert (full.measure is not quick.measure) == full.takes_pairs == (name in PAPERS)
        assert (quick.options, full.options) == ("", " --full") and (quick.key, full.key) == (
            f"{name}.quick",
            f"{name}.full",
        )


def test_pairs_go_to_those_that_take_them():
    table = Table(Path("my pairs.tsv"), "1a2b")
    lab = find_lab("heads", full=True, table=table)
    assert lab.table is lab.size.table is table and find_lab("heads", full=True).table is None
    assert lab.options == " --full --data 'my pairs.tsv'" and lab.key == "heads.full-1a2b"
    assert {lab.name for lab in all_labs(full=True, table=table) if lab.table} == set(PAPERS)
    with pytest.raises(
        errors.ArgumentError,
        match=r"^lab: --data must be given to the full form of alignment, placement, local, heads; got scaling in its "
        r"full form \(it makes its own data\)$",
    ):
        find_lab("scaling", full=True, table=table)


def test_each_name_is_its_labs_own():
    assert [lab.name for lab in all_labs()] == list(NAMES)
    assert len(set(NAMES)) == len(NAMES)
