import pytest
import torch

import qkv.errors


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_uninitialised_memory_is_nan(dtype):
    assert torch.empty(3, dtype=dtype).isnan().all()
    assert torch.ones(3, dtype=dtype).new_empty(2).isnan().all()
    assert torch.empty_like(torch.ones(2, 2, dtype=dtype)).isnan().all()


def test_a_test_may_run_as_users_do(as_users_run):
    assert not torch.are_deterministic_algorithms_enabled()


def shapes_are_checked() -> bool:
    return hasattr(qkv.errors.must, "__wrapped__")


def test_shapes_are_checked():
    assert shapes_are_checked()


@pytest.mark.compile
def test_shapes_are_not_checked_where_torch_compiles():
    assert not shapes_are_checked()
