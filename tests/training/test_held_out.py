"""Pairs in two parts."""

from qkv.training.held_out import PairsPart

PAIRS = [(f"source {number // 2}", f"target {number}") for number in range(400)]


def test_no_sentence_is_on_both_sides():
    kept, held = (list(PairsPart(PAIRS, side)) for side in (False, True))
    assert kept and held and len(kept) + len(held) == len(PAIRS)
    for column in (0, 1):
        assert not {pair[column] for pair in kept} & {pair[column] for pair in held}
    assert list(PairsPart(PAIRS, True)) == held


def test_a_target_that_is_held_out_is_not_learned_from_under_another_source():
    held = next(iter(PairsPart(PAIRS, True)))
    learned = next(iter(PairsPart(PAIRS, False)))
    both = [*PAIRS, (learned[0], held[1])]
    assert held[1] not in {target for _, target in PairsPart(both, False)}


def test_a_pair_comes_once():
    assert sorted(PairsPart(PAIRS * 3, False)) == sorted(PairsPart(PAIRS, False))
