"""Micro-batches come in order, and workers change nothing."""

import torch
from tiny import Numbers

from qkv.training.micro_batches import micro_batches


def test_workers_change_nothing():
    plain = list(micro_batches(Numbers(), range(3, 20, 2), 0))
    before = torch.get_rng_state()
    ahead = list(micro_batches(Numbers(), range(3, 20, 2), 2))
    assert torch.equal(before, torch.get_rng_state())
    assert len(plain) == len(ahead) == 9
    for one, other, place in zip(plain, ahead, range(3, 20, 2), strict=True):
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.tokens, Numbers()[place].tokens)
