"""chrF by hand."""

import pytest

from qkv.labs.chrf import chrf


def test_the_same_is_1_and_another_is_0():
    assert chrf(["one date", "好"], ["one date", "好"]) == 1
    assert chrf(["abc"], ["xyz"]) == chrf([""], ["xyz"]) == chrf([], []) == 0


def test_by_hand():
    # Of one letter: 2 of 2 made, 2 of 3 wanted; of two: 1 of 1, 1 of 2; of three none is made.
    precision, recall = 1, (2 / 3 + 1 / 2) / 2
    assert chrf(["ab"], ["abc"]) == pytest.approx(5 * precision * recall / (4 * precision + recall))


def test_a_piece_counts_as_often_as_it_is_wanted():
    # aaa for a: one letter of three.
    assert chrf(["aaa"], ["a"]) == pytest.approx(5 * (1 / 3) / (4 / 3 + 1))


def test_pieces_of_all_texts_count_together_and_white_space_does_not():
    assert chrf(["a b", "c"], ["ab", "c"]) == 1
    # 3 of 4 letters either way, though one text is wholly wrong; of the longer pieces all that are made.
    assert chrf(["abc", "x"], ["abc", "y"]) == pytest.approx((3 / 4 + 1 + 1) / 3)
