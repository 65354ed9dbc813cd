"""Generators come back exactly, and a micro-batch's randomness depends on nothing but its number."""

import json
import random

import numpy as np
import pytest
import torch

from qkv.training.randomness import deterministic, random_states, restore_random_states, seed_all, seed_for


def draws():
    return random.gauss(0, 1), random.random(), np.random.randn(3).tolist(), torch.randn(3).tolist()


def test_states_survive_json():
    seed_all(3)
    draws()
    states = json.loads(json.dumps(random_states()))
    first = draws()
    assert draws() != first
    restore_random_states(states)
    assert draws() == first


def test_seeding_repeats_everything():
    seed_all(1 << 40)
    first = draws()
    seed_all(1 << 40)
    assert draws() == first
    seed_all(7)
    assert draws() != first


def test_a_micro_batch_draws_the_same_whatever_ran_before():
    seed_for(5, 12)
    first = torch.rand(4)
    torch.rand(100)
    seed_for(5, 12)
    assert torch.equal(torch.rand(4), first)
    for seed, micro in ((5, 13), (6, 12), (12, 5)):
        seed_for(seed, micro)
        assert not torch.equal(torch.rand(4), first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpus_state_comes_back():
    states = random_states()
    first = torch.rand(4, device="cuda")
    restore_random_states(states)
    assert torch.equal(torch.rand(4, device="cuda"), first)


def test_deterministic_leaves_torch_as_it_was(as_users_run):
    with deterministic():
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    with deterministic():
        assert torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
