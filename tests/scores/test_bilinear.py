"""Bilinear scores; their numbers are held against a loop in test_scores.py."""

import qkv


def test_parameters_are_drawn() -> None:
    assert all(weight.isfinite().all() and weight.std() > 0 for weight in qkv.Bilinear(4, 6).parameters())
