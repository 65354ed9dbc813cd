"""Dot products against a double loop in plain Python."""

import math

import torch
from every_pair import dot, loop, scores

import qkv


def test_dot_scores() -> None:
    torch.testing.assert_close(scores(qkv.dot()), loop(lambda q, k, j: dot(q, k)))
    torch.testing.assert_close(scores(None), loop(lambda q, k, j: dot(q, k) / math.sqrt(3)))
    torch.testing.assert_close(scores(qkv.scaled_dot(scale=-2.0)), loop(lambda q, k, j: -2 * dot(q, k)))
    assert (scores(qkv.scaled_dot(scale=0.0)) == 0).all()
