"""When values are read. What is said about them: test_errors.py."""

import pytest
import torch

from qkv.core.checks import check_lengths, check_values, readable
from qkv.errors import ArgumentError


def test_values_are_read_on_the_cpu_alone() -> None:
    assert readable(torch.ones(1)) and readable(torch.nn.Parameter(torch.ones(1)))
    assert not readable(torch.ones(1, device="meta"))
    mapped: list[bool] = []
    torch.vmap(lambda x: mapped.append(readable(x)) or x)(torch.ones(2))
    assert mapped == [False]
    check_lengths("f", "lengths", torch.ones(1, device="meta", dtype=torch.long), 0, "keys")
    check_values("f", "x", torch.full((1,), torch.nan, device="meta"), "finite")
    with pytest.raises(ArgumentError, match=r"f: lengths must lie in 0\.\.2; got 3 \(there are 2 keys\)"):
        check_lengths("f", "lengths", torch.tensor([1, 3]), 2, "keys")
