"""A model that runs too long is stopped between two operations; one that does not is left as it is."""

import time

import pytest
import torch

import qkv
from qkv.lens.serve.deadline import Deadline, LateError


def test_what_takes_too_long_is_stopped():
    begun = time.monotonic()
    text = r"^the model took more than 0\.05 seconds: try a shorter text$"
    with pytest.raises(LateError, match=text), Deadline(0.05):
        for _ in range(100_000):
            torch.ones(10).add(1)
            time.sleep(0.001)
    assert time.monotonic() - begun < 1
    torch.ones(1).add(1)


def test_in_time_nothing_changes():
    query = torch.randn(1, 2, 300, 16)
    with Deadline(60.0):
        inside = qkv.attend(query, query, query, mask=qkv.causal() & qkv.window(20))
    assert torch.equal(inside, qkv.attend(query, query, query, mask=qkv.causal() & qkv.window(20)))
